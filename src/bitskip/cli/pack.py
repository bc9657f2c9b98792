"""`bitskip pack`: a trained run to one `*.bitskip` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import (
    ClassesOption,
    DataOption,
    JsonOption,
    MeanOption,
    StdOption,
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
    from bitskip.cli.lowering import lower_source
    from bitskip.runtime.summary import summarise

    program = lower_source(
        run,
        activations=activations,
        dense=dense,
        calibration=calibration,
        data=data,
        weights=weights,
        input_size=input_size,
        classes=classes,
        mean=mean,
        std=std,
    )
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
