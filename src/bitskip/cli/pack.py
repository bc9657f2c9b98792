"""`bitskip pack`: a trained run to one `*.bitskip` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.cli.options import (
    ClassesOption,
    DataOption,
    JsonOption,
    MeanOption,
    StdOption,
    interactive,
    path_or_none,
    read_images,
    read_normalisation,
    say,
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pack")(pack)


def pack(
    run: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a finished run, pruned or not, or its weights.safetensors; or "
            "`torchvision:NAME`, `timm:NAME`, `baseline:NAME` or `FILE.py:CALLABLE` with --weights.",
        ),
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
    weights: Annotated[
        str | None,
        typer.Option(
            help="State dict of a network that is not bitskip's own: .safetensors, or .pt of tensors only.",
            show_default=False,
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            help="Height = width of a torchvision or timm model's pictures.  [default: the model's]",
            show_default=False,
        ),
    ] = None,
    classes: ClassesOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fold a trained network into one file that runs without torch.

    1-bit weights take 1 bit each, batch norms fold into the layers before them, and signs after batch norms
    become integer comparisons. With int8 activations, ranges come from training pictures; `bitskip eval` says
    what that costs in accuracy. Other networks than bitskip's pack if they are made of convolutions and
    linear layers, batch norms, ReLU, PReLU, additions and pools (docs/packing.md).

    Examples:

    - `bitskip pack runs/resnet14-hybrid-none-paper -o hybrid.bitskip`
    - `bitskip pack runs/my-run --activations int8 --dense int8 --data PICTURES -o small.bitskip`
    - `bitskip pack torchvision:resnet18 --weights resnet18.safetensors -o resnet18.bitskip`
    - `bitskip pack torchvision:resnet18 --weights three_classes.pt --input-size 64 -o mine.bitskip`
    - `bitskip inspect hybrid.bitskip`
    """
    from bitskip.errors import LoweringError
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from bitskip.lower import lower
    from bitskip.lower.run import calibration_pictures, class_names, lower_run
    from bitskip.runtime.summary import summarise
    from bitskip.sources.load import IMAGENET, load_trained
    from bitskip.training.run import weights_metadata

    if activations == "int8" and calibration < 1:
        raise LoweringError(f"--calibration is {calibration}, expected at least 1 picture")
    loaded = load_trained(
        run,
        input_size=input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    for note in loaded.notes:
        say(f"note: {note}")
    options: dict[str, Any] = {"activations": activations, "dense": dense}
    if activations == "int8":
        images = read_images(data, loaded.input_shape[1])
        trained_on = () if loaded.run is None else class_names(weights_metadata(loaded.run))
        options["calibration"] = calibration_pictures(images, calibration, trained_on)
        count = len(options["calibration"])
        if count < calibration:
            say(f"note: {images.name} has only {count} training pictures for calibration")
        if interactive():
            say(f"calibrating on {count} pictures of {images.name}")
    options["input_shape"] = loaded.input_shape
    if loaded.from_library:
        options["name"] = loaded.short_name
        known = loaded.normalisation
        if known is None:
            say(f"note: nothing says how pictures of {loaded.name} were normalised; ImageNet's is taken")
            known = IMAGENET
        program = lower(loaded.model, known.mean, known.std, **options)
    else:
        program = lower_run(Path(run), model=loaded.model, **options)
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
