"""The study: a grid of runs that resumes where it stopped, and one results file.

Each run has a folder of its own below `runs/` and is resumed from its last epoch; `results.json` gains a row
when a run ends. A study that is killed at any moment loses at most the epoch it was in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitskip.cost import cost_of
from bitskip.data import ImageSet
from bitskip.data.batches import held_out_count
from bitskip.errors import RunError, SpecError, check_one_of
from bitskip.files import require_writable
from bitskip.jobs import Event, Place, Task, run_tasks
from bitskip.machine import machine
from bitskip.quantizers import QUANTIZERS
from bitskip.results.study import (
    Counts,
    DataSummary,
    EpochRecord,
    ResultRow,
    Results,
    StudyInfo,
)
from bitskip.spec import PAPER_VARIANTS, NetworkSpec, resolve_spec
from bitskip.study.paper import paper_figures
from bitskip.training import Hardware, Recipe, RunResult, is_first_process, load_recipe
from bitskip.training.hardware import versions

__all__ = ["PRESETS", "Measurement", "PlannedStudy", "Preset", "machine", "plan_study", "run_study"]

# Something to measure beside the runs: of the pictures, telling what it is at; a tuple of dataclasses.
Measurement = Callable[[ImageSet, Callable[[str], None]], tuple[Any, ...]]

_BESIDE = "beside the runs"  # the task of all measurements; no run's folder has spaces


@dataclass(frozen=True)
class Preset:
    """What a study runs when nothing else is said."""

    models: tuple[str, ...]
    width: float  # factor on every width
    epochs: int
    recipe: str
    # Pairs (estimator, coupled L2) that every model is trained with; None leaves the recipe's.
    treatments: tuple[tuple[str, float | None], ...] = (("ste_sign", None),)
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the recipe's keys


PRESETS = {
    # Minutes on two cores: small batches take more steps from one epoch, small pictures cost a quarter and
    # less, a higher rate that falls in a straight line gets further in so few steps, and dropout is for
    # trainings that see a picture more than once. The test shows pictures as they are. Narrower networks are
    # slower, for oneDNN must not train them (`bitskip.nn.narrow`).
    "quick": Preset(
        PAPER_VARIANTS,
        width=0.25,
        epochs=1,
        recipe="paper",
        changes={
            "batch_size": 64,
            "learning_rate": 3e-3,
            "latent.learning_rate": 3e-3,
            "schedule": "triangular",
            "warmup": 0.1,
            "dropout": 0.0,
            "resolution": [[0.6, 12], [0.4, 16]],
            "reestimate_batches": 20,
            "validation_images": 1000,
        },
    ),
    "small": Preset(PAPER_VARIANTS, width=0.25, epochs=2, recipe="paper"),
    # The paper gives no batch size. In batches of 512 a GPU trains in half the time of 128's.
    "paper": Preset(PAPER_VARIANTS, width=1.0, epochs=100, recipe="paper", changes={"batch_size": 512}),
    "puzzle": Preset(
        ("resnet14-binary-all",),
        width=0.25,
        epochs=5,
        recipe="paper",
        treatments=(("ste_sign", 0.0), ("ste_sign", 1e-4), ("none", 0.0), ("none", 1e-4)),
    ),
}


@dataclass(frozen=True)
class _Run:
    model: str
    spec: NetworkSpec
    full_width: NetworkSpec
    recipe: Recipe
    seed: int
    estimator: str
    l2: float | None

    @property
    def folder(self) -> str:
        treatment = "" if self.l2 is None else f"-{self.estimator}-l2-{self.l2:g}"
        return f"{self.spec.name}{treatment}-seed{self.seed}"


@dataclass(frozen=True)
class PlannedStudy:
    """A study before it runs."""

    preset: str
    recipe: str
    width: float
    epochs: int
    estimator: str
    runs: tuple[_Run, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the recipe's keys, by the preset

    @property
    def is_grid(self) -> bool:
        """Whether all of the paper's nine variants are among the runs."""
        return set(PAPER_VARIANTS) <= {run.model for run in self.runs}


def plan_study(
    preset: str = "quick",
    *,
    models: Iterable[str] = (),
    seeds: int = 1,
    estimator: str | None = None,
    width: float | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
) -> PlannedStudy:
    """Settle what a study will run.

    Args:
        preset: `quick`, `small`, `paper` or `puzzle`.
        models: names or spec files instead of the preset's models.
        seeds: runs of each model, with seeds 0, 1, ...
        estimator: gradient estimator of 1-bit weights instead of each spec's own, or of those that the
            preset compares.
        width: factor on every width instead of the preset's.
        epochs: epochs of each run instead of the preset's.
        recipe: recipe instead of the preset's.

    Raises:
        SpecError: for an unknown preset, model or estimator.
        RecipeError: for an unknown recipe.
    """
    check_one_of(preset, PRESETS, "unknown preset", SpecError)
    if estimator is not None:
        check_one_of(estimator, QUANTIZERS, "unknown estimator", SpecError)
    if seeds < 1:
        raise SpecError(f"seeds is {seeds}, expected at least 1")
    chosen = PRESETS[preset]
    width = chosen.width if width is None else width
    epochs = chosen.epochs if epochs is None else epochs
    recipe = chosen.recipe if recipe is None else recipe
    treatments = chosen.treatments if estimator is None else ((estimator, chosen.treatments[0][1]),)
    runs = []
    for seed in range(seeds):
        for model in tuple(models) or chosen.models:
            for weight_quantizer, l2 in treatments:
                base = resolve_spec(model)
                if estimator is None and len(treatments) == 1:  # the preset compares none: the spec's own
                    weight_quantizer = base.weight_quantizer
                full = dataclasses.replace(base, weight_quantizer=weight_quantizer)
                changes: dict[str, Any] = {**chosen.changes, "epochs": epochs}
                if l2 is not None:
                    changes |= {"weight_decay": l2, "latent.weight_decay": l2}
                runs.append(
                    _Run(
                        model=base.name,
                        spec=full.scaled(width),
                        full_width=full,
                        recipe=load_recipe(recipe, full, changes),
                        seed=seed,
                        estimator=weight_quantizer,
                        l2=l2,
                    )
                )
    return PlannedStudy(
        preset, runs[0].recipe.name, width, epochs, treatments[0][0], tuple(runs), dict(chosen.changes)
    )


def run_study(
    plan: PlannedStudy,
    images: ImageSet,
    out: Path,
    *,
    hardware: Hardware | None = None,
    place: Place | None = None,
    progress_bar: bool = True,
    beside: Mapping[str, Measurement] | None = None,
    on_run: Callable[[int, int, str, bool], None] = lambda index, count, name, done: None,
    on_epoch: Callable[[str, dict[str, Any]], None] = lambda name, entry: None,
    on_measurement: Callable[[str], None] = lambda name: None,
) -> Results:
    """Run what is still missing of `plan` in `out`, and return all results.

    Args:
        plan: from `plan_study`.
        images: the data set.
        out: the study's folder; `results.json` and `runs/` appear there.
        hardware: devices and arithmetic.
        place: where; one after the other in this process if not given.
        progress_bar: show Lightning's progress bar, where one run follows the other.
        beside: what else to measure, by the name under which the results keep it (`Results.with_extra`):
            functions of a module, called one after the other in one process, on this machine, while the last
            runs still train where there are several processes; so their times can be compared.
        on_run: called before each run with its number (from 1), how many there are, its name, and
            whether it is finished already.
        on_epoch: called after each epoch with the run's name and its history entry.
        on_measurement: called with what `beside` measures next.

    Raises:
        RunError: if `out` holds another study or cannot be written, or the study was interrupted.
    """
    require_writable(out)
    path = out / "results.json"
    info = _study_info(plan, images)
    results = Results(info, ())
    if path.is_file():
        results = Results.load(path)
        _check_same(results.study, info, out)
    if is_first_process():
        results.save(path)
    finished = {row.key for row in results.rows}
    place = place or Place()
    numbers = {run.folder: (index, run) for index, run in enumerate(plan.runs, 1)}
    missing = []
    for index, run in numbers.values():
        if _key(run, plan) in finished:
            on_run(index, len(plan.runs), run.folder, True)
        else:
            missing.append(Task(run.folder, _train, (run,)))
    wanted = {name: measure for name, measure in (beside or {}).items() if name not in results.study.extra}
    measuring = [Task(_BESIDE, _measure, (wanted,))] if wanted else []

    def note(event: Event) -> None:
        nonlocal results
        if event.task.name == _BESIDE:
            if event.kind == "progress":
                on_measurement(event.value)
            elif event.kind == "done":
                for name, values in event.value.items():
                    results = results.with_extra(name, values)
                results.save(path)
            return
        index, run = numbers[event.task.name]
        if event.kind == "begun":
            on_run(index, len(plan.runs), run.folder, False)
        elif event.kind == "progress":
            on_epoch(run.folder, event.value)
        elif event.kind == "done":
            results = results.with_row(_row(run, event.value, plan))
            if is_first_process():
                results.save(path)

    bar = progress_bar and place.in_turn
    shared = {"images": images, "out": out, "hardware": hardware, "progress_bar": bar}
    here = place.ray is None and not place.in_turn
    run_tasks(
        [*missing, *measuring] if here else missing, place=place, shared=shared, folder=out, on_event=note
    )
    if not here and is_first_process():
        run_tasks(measuring, shared=shared, on_event=note)
    return results


def _measure(
    wanted: Mapping[str, Measurement], *, images: ImageSet, report: Callable[[str], None], **_: Any
) -> dict[str, tuple[Any, ...]]:
    return {name: measure(images, report) for name, measure in wanted.items()}


def _train(
    run: _Run,
    *,
    images: ImageSet,
    out: Path,
    hardware: Hardware | None,
    progress_bar: bool,
    report: Callable[[dict[str, Any]], None],
) -> RunResult:
    from bitskip.training import train  # which loads Lightning: not where runs are only handed out

    return train(
        run.spec,
        run.recipe,
        images,
        out / "runs" / run.folder,
        seed=run.seed,
        resume=True,
        hardware=hardware,
        progress_bar=progress_bar,
        on_epoch=report,
    )


def _key(run: _Run, plan: PlannedStudy) -> tuple[Any, ...]:
    return (run.model, run.seed, run.recipe.name, run.recipe.epochs, plan.width, run.estimator, run.l2)


def _check_same(known: StudyInfo, asked: StudyInfo, out: Path) -> None:
    for key in ("preset", "recipe", "width", "epochs", "estimator"):
        if getattr(known, key) != getattr(asked, key):
            raise RunError(
                f"{out} holds a study with {key} {getattr(known, key)}, not {getattr(asked, key)}; "
                "use the same settings to resume it, or another --out"
            )
    before, now = (one.extra.get("changes", {}) for one in (known, asked))
    if before != now:
        differing = ", ".join(sorted(key for key in before | now if before.get(key) != now.get(key)))
        raise RunError(
            f"{out} holds a study '{known.preset}' by another version of bitskip, which changed {differing} "
            "of the recipe otherwise; choose another --out"
        )
    if known.data != asked.data:
        raise RunError(
            f"{out} holds a study on {known.data.name} ({known.data.train_images:,} training pictures), "
            f"not {asked.data.name} ({asked.data.train_images:,}); use the same data or another --out"
        )


def _study_info(plan: PlannedStudy, images: ImageSet) -> StudyInfo:
    held_out = held_out_count(plan.runs[0].recipe.validation_images, len(images.train_images))
    return StudyInfo(
        preset=plan.preset,
        recipe=plan.recipe,
        width=plan.width,
        epochs=plan.epochs,
        estimator=plan.estimator,
        data=DataSummary(
            name=images.name,
            train_images=len(images.train_images) - held_out,
            test_images=len(images.test_images),
            validation_images=held_out,
        ),
        versions=versions(),
        machine=machine(),
        extra={"changes": dict(plan.changes)} if plan.changes else {},
    )


def _counts(spec: NetworkSpec) -> Counts:
    cost = cost_of(spec).to_dict()
    return Counts(**{field.name: cost[field.name] for field in dataclasses.fields(Counts)})


def _row(run: _Run, result: RunResult, plan: PlannedStudy) -> ResultRow:
    extra: dict[str, Any] = {"precision": result.precision}
    if run.l2 is not None:
        extra["l2"] = run.l2
    flips = [entry["sign_flip_share"] for entry in result.history if "sign_flip_share" in entry]
    if flips:
        extra["sign_flip_share"] = flips
    return ResultRow(
        model=run.model,
        seed=run.seed,
        recipe=run.recipe.name,
        epochs=run.recipe.epochs,
        width=plan.width,
        estimator=run.estimator,
        test_accuracy=result.test_accuracy,
        test_loss=result.test_loss,
        validation=_records(result.history, "validation"),
        train=_records(result.history, "train"),
        counts=_counts(run.spec),
        full_width_counts=_counts(run.full_width),
        seconds=result.seconds,
        paper=paper_figures(run.model),
        extra=extra,
    )


def _records(history: list[dict[str, Any]], part: str) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(entry["epoch"], entry[f"{part}_loss"], entry[f"{part}_accuracy"])
        for entry in history
        if f"{part}_loss" in entry
    )
