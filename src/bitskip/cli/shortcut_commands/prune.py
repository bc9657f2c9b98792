"""`bitskip shortcuts prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import (
    ClassesOption,
    DataOption,
    DeviceOption,
    JsonOption,
    MeanOption,
    SizeOption,
    StdOption,
    WeightsOption,
)
from bitskip.cli.shortcut_commands.network import ModelArgument, PlanArgument, batches_of, load_network
from bitskip.cli.shortcut_commands.output import print_gains


def prune(
    model: ModelArgument,
    plan_file: PlanArgument,
    out: Annotated[str, typer.Option(help="Folder for the weights, the plan and a report.")],
    data: DataOption = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Refit each block and batch norm on training pictures (no training)."),
    ] = False,
    batches: Annotated[int, typer.Option(help="Batches to refit on, with --refit.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch, with --refit.")] = 100,
    timed: Annotated[
        bool, typer.Option("--timed", help="Also time a forward pass before and after.")
    ] = False,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    accelerator: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Carry out a plan: additions and dead projections go, outputs equal those of closed gates.

    Without `--refit` the weights stay as they are and accuracy falls until the network is trained on
    (`bitskip.pruning.recover`, docs/shortcuts.md). A pruned bitskip run stays one: every command takes it,
    unless shortcuts were shortened; then `bitskip pack` does.

    Examples:

    - `bitskip shortcuts prune runs/teacher plan.json --out runs/pruned --refit`
    - `bitskip shortcuts prune torchvision:resnet50 plan.json --out pruned --weights resnet50.safetensors`
    """
    from bitskip.cli.shortcut_commands.detectors import gains_of
    from bitskip.errors import PruningError
    from bitskip.pruning import Plan
    from bitskip.sources.pruned import prune_loaded, write_pruned

    loaded = load_network(model, input_size, classes, weights, mean, std, accelerator)
    chosen = Plan.load(Path(plan_file))
    if refit and loaded.task == "detection":
        raise PruningError("--refit is for classifiers; train a detector on with `bitskip shortcuts recover`")
    sets = batches_of(loaded, data, batch_size) if refit else None
    pruned, measures = prune_loaded(loaded, chosen, sets, batches)
    gains = gains_of(loaded, pruned, timed=timed)
    report = {
        "model": loaded.name,
        "gains": [gain.to_dict() for gain in gains],
        "held_out_accuracy": measures,
    }
    write_pruned(Path(out), loaded, pruned, chosen, report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    print_gains(f"{loaded.name}: {chosen.rule}", gains)
    for name, value in measures.items():
        typer.echo(f"held-out accuracy, {name}: {value:.2%}")
    typer.echo(f"written to {out}")
