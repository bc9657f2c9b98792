"""`bitskip inspect`: what is in a packed file."""

from __future__ import annotations

import json

import typer

from bitskip.cli.options import JsonOption, WideOption
from bitskip.cli.packed import PackedArgument


def inspect(
    file: PackedArgument,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """List a packed model's layers with their precision and bytes, and the memory that running it takes.

    Examples:

    - `bitskip inspect hybrid.bitskip`
    - `bitskip inspect hybrid.bitskip --json`
    """
    from bitskip.program import Program
    from bitskip.runtime.summary import summarise
    from bitskip.zoo import packed_path

    path = packed_path(file)
    program = Program.load(path)
    values = summarise(program, path.stat().st_size)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import byte_size, number, print_table

    rows = [
        [
            layer["name"],
            layer["op"],
            layer["precision"] or "",
            byte_size(layer["bytes"]),
            number(layer["macs"]) if layer["macs"] else "",
            "x".join(map(str, layer["output_shape"])),
            layer["input"],
            " + ".join(layer["output"]),
        ]
        for layer in values["layers"]
    ]
    pictures = values["calibration_images"]
    named = len(values["inputs"]) > 1
    inputs = " and ".join(
        f"{name} " * named + "x".join(map(str, shape)) for name, shape in values["inputs"].items()
    )
    notes = [
        f"file {byte_size(values['file_bytes'])}, of which constants {byte_size(values['constant_bytes'])}",
        f"peak activations {byte_size(values['peak_activation_bytes'])} for one picture",
        f"activations {values['activations']}, dense layers {values['dense']}"
        + (f", calibrated on {pictures} pictures" if pictures else ""),
    ]
    print_table(
        f"{values['name']}, input {inputs}, {values['classes']} classes",
        ["layer", "op", "precision", "bytes", "MACs", "output", "reads", "writes"],
        rows,
        left_columns=(0, 1, 2, 6, 7),
        wide=wide,
        notes=notes,
    )
