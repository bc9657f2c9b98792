"""`bitskip study`: the paper's grid, end to end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.cli.options import (
    AcceleratorOption,
    ArithmeticOption,
    CompileOption,
    DataOption,
    DevicesOption,
    JobsOption,
    NodesOption,
    RayOption,
    StrategyOption,
    epoch_line,
    gpus_of,
    interactive,
    read_images,
    say,
)


def study(
    preset: Annotated[
        str,
        typer.Option(
            help="quick: nine variants at a quarter of the width, 1 epoch of small pictures. "
            "small: the same width, 2 epochs. paper: full width, 100 epochs. "
            "puzzle: the binary net with and without a gradient estimator, each with and without L2."
        ),
    ] = "quick",
    models: Annotated[
        list[str] | None,
        typer.Option(help="Models instead of the preset's; repeat the option.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each model, with seeds 0, 1, ...")] = 1,
    estimator: Annotated[
        str | None, typer.Option(help="Gradient estimator of 1-bit weights.", show_default=False)
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Multiply every width by this factor.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each run.", show_default=False)] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or YAML file.", show_default=False)
    ] = None,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the study.  [default: runs/PRESET]", show_default=False)
    ] = None,
    jobs: JobsOption = "auto",
    ray: RayOption = None,
    accelerator: AcceleratorOption = "auto",
    devices: DevicesOption = "auto",
    nodes: NodesOption = 1,
    strategy: StrategyOption = "auto",
    precision: ArithmeticOption = "auto",
    compiled: CompileOption = False,
) -> None:
    """Train the paper's nine ResNet14 variants and write tables, figures and a report beside its own.

    The same command again resumes where it stopped, and redraws the report when nothing is left to do.

    Examples:

    - `bitskip study` (all nine at reduced scale)
    - `bitskip study --preset paper --models resnet14-hybrid-none --epochs 10`
    - `bitskip study --preset puzzle`
    """
    from bitskip.bench.baselines import measure_baselines
    from bitskip.errors import InterruptedRunError
    from bitskip.jobs import read_place
    from bitskip.report import print_tables, write_report
    from bitskip.study.packed import measure_packed
    from bitskip.study.run import plan_study, run_study
    from bitskip.training import Hardware, is_first_process

    plan = plan_study(
        preset,
        models=models or (),
        seeds=seeds,
        estimator=estimator,
        width=width,
        epochs=epochs,
        recipe=recipe,
    )
    distributed = nodes != 1 or strategy != "auto" or devices not in ("auto", "1")
    wanted = "1" if distributed and jobs == "auto" else jobs
    place = read_place(wanted, ray, small=plan.width <= 0.5, gpus=gpus_of(accelerator))
    images = read_images(data)
    folder = Path(out or f"runs/{preset}")
    say(
        f"study '{preset}': {len(plan.runs)} runs of {plan.epochs} epochs, "
        f"width {plan.width:g}, {place.jobs} at a time, on {images.name}"
    )
    bar = interactive() and place.in_turn

    def show_epoch(name: str, entry: dict[str, Any]) -> None:
        if not bar:
            line = epoch_line(entry, plan.epochs)
            say(line if place.in_turn else f"{name}:{line}")

    try:
        results = run_study(
            plan,
            images,
            folder,
            hardware=Hardware(
                accelerator, devices if place.in_turn else "1", nodes, strategy, precision, compiled
            ),
            place=place,
            progress_bar=bar,
            beside={"packed": measure_packed, "baselines": measure_baselines} if plan.is_grid else {},
            on_run=lambda index, count, name, done: say(
                f"[{index}/{count}] {name}" + (": finished before" if done else "")
            ),
            on_epoch=show_epoch,
            on_measurement=lambda name: say(f"packed: {name}"),
        )
    except (InterruptedRunError, KeyboardInterrupt):
        again = shlex.join(["bitskip", *sys.argv[1:]])
        raise InterruptedRunError(f"interrupted; the same command goes on: {again}") from None
    if not is_first_process():
        return
    write_report(results, folder)
    print_tables(results)
    typer.echo(f"report: {folder / 'report.html'}")
