"""What each part of a recipe buys: the recipe whole, and again with one part switched at a time.

Every model is trained with every arm and seed, each run in a folder of its own that resumes from its last
epoch. An arm's difference to the whole recipe is taken seed by seed (runs of one seed draw the same random
numbers, as far as the switched part leaves them), with the 95% t-interval of the mean of those differences.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitskip.data import ImageSet
from bitskip.data.batches import held_out_count
from bitskip.errors import InterruptedRunError, RunError, check_one_of
from bitskip.files import file_digest, keep_settings, require_writable, write_json
from bitskip.jobs import Place, Task, run_tasks
from bitskip.machine import machine
from bitskip.results.ablation import ABLATION_FORMAT_VERSION
from bitskip.spec import NetworkSpec, resolve_spec
from bitskip.training import Hardware, Recipe, RunResult, load_recipe
from bitskip.training.folder import weights_file
from bitskip.training.hardware import merged, versions

WHOLE = "whole"


@dataclass(frozen=True)
class Arm:
    """One change to the recipe."""

    name: str
    what: str  # what the change does, for the page
    changes: Mapping[str, Any] = field(default_factory=dict)  # recipe keys, dotted
    teacher: bool = True  # whether a teacher, if there is one, is used
    warm_start: bool = True  # the same for the weights to start from


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(WHOLE, "the recipe as it is"),
        Arm("whitening", "stem starts at random", {"whitening": False}),
        Arm("zero_gamma", "last batch norm of a block starts at 0", {"zero_gamma": True}),
        Arm("cosine", "cosine rate instead of triangular", {"schedule": "cosine"}),
        Arm("constant", "constant rate", {"schedule": "constant", "warmup": 0.0}),
        Arm("weight_decay", "no weight decay", {"weight_decay": 0.0}),
        Arm("label_smoothing", "no label smoothing", {"label_smoothing": 0.0}),
        Arm("alternating_flip", "random instead of alternating flip", {"augmentation.flip": "random"}),
        Arm("flip", "no flip", {"augmentation.flip": "none"}),
        Arm("translate", "no random shift", {"augmentation.crop": 0}),
        Arm("cutout", "no cutout", {"augmentation.cutout": 0}),
        Arm(
            "light",
            "shifts of at most 2 pixels, no cutout",
            {"augmentation.crop": 2, "augmentation.cutout": 0},
        ),
        Arm("resolution", "full pictures throughout", {"resolution": []}),
        Arm("ema", "last weights instead of averaged ones", {"ema": 0.0}),
        Arm("reestimate", "batch norm's running statistics", {"reestimate_batches": 0}),
        Arm("two_steps", "1-bit weights from the first step", {"real_weights": 0.0}),
        Arm("distillation", "labels alone, no teacher", {"distillation.weight": 0.0}, teacher=False),
        Arm("views", "teacher looks at what the student is shown", {"distillation.views": "student"}),
        Arm("warm_start", "starts at random, not from the teacher", warm_start=False),
        Arm("standardise", "latent weights not standardised", {"latent.standardise": False}),
        Arm("freeze", "signs never frozen", {"latent.freeze": 0.0}),
    )
}
_NEEDS_BINARY = ("two_steps", "standardise", "freeze")
_NEEDS_TEACHER = ("distillation", "views", "warm_start")


@dataclass(frozen=True)
class Job:
    """One run: a model under an arm with a seed."""

    model: str  # name of the spec that is trained
    spec: NetworkSpec
    arm: Arm
    recipe: Recipe
    seed: int
    teacher: Path | None
    warm_start: Path | None

    @property
    def folder(self) -> str:
        """Where it runs, below the ablation's folder."""
        return f"{self.model}/{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Ablation:
    """What is to be run."""

    jobs: tuple[Job, ...]
    asked: Mapping[str, Any]  # what must stay the same when it is resumed


def plan_ablation(
    models: Sequence[str],
    *,
    arms: Sequence[str] = (),
    width: float = 0.25,
    epochs: int = 10,
    seeds: int = 3,
    recipe: str = "modern",
    teacher: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Ablation:
    """Settle what an ablation will run.

    Args:
        models: names or spec files.
        arms: names from `ARMS` besides the whole recipe; none for all that change something for the model.
        width: factor on every width.
        epochs: epochs of each run.
        seeds: runs of each arm, with seeds 0, 1, ...
        recipe: recipe's name or file.
        teacher: folder of a finished full-precision run: models with 1-bit weights are distilled from it and
            start from its weights.
        changes: recipe keys that differ from the recipe in every arm, the whole one too.

    Raises:
        RunError: for an unknown arm, one that changes nothing, or one that needs a teacher.
        SpecError, RecipeError: for a model or a recipe that does not exist.
    """
    if seeds < 1:
        raise RunError(f"seeds is {seeds}, expected at least 1")
    for name in arms:
        check_one_of(name, ARMS, "unknown arm", RunError)
    if "epochs" in (changes or {}):
        raise RunError("the recipe's key 'epochs' is set by --epochs, not by --set")
    fixed = {**(changes or {}), "epochs": epochs}
    jobs: list[Job] = []
    for model in dict.fromkeys(models):
        base = resolve_spec(model)
        spec = base.scaled(width)
        plain = load_recipe(recipe, base, fixed)
        binary = any(layer.binary_parameters for layer in spec.iter_layers())
        own = teacher if binary else None
        teaches = own is not None and plain.distillation.weight > 0
        chosen = []
        for name, arm in ARMS.items():
            changed = load_recipe(recipe, base, {**fixed, **arm.changes})
            idle = _idle(name, spec, plain, changed, binary, own)
            if name == WHOLE or (not idle and (not arms or name in arms)):
                chosen.append((arm, changed))
            elif name in arms:
                raise RunError(
                    f"arm '{name}' changes nothing for '{base.name}': {idle}; without --arms all run that do"
                )
        jobs += [
            Job(
                spec.name,
                spec,
                arm,
                changed,
                seed,
                own if arm.teacher and teaches else None,
                own if arm.warm_start else None,
            )
            for seed in range(seeds)
            for arm, changed in chosen
        ]
    asked = {
        "recipe": recipe,
        "width": width,
        "epochs": epochs,
        "changes": dict(changes or {}),
        "teacher": None if teacher is None else teacher.name,
        "teacher_weights": None if teacher is None else file_digest(weights_file(teacher)),
    }
    return Ablation(tuple(jobs), asked)


def _idle(
    name: str, spec: NetworkSpec, plain: Recipe, changed: Recipe, binary: bool, teacher: Path | None
) -> str:
    """Say why an arm would train the very same network; nothing if it would not."""
    if name in _NEEDS_TEACHER:
        if not binary:
            return "it has no 1-bit weights, and only such models are given a teacher"
        if teacher is None:
            return "there is no teacher; name a finished run with --teacher"
        if name == "warm_start":
            return ""
        if not plain.distillation.weight:
            return "the recipe learns from no teacher"
    if name in ("whitening", "zero_gamma") and teacher is not None:
        return "the weights that it starts from replace what this part sets"
    if name in _NEEDS_BINARY and not binary:
        return "it has no 1-bit weights"
    if name == "zero_gamma" and (
        spec.style != "standard" or not any(block.shortcut for block in spec.iter_blocks())
    ):
        return "only blocks of style 'standard' with a shortcut can start at 0"
    return "" if changed != plain else "the recipe has it so already"


def run_ablation(
    plan: Ablation,
    images: ImageSet,
    out: Path,
    *,
    place: Place | None = None,
    hardware: Hardware | None = None,
    on_run: Callable[[int, int, Job, RunResult], None] = lambda index, count, job, result: None,
) -> dict[str, Any]:
    """Run what is still missing of `plan` in `out` and return all results; also writes `results.json`.

    Args:
        plan: from `plan_ablation`.
        images: the data set.
        out: the ablation's folder.
        place: where; one after the other in this process if not given. On CPUs narrow networks train faster
            in a process a core, with one thread each.
        hardware: devices and arithmetic.
        on_run: called after each run with how many are done, how many there are, the run and its result.

    Raises:
        RunError: if `out` holds another ablation or cannot be written, or it was interrupted.
    """
    place = place or Place()
    require_writable(out)
    asked = {**plan.asked, "data": images.name, "train_images": len(images.train_images)}
    keep_settings(out / "ablation.json", asked, "an ablation")  # models, arms and seeds may be added
    hardware = hardware or Hardware(devices="1")
    done: dict[str, RunResult] = {}

    def keep(job: Job, result: RunResult) -> None:
        done[job.folder] = result
        write_json(out / "results.json", _summary(plan, asked, images, done))
        on_run(len(done), len(plan.jobs), job, result)

    shared: dict[str, Any] = {"images": images, "out": out, "hardware": hardware}
    missing = []
    for job in plan.jobs:
        if (out / job.folder / "result.json").is_file():
            keep(job, _run(job, **shared))  # checks that it is the run asked for
        else:
            missing.append(Task(job.folder, _run, (job,)))
    try:
        run_tasks(
            missing,
            place=place,
            shared=shared,
            folder=out,
            on_event=lambda event: (
                keep(event.task.arguments[0], event.value) if event.kind == "done" else None
            ),
        )
    except (KeyboardInterrupt, InterruptedRunError):
        raise InterruptedRunError(f"interrupted; the same command with --out {out} goes on") from None
    return _summary(plan, asked, images, done)


# -- running ------------------------------------------------------------------------------------------


def _run(job: Job, *, images: ImageSet, out: Path, hardware: Hardware, report: Any = None) -> RunResult:
    from bitskip.training import train  # which loads Lightning: not where runs are only handed out

    return train(
        job.spec,
        job.recipe,
        images,
        out / job.folder,
        seed=job.seed,
        resume=True,
        hardware=hardware,
        teacher=job.teacher,
        warm_start=job.warm_start,
        progress_bar=False,
    )


# -- what was found -----------------------------------------------------------------------------------


def _summary(
    plan: Ablation, asked: Mapping[str, Any], images: ImageSet, done: Mapping[str, RunResult]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(job.model for job in plan.jobs):
        found: dict[str, dict[int, RunResult]] = {}
        for job in plan.jobs:
            if job.model == model and job.folder in done:
                found.setdefault(job.arm.name, {})[job.seed] = done[job.folder]
        whole = {seed: result.test_accuracy for seed, result in found.get(WHOLE, {}).items()}
        for arm in ARMS.values():
            if arm.name in found:
                results = found[arm.name]
                accuracies = {seed: result.test_accuracy for seed, result in sorted(results.items())}
                rows.append(
                    {
                        "model": model,
                        "arm": arm.name,
                        "what": arm.what,
                        "changes": dict(arm.changes),
                        "accuracies": {str(seed): value for seed, value in accuracies.items()},
                        **compare(accuracies, {} if arm.name == WHOLE else whole),
                        "seconds": round(statistics.fmean(r.seconds for r in results.values()), 1),
                        "arithmetic": sorted({result.precision for result in results.values()}),
                    }
                )
    return {
        "bitskip_ablation": ABLATION_FORMAT_VERSION,
        **asked,
        "held_out_images": held_out_count(plan.jobs[0].recipe.validation_images, len(images.train_images)),
        "test_images": len(images.test_images),
        "runs_done": len(done),
        "runs": len(plan.jobs),
        "machine": machine(),
        "versions": merged(result.versions for result in done.values()) or versions(),
        "rows": rows,
    }


def compare(accuracies: Mapping[int, float], whole: Mapping[int, float]) -> dict[str, Any]:
    """Return mean, deviation and, against `whole`, the mean difference over the seeds that both have.

    `interval_95` is difference +/- t x deviation of the differences / sqrt(n), Student's t with n - 1 degrees
    of freedom; None for fewer than two common seeds. Accuracies are shares, by seed.
    """
    values = list(accuracies.values())
    differences = [accuracies[seed] - whole[seed] for seed in accuracies if seed in whole]
    interval = None
    if len(differences) > 1:
        from scipy import stats  # here, since importing it takes a second

        mean = statistics.fmean(differences)
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
        interval = [mean - reach, mean + reach]
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "difference": statistics.fmean(differences) if differences else None,
        "interval_95": interval,
    }
