"""`bitskip import`: an ONNX file as a packed model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import JsonOption, MeanOption, SharedScalesOption, StdOption, read_normalisation, say
from bitskip.cli.outputs import refuse_name_of_packed


def import_onnx(
    file: Annotated[Path, typer.Argument(metavar="NET.onnx", help="An ONNX file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The packed file to write.")],
    input_size: Annotated[
        int | None, typer.Option(help="Height = width of the pictures, where the file leaves them free.")
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    shared_scales: SharedScalesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn an ONNX file into a packed model: what bitskip, torch.onnx and torchvision write.

    Files with int8 activations (QDQ) become int8 with their own scales; weights of one magnitude a filter
    take one bit each. What a packed model cannot do is named node by node, and nothing is written.

    Examples:

    - `bitskip import resnet18.onnx -o resnet18.bitskip`
    """
    from bitskip.lower.from_onnx import import_onnx as read
    from bitskip.runtime.summary import summarise
    from bitskip.terminal import byte_size

    refuse_name_of_packed(out)
    known = read_normalisation(mean, std)
    program, notes = read(
        file,
        mean=None if known is None else known.mean,
        std=None if known is None else known.std,
        input_size=input_size,
        shared_scales=shared_scales,
    )
    program.save(out)
    for note in notes:
        say(f"note: {note}")
    values = summarise(program, out.stat().st_size)
    if as_json:
        typer.echo(json.dumps({"path": str(out), **values}, indent=2))
        return
    typer.echo(f"{out}: {byte_size(values['file_bytes'])}, activations {program.activations}")
