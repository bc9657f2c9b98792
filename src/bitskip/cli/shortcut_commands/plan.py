"""`bitskip shortcuts plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import ClassesOption, JsonOption, SizeOption
from bitskip.cli.shortcut_commands.network import ModelArgument, load_network
from bitskip.cli.shortcut_commands.output import print_gains


def plan(
    model: ModelArgument,
    keep: Annotated[
        str | None,
        typer.Option(
            help="all, middle (first and last stage lose theirs), none, how many to keep, or ids with "
            "commas.  [default: middle]",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="Scores from `bitskip shortcuts score`.", show_default=False)
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(help="Points that the single drops may sum up to, e.g. 1.5.", show_default=False),
    ] = None,
    target_peak: Annotated[
        int | None,
        typer.Option(help="Bytes of activations for one picture to come down to.", show_default=False),
    ] = None,
    executor: Annotated[str, typer.Option(help="Whose peak: naive or in_place.")] = "naive",
    shorten: Annotated[
        bool | None,
        typer.Option(
            "--shorten/--no-shorten",
            help="Make one skip over a block one per convolution instead of removing it, where shapes allow. "
            " [default: around 1-bit activations only]",
            show_default=False,
        ),
    ] = None,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    out: Annotated[str, typer.Option(help="JSON file of the plan.")] = "plan.json",
    as_json: JsonOption = False,
) -> None:
    """Choose which shortcuts go, and write that down.

    Examples:

    - `bitskip shortcuts plan resnet14-full-all --keep middle`
    - `bitskip shortcuts plan torchvision:resnet50 --target-peak 5000000 --executor in_place`
    - `bitskip shortcuts plan runs/teacher --scores scores.json --max-accuracy-drop 2`
    - `bitskip shortcuts plan torchvision:resnet18 --keep layer2.0,layer3.0`
    """
    from bitskip.cli.shortcut_commands.detectors import analysis_of, gains_of
    from bitskip.pruning import load_scores, plan_shortcuts, remove_shortcuts

    loaded = load_network(model, input_size, classes)
    analysis = analysis_of(loaded)
    chosen = plan_shortcuts(
        loaded.model,
        analysis,
        _kept(keep),
        scores=None if scores is None else load_scores(Path(scores), loaded.model),
        max_accuracy_drop=None if max_accuracy_drop is None else max_accuracy_drop / 100,
        target_peak=target_peak,
        executor=executor,
        shorten=shorten,
    )
    chosen.save(Path(out))
    gains = gains_of(loaded, remove_shortcuts(loaded.model, chosen))
    if as_json:
        values = chosen.to_dict() | {"gains": [gain.to_dict() for gain in gains]}
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import print_table

    typer.echo(f"{loaded.name}, {chosen.rule}")
    print_table(
        "Plan",
        ["id", "action"],
        [[entry.id, entry.action] for entry in chosen.shortcuts],
        left_columns=(0, 1),
        notes=[f"note: {note}" for note in chosen.notes],
    )
    print_gains("What it changes", gains)
    typer.echo(f"written to {out}")


def _kept(keep: str | None) -> str | int | list[str] | None:
    from bitskip.pruning.choose import PRESETS

    if keep is None or keep in PRESETS:
        return keep
    return int(keep) if keep.isdigit() else [name.strip() for name in keep.split(",")]
