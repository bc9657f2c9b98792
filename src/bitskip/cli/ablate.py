"""`bitskip ablate`: what each part of a recipe buys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitskip.cli.options import (
    AcceleratorOption,
    ArithmeticOption,
    DataOption,
    JobsOption,
    JsonOption,
    RayOption,
    gpus_of,
    parse_changes,
    path_or_none,
    read_images,
    say,
)
from bitskip.cli.report import print_ablation
from bitskip.errors import InterruptedRunError
from bitskip.files import read_json

if TYPE_CHECKING:
    from bitskip.study.ablation import Job
    from bitskip.training import RunResult


def ablate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Named models, or paths of spec files.")
    ],
    out: Annotated[str, typer.Option(help="Folder of the ablation: a run's folder for each arm and seed.")],
    recipe: Annotated[str, typer.Option(help="A recipe's name, or the path of a YAML file.")] = "modern",
    arms: Annotated[
        str | None,
        typer.Option(
            help="Arms with commas, e.g. whitening,ema; all that change something if not given. The whole "
            "recipe is always run.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[float, typer.Option(help="Multiply every width by this factor.")] = 0.25,
    epochs: Annotated[int, typer.Option(help="Epochs of each run.")] = 10,
    seeds: Annotated[int, typer.Option(help="Runs of each arm, with seeds 0, 1, ...")] = 3,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Folder of a finished run that models with 1-bit weights learn from and start from.",
            show_default=False,
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe in every arm."),
    ] = None,
    jobs: JobsOption = "1",
    ray: RayOption = None,
    data: DataOption = None,
    accelerator: AcceleratorOption = "auto",
    precision: ArithmeticOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a recipe whole and with one part switched at a time, and write what each part buys.

    The folder gets results.json, page.md and ablation.svg. The same command again resumes where it stopped;
    models, arms and seeds may be added.

    Examples:

    - `bitskip ablate resnet14-full-all --out runs/ablation --jobs 2`
    - `bitskip ablate resnet14-hybrid-all --teacher runs/full-x0.25 --arms freeze --out runs/ablation`
    """
    from bitskip.jobs import read_place
    from bitskip.report.ablation import write_ablation
    from bitskip.study.ablation import plan_ablation, run_ablation
    from bitskip.training import Hardware

    plan = plan_ablation(
        models,
        arms=[name.strip() for name in arms.split(",") if name.strip()] if arms else (),
        width=width,
        epochs=epochs,
        seeds=seeds,
        recipe=recipe,
        teacher=path_or_none(teacher),
        changes=parse_changes(change or []),
    )
    place = read_place(jobs, ray, small=width <= 0.5, gpus=gpus_of(accelerator))
    images = read_images(data, plan.jobs[0].spec.input_size)
    folder = Path(out)
    say(f"{len(plan.jobs)} runs of {epochs} epochs, {place.jobs} at a time, on {images.name}")

    def show(index: int, count: int, job: Job, result: RunResult) -> None:
        say(f"[{index}/{count}] {job.folder}: {result.test_accuracy:.2%}, {result.seconds:.0f} s")

    try:
        values = run_ablation(
            plan,
            images,
            folder,
            place=place,
            hardware=Hardware(accelerator, devices="1", precision=precision),
            on_run=show,
        )
    except InterruptedRunError:
        if (folder / "results.json").is_file():  # a page of what is done, which says that it is not complete
            write_ablation(read_json(folder / "results.json"), folder)
        raise
    page = write_ablation(values, folder)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    print_ablation(values)
    typer.echo(f"page: {page}")
