"""`bitskip shortcuts recover`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
    epoch_line,
    say,
)
from bitskip.cli.shortcut_commands.network import ModelArgument, PlanArgument, batches_of, load_network
from bitskip.cli.shortcut_commands.output import print_gains


def recover(
    model: ModelArgument,
    plan_file: PlanArgument,
    out: Annotated[str, typer.Option(help="Folder for the state, the weights, the plan and a report.")],
    epochs: Annotated[int, typer.Option(help="Epochs in all.")] = 20,
    schedule: Annotated[
        str, typer.Option(help="gradual (one gate after another), together, or one_shot.")
    ] = "gradual",
    interval: Annotated[
        float, typer.Option(help="gradual: epochs from one gate to the next, or a part of one.")
    ] = 1,
    fade: Annotated[float, typer.Option(help="Epochs that a gate takes to close.")] = 1.0,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="gradual: points of held-out accuracy below the teacher at which a gate reopens.",
            show_default=False,
        ),
    ] = None,
    teacher_weight: Annotated[
        float, typer.Option(help="Share of the distance to the teacher's outputs in the loss, 0..1.")
    ] = 0.35,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Of order and augmentation.")] = 0,
    precision: Annotated[
        str, typer.Option(help="Arithmetic of training: 32-true or bf16-mixed.")
    ] = "32-true",
    data: DataOption = None,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    accelerator: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train while the plan's shortcuts fade out, then remove them.

    Interrupted, the same command goes on from its last epoch (a detector: from its last minute).

    Examples:

    - `bitskip shortcuts recover runs/teacher plan.json --out runs/pruned --epochs 30 --interval 3 --fade 3`
    - `bitskip shortcuts recover runs/teacher plan.json --out runs/pruned --max-accuracy-drop 1`
    """
    from bitskip.cli.shortcut_commands.detectors import gains_of, recover_loaded_detector
    from bitskip.errors import PruningError
    from bitskip.pruning import Plan, RecoverySettings
    from bitskip.sources.pruned import recover_loaded, write_pruned

    loaded = load_network(model, input_size, classes, weights, mean, std, accelerator)
    if not 0 <= teacher_weight <= 1:
        raise PruningError(f"--teacher-weight is {teacher_weight:g}, expected a share, 0 to 1")
    facts: dict[str, Any]
    before: float | None
    after: float | None
    if loaded.task == "detection":
        if (schedule, interval, fade, max_accuracy_drop, seed) != ("gradual", 1, 1.0, None, 0):
            raise PruningError(
                "a detector's gates close one after another over the first third of its training; leave out "
                "--schedule, --interval, --fade, --max-accuracy-drop and --seed"
            )
        carried_out = Plan.load(Path(plan_file))
        recovered, precisions = recover_loaded_detector(
            loaded,
            carried_out,
            data,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            teacher_weight=teacher_weight,
            mixed=precision == "bf16-mixed",
            folder=Path(out),
        )
        facts = {"held_out_ap50": precisions}
        measure, before, after = "AP50", precisions["before"], precisions["pruned"]
    else:
        settings = RecoverySettings(
            schedule=schedule,
            epochs=epochs,
            interval=interval,
            fade=fade,
            learning_rate=learning_rate,
            weight_decay=0.0,
            ce_weight=1 - teacher_weight,
            mse_weight=teacher_weight,
            max_accuracy_drop=None if max_accuracy_drop is None else max_accuracy_drop / 100,
            precision=precision,
        )

        def show(entry: dict[str, Any]) -> None:
            say(epoch_line(entry | {"validation_accuracy": entry["accuracy"]}, epochs))
            if "rolled_back" in entry:
                say(f"  '{entry['rolled_back']}' stays: without it the accuracy fell too far")

        result = recover_loaded(
            loaded,
            Plan.load(Path(plan_file)),
            batches_of(loaded, data, batch_size),
            settings,
            seed=seed,
            folder=Path(out),
            on_epoch=show,
        )
        recovered, carried_out = result.model, result.plan
        facts = {
            "held_out_accuracy": {"teacher": result.teacher_measure, "pruned": result.measure},
            "rolled_back": list(result.rolled_back),
            "history": result.history,
        }
        measure, before, after = "accuracy", result.teacher_measure, result.measure
    gains = gains_of(loaded, recovered)
    report = {"model": loaded.name, "gains": [gain.to_dict() for gain in gains]} | facts
    write_pruned(Path(out), loaded, recovered, carried_out, report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    print_gains(f"{loaded.name}: {carried_out.rule}", gains)
    typer.echo(f"held-out {measure} {after:.2%}, before {before:.2%}; written to {out}")
