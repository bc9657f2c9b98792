"""`bitskip pack`: a trained run to one `*.bitskip` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import DataOption, JsonOption, interactive, read_images, say


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pack")(pack)


def pack(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a finished run, or its weights.safetensors.")
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="File to write.  [default: MODEL.bitskip]", show_default=False),
    ] = None,
    activations: Annotated[
        str, typer.Option(help="What `w1` and `int8` layers read: fp32 (as in training; `w1` only) or int8.")
    ] = "fp32",
    dense: Annotated[
        str, typer.Option(help="What becomes of `fp32` layers: fp32 keeps them, int8 quantizes them.")
    ] = "fp32",
    calibration: Annotated[
        int, typer.Option(help="Training pictures that set the int8 ranges, from --data.")
    ] = 512,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fold a trained network into one file that runs without torch.

    1-bit weights take 1 bit each, batch norms fold into the layers before them, and signs after batch norms
    become integer comparisons. With int8 activations, ranges come from training pictures; `bitskip eval` says
    what that costs in accuracy.

    Examples:

    - `bitskip pack runs/resnet14-hybrid-none-paper -o hybrid.bitskip`
    - `bitskip pack runs/my-run --activations int8 --dense int8 --calibration 1024 -o small.bitskip`
    - `bitskip inspect hybrid.bitskip`
    """
    from bitskip.errors import LoweringError
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from bitskip.lower.run import calibration_pictures, lower_run
    from bitskip.runtime.summary import summarise
    from bitskip.training.run import load_run

    pictures = None
    if activations == "int8":
        if calibration < 1:
            raise LoweringError(f"--calibration is {calibration}, expected at least 1 picture")
        spec, _ = load_run(Path(run))
        images = read_images(data, spec.input_size)
        pictures = calibration_pictures(images, calibration)
        if len(pictures) < calibration:
            say(f"note: {images.name} has only {len(pictures)} training pictures for calibration")
        if interactive():
            say(f"calibrating on {len(pictures)} pictures of {images.name}")
    program = lower_run(Path(run), activations=activations, dense=dense, calibration=pictures)
    path = Path(out or f"{program.name}.bitskip")
    program.save(path)
    values = summarise(program, path.stat().st_size)
    if activations == "int8" and not program.calibration_images:
        say("note: no layer reads int8 activations, so the file is the same as with fp32")
    if as_json:
        typer.echo(json.dumps({"path": str(path), **values}, indent=2))
        return
    from bitskip.terminal import byte_size

    typer.echo(
        f"{path}: {byte_size(values['file_bytes'])}, peak activations "
        f"{byte_size(values['peak_activation_bytes'])}, activations {activations}, dense {dense}"
    )
