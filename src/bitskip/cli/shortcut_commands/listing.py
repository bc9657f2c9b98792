"""`bitskip shortcuts list`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from bitskip.cli.options import ClassesOption, JsonOption, SizeOption, WideOption
from bitskip.cli.shortcut_commands.network import ModelArgument, load_network
from bitskip.cli.shortcut_commands.output import print_gains

if TYPE_CHECKING:
    from bitskip.pruning import Gain


def list_(
    model: ModelArgument,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """List a model's shortcuts and what removing them all would free.

    Examples:

    - `bitskip shortcuts list resnet14-full-all`
    - `bitskip shortcuts list torchvision:resnet50 --json`
    - `bitskip shortcuts list timm:resnet18d --input-size 64`
    """
    from bitskip.cli.shortcut_commands.detectors import analysis_of, gains_of
    from bitskip.pruning import plan_shortcuts, remove_shortcuts

    loaded = load_network(model, input_size, classes)
    analysis = analysis_of(loaded)
    gains: list[Gain] = []
    if analysis.shortcuts:
        nothing_left = remove_shortcuts(loaded.model, plan_shortcuts(loaded.model, analysis, "none"))
        gains = gains_of(loaded, nothing_left)
    if as_json:
        values = {
            "model": loaded.name,
            "input_shape": list(loaded.input_shape),
            "shortcuts": [shortcut.to_dict() for shortcut in analysis.shortcuts],
            "without_all": [gain.to_dict() for gain in gains],
            "notes": list(analysis.notes),
        }
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import byte_size, number, print_table

    if not analysis.shortcuts:
        typer.echo(f"{loaded.name} has no shortcuts.")
        for note in analysis.notes:
            typer.echo(f"note: {note}")
        return
    print_table(
        f"Shortcuts of {loaded.name}, input {'x'.join(map(str, loaded.input_shape))}",
        ["id", "kind", "memory", "at its block's peak", "parameters", "shape", "stage", "traffic"],
        [
            [
                s.id, s.kind, byte_size(s.bytes), byte_size(s.peak_bytes), number(s.parameters),
                "x".join(map(str, s.shape)), number(s.stage), byte_size(s.traffic_bytes),
            ]
            for s in analysis.shortcuts
        ],
        left_columns=(0, 1),
        wide=wide,
        notes=[f"note: {note}" for note in analysis.notes],
    )  # fmt: skip
    print_gains("With all of them removed", gains)
