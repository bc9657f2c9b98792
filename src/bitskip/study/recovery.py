"""The experiment: how much accuracy comes back, by the way in which shortcuts are taken from a trained run.

For each target (`middle`, `none`) and each arm one result: `refit` (no training), `one_shot` and `gradual`
(with distillation), the same with labels alone (`_labels`), and `scratch` (a run trained without those
shortcuts from the start, looked up). `continued` is the control: the teacher, with all its shortcuts, trained
on for as long, since longer training alone may raise an accuracy.
Each arm has a folder of its own and resumes from its last epoch.
Training sees the held-out pictures only; each result is tested once, at its end.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bitskip.backends.native import NativeProgram, available_isas
from bitskip.data import ImageSet
from bitskip.data.batches import Batches, Normalisation
from bitskip.errors import RunError, check_one_of
from bitskip.files import keep_settings, read_json, require_writable, write_json
from bitskip.lower import lower
from bitskip.machine import machine
from bitskip.pruning import Plan, RecoverySettings, analyse, compare, plan_shortcuts
from bitskip.pruning.plan import weights_digest
from bitskip.pruning.report import Gain, take_turns
from bitskip.results.recovery import RECOVERY_FORMAT_VERSION
from bitskip.sources.load import LoadedModel, load_model
from bitskip.sources.pruned import batches_for, prune_loaded, recover_loaded, write_pruned
from bitskip.spec import NetworkSpec
from bitskip.training import RunResult, evaluate, load_run
from bitskip.training.hardware import versions

TARGETS = ("middle", "none")
ARMS = ("continued", "refit", "one_shot", "gradual", "one_shot_labels", "gradual_labels")


@dataclass(frozen=True)
class Experiment:
    """What is asked for."""

    targets: tuple[str, ...] = TARGETS
    arms: tuple[str, ...] = ("continued", "refit", "one_shot", "gradual")
    epochs: int = 30  # of each training arm
    learning_rate: float = 1e-3  # peak rate of Adam
    weight_decay: float = 0.0
    batch_size: int = 128
    seed: int = 0
    precision: str = "32-true"  # arithmetic of training: 32-true or bf16-mixed

    def __post_init__(self) -> None:
        for name, known in (("targets", TARGETS), ("arms", ARMS)):
            for value in getattr(self, name):
                check_one_of(value, known, f"unknown value in {name}:", RunError)

    def settings(self, arm: str, gates: int) -> RecoverySettings:
        """Return the schedule of a training arm that closes `gates` gates.

        Gradual: the fades take three fifths of the epochs, one gate after another without a pause.
        """
        interval = self.epochs * 3 / 5 / max(1, gates)
        labels_only = arm.endswith("_labels")
        return RecoverySettings(
            schedule="gradual" if arm.startswith("gradual") else "one_shot",
            epochs=self.epochs,
            interval=interval,
            fade=interval if arm.startswith("gradual") else 0.0,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            ce_weight=1.0 if labels_only else 0.65,
            mse_weight=0.0 if labels_only else 0.35,
            precision=self.precision,
        )


def run_experiment(
    teacher: Path,
    images: ImageSet,
    out: Path,
    experiment: Experiment,
    *,
    scratch: Mapping[str, Path] | None = None,
    on_arm: Callable[[str, str, bool], None] = lambda target, arm, done: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> dict[str, Any]:
    """Run what is still missing in `out`, and return all results; also writes `results.json`.

    Args:
        teacher: folder of a finished run with all shortcuts.
        images: the data that it was trained on.
        out: the experiment's folder.
        experiment: targets, arms and settings.
        scratch: run folders trained without those shortcuts, by target.
        on_arm: called before each arm with target, arm, and whether it is done already.
        on_epoch: called after each epoch of a training arm.

    Raises:
        RunError: if `out` holds another experiment, or a folder holds no finished run.
        DataError: if the data does not fit the run.
    """
    require_writable(out)
    loaded = load_model(str(teacher))
    asked = {
        "teacher": loaded.name,
        "teacher_weights": weights_digest(loaded.model),
        "data": images.name,
        "train_images": len(images.train_images),
        "settings": _settings(experiment),
    }
    keep_settings(out / "experiment.json", asked, "an experiment")
    normalisation = Normalisation.of(images.train_images)
    test = Batches(images.test_images, images.test_labels, normalisation, 512)
    accuracy, _ = evaluate(loaded.model, test)
    analysis = analyse(loaded.model, loaded.example())
    rows = []
    for target, arm in _pairs(experiment, scratch or {}):
        # Removed throughout, so that all arms of a target end with the same network.
        plan = plan_shortcuts(loaded.model, analysis, target, shorten=False)
        if arm == "scratch":
            rows.append(_from_scratch(target, (scratch or {})[target], plan))
            continue
        path = out / target / arm / "result.json"
        on_arm(target, arm, path.is_file())
        if not path.is_file():
            row = _run_arm(loaded, images, experiment, plan, arm, path.parent, test, on_epoch)
            write_json(path, {"target": target, "arm": arm} | row)
        rows.append(read_json(path))
    gains = {}
    for target in experiment.targets:
        # All arms of a target end with the same network, so any of them is measured.
        arms = [row["arm"] for row in rows if row["target"] == target and row["arm"] != "scratch"]
        if arms:
            _, pruned = load_run(out / target / arms[0])
            gains[target] = [gain.to_dict() for gain in _gains(loaded, pruned)]
    values = {
        "bitskip_shortcut_recovery": RECOVERY_FORMAT_VERSION,
        **asked,
        "teacher_test_accuracy": accuracy,
        "held_out_images": loaded.held_out_of(images),
        "test_images": len(images.test_images),
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
        "gains": gains,
    }
    write_json(out / "results.json", values)
    return values


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Return all but targets and arms, which may be added to an experiment."""
    return {k: v for k, v in dataclasses.asdict(experiment).items() if k not in ("targets", "arms")}


def _run_arm(
    loaded: LoadedModel,
    images: ImageSet,
    experiment: Experiment,
    plan: Plan,
    arm: str,
    folder: Path,
    test: Batches,
    on_epoch: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    sets = batches_for(loaded, images, experiment.batch_size)
    started = time.monotonic()
    history: list[dict[str, Any]] = []
    if arm == "refit":
        pruned, measures = prune_loaded(loaded, plan, sets)
        seconds = time.monotonic() - started
    else:
        settings = experiment.settings(arm, len(plan.closed))
        result = recover_loaded(
            loaded, plan, sets, settings, seed=experiment.seed, folder=folder, on_epoch=on_epoch
        )
        pruned, history = result.model, result.history
        measures = {"teacher": result.teacher_measure or 0.0, "end": result.measure or 0.0}
        seconds = sum(entry["seconds"] for entry in history)
    accuracy, loss = evaluate(pruned, test)
    write_pruned(folder, loaded, pruned, plan, {"held_out_accuracy": measures})
    return {
        "test_accuracy": accuracy,
        "test_loss": loss,
        "held_out_accuracy": measures,
        "epochs": 0 if arm == "refit" else experiment.epochs,
        "seconds": round(seconds, 1),
        "history": history,
    }


def _gains(loaded: LoadedModel, pruned: nn.Module) -> list[Gain]:
    """Return what the target buys, with the time of a picture on this package's runtime, one thread."""
    gains = compare(loaded.model, pruned, loaded.example(), timed=True)
    channels, height, width = loaded.input_shape
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, channels)).astype(np.uint8)
    for kind in ("fp32", "int8"):
        engines = [
            NativeProgram(lower(model, activations=kind, dense=kind, calibration=picture), threads=1)
            for model in (loaded.model, pruned)
        ]
        calls = [lambda engine=engine: engine.run(picture) for engine in engines]
        before, after = take_turns(calls, repeats=300, warmup=20)
        remark = f"native runtime, {available_isas()[-1]}, one thread, median"
        gains.append(Gain(f"time of a picture, packed {kind}", "seconds", before, after, remark))
    return gains


def _pairs(experiment: Experiment, scratch: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Return targets with arms in the order they run; the control keeps all shortcuts."""
    pairs = [("all", "continued")] if "continued" in experiment.arms else []
    for target in experiment.targets:
        pairs += [(target, arm) for arm in experiment.arms if arm != "continued"]
        if target in scratch:
            pairs.append((target, "scratch"))
    return pairs


def _from_scratch(target: str, folder: Path, plan: Plan) -> dict[str, Any]:
    result = RunResult.load(folder)
    spec = NetworkSpec.from_dict(read_json(folder / "spec.json"), str(folder / "spec.json"))
    kept = {entry.site.block for entry in plan.shortcuts if entry.action == "keep"}
    if kept != {block.name for block in spec.iter_blocks() if block.shortcut is not None}:
        raise RunError(f"{folder} holds '{spec.name}', which has other shortcuts than '{target}' leaves")
    return {
        "target": target,
        "arm": "scratch",
        "test_accuracy": result.test_accuracy,
        "test_loss": result.test_loss,
        "held_out_accuracy": {},
        "epochs": result.epochs,
        "seconds": result.seconds,
        "history": [],
    }
