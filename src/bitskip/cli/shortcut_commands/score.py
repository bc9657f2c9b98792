"""`bitskip shortcuts score`."""

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
    say,
)
from bitskip.cli.shortcut_commands.network import ModelArgument, batches_of, load_network
from bitskip.cli.shortcut_commands.output import progress_bar

_FEWEST_BATCHES = 10  # that scores are judged on, if there are as many pictures


def score(
    model: ModelArgument,
    out: Annotated[
        str, typer.Option(help="JSON file of the scores; scoring goes on from it.")
    ] = "scores.json",
    data: DataOption = None,
    batches: Annotated[int, typer.Option(help="Batches to judge on, at most.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch.")] = 100,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    accelerator: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Close each shortcut alone, re-estimate batch norm, and measure what changes.

    Judged on pictures held out of the training set, never on test pictures. Interrupted, the same command
    goes on where it stopped.

    Examples:

    - `bitskip shortcuts score runs/resnet14-full-all-paper --out scores.json`
    - `bitskip shortcuts score runs/small --data mini --json`
    """
    import dataclasses

    from bitskip.cli.shortcut_commands.detectors import analysis_of, score_loaded
    from bitskip.pruning import score_shortcuts

    loaded = load_network(model, input_size, classes, weights, mean, std, accelerator)
    if not loaded.trained:
        say(f"note: {loaded.name} has random weights, so its scores mean little")
    if loaded.task == "detection":
        with progress_bar("scoring") as show:
            scores = score_loaded(loaded, data, batches, batch_size, Path(out), show)
    else:
        calibration, held_out = batches_of(loaded, data, batch_size)
        # An interval needs several batches: of few pictures, smaller ones.
        held_out.batch_size = min(batch_size, max(1, len(held_out.labels) // _FEWEST_BATCHES))
        analysis = analysis_of(loaded)
        with progress_bar("scoring") as show:
            scores = score_shortcuts(
                loaded.model,
                analysis.shortcuts,
                held_out,
                calibration=calibration,
                # The pictures asked for, in smaller batches; a number below 1 is refused as it was given.
                max_batches=batches * batch_size // held_out.batch_size if batches > 0 else batches,
                calibration_batches=batches,
                cache=Path(out),
                progress=show,
            )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(value) for value in scores.values()], indent=2))
        return
    from bitskip.terminal import print_table

    def figure(mean: float, ci: float | None, scale: float = 1.0, digits: int = 4) -> str:
        spread = "" if ci is None else f" ± {ci * scale:.{digits}f}"
        return f"{mean * scale:+.{digits}f}{spread}"

    print_table(
        f"Closing one shortcut of {loaded.name} (mean ± 95% interval over batches)",
        ["id", "loss", "change of maps", "AP50, points"]
        if loaded.task == "detection"
        else ["id", "loss", "KL of outputs", "accuracy, points"],
        [
            [
                s.id,
                figure(s.loss_change, s.loss_ci),
                figure(s.kl, s.kl_ci),
                figure(s.accuracy_change, s.accuracy_ci, 100, 2),
            ]
            for s in scores.values()
        ],
    )
