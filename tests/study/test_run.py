"""The study: what it plans, that it resumes (after SIGKILL too), and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitskip.data import ImageSet, load_mini
from bitskip.errors import RecipeError, RunError, SpecError
from bitskip.jobs import Place
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study import run as study_run
from bitskip.study.run import PRESETS, plan_study, run_study

TINY = ("--width", "0.0625", "--data", "mini")


ONE = ("--jobs", "1")  # one after the other, so that what a kill leaves is known


def _study(out: Path, *options: str) -> list[str]:
    models = ("--models", "resnet14-hybrid-none", "--models", "resnet14-binary-none")
    return [sys.executable, "-m", "bitskip", "study", *models, *TINY, *ONE, "--out", str(out), *options]


def test_quick_trains_the_nine_variants_at_reduced_width() -> None:
    plan = plan_study("quick")
    assert tuple(run.model for run in plan.runs) == PAPER_VARIANTS
    assert plan.width < 1
    assert {run.spec.stem_width for run in plan.runs} == {round(64 * plan.width)}
    assert plan_study("paper").epochs == 100
    assert {run.spec.widths for run in plan_study("paper").runs} == {(64, 128, 256)}


def test_puzzle_crosses_the_estimator_with_decay() -> None:
    runs = plan_study("puzzle").runs
    treatments = {(run.estimator, run.recipe.latent.weight_decay) for run in runs}
    assert treatments == {(e, d) for e in ("ste_sign", "none") for d in (0.0, 1e-4)}
    assert len({run.folder for run in runs}) == len(runs)


def test_a_spec_keeps_its_own_estimator(tmp_path: Path) -> None:
    own = dataclasses.replace(named_spec("resnet14-hybrid-none"), name="mine", weight_quantizer="ede")
    path = tmp_path / "mine.json"
    path.write_text(own.to_json())
    (run,) = plan_study("quick", models=[str(path)]).runs
    assert (run.estimator, run.spec.weight_quantizer) == ("ede", "ede")
    (run,) = plan_study("quick", models=[str(path)], estimator="reste").runs
    assert (run.estimator, run.spec.weight_quantizer) == ("reste", "reste")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "quik"}, SpecError, "unknown preset 'quik'.*did you mean 'quick'"),
        ({"models": ["resnet14-hybrid-non"]}, SpecError, "did you mean 'resnet14-hybrid-none'"),
        ({"estimator": "ste"}, SpecError, "unknown estimator 'ste'"),
        ({"recipe": "papr"}, RecipeError, "unknown recipe 'papr'.*did you mean 'paper'"),
        ({"seeds": 0}, SpecError, "seeds is 0"),
        ({"width": -1.0}, SpecError, "width is -1"),
    ],
)
def test_bad_plans_are_one_sentence(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_study(**options)  # type: ignore[arg-type]


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("runs/*/checkpoints/last.ckpt"))


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    command = _study(tmp_path, "--epochs", "3")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 240
        assert process.stderr is not None
        for line in process.stderr:  # one line an epoch, printed after its checkpoint's figures are known
            if "epoch 2/3" in line or time.monotonic() > deadline:
                break
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(_checkpoints(tmp_path)) == 1
    assert Results.load(tmp_path / "results.json").rows == ()

    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    first_run = again.stderr.partition("[2/2]")[0]
    assert "epoch 1/3" not in first_run, "the killed run began anew"
    assert "epoch 3/3" in first_run
    rows = Results.load(tmp_path / "results.json").rows
    assert [row.model for row in rows] == ["resnet14-hybrid-none", "resnet14-binary-none"]
    assert all([record.epoch for record in row.validation] == [1, 2, 3] for row in rows)
    assert (tmp_path / "report.html").is_file()
    assert "resnet14-hybrid-none" in (tmp_path / "tables.md").read_text()
    assert str(tmp_path / "report.html") in again.stdout

    third = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert third.stderr.count("finished before") == 2
    assert "epoch" not in third.stderr.replace("of 3 epochs", "")

    other = subprocess.run(_study(tmp_path, "--epochs", "2"), capture_output=True, text=True, timeout=300)
    assert other.returncode == 2
    assert "holds a study with epochs 3, not 2" in other.stderr


def test_a_row_holds_what_a_report_needs(tmp_path: Path) -> None:
    plan = plan_study("puzzle", width=0.0625, epochs=1)
    run_study(plan, load_mini(), tmp_path, progress_bar=False)
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["study"]["preset"] == "puzzle"
    assert values["study"]["data"]["train_images"] == 900
    row = values["rows"][0]
    assert row["full_width_counts"]["effective_parameters"] == 95_306
    assert row["paper"] == {"accuracy": 0.4808, "effective_parameters": 18_930.0}
    frozen = next(r for r in values["rows"] if r["estimator"] == "none" and r["extra"]["l2"] == 0)
    assert frozen["extra"]["sign_flip_share"] == [0.0]


@dataclasses.dataclass(frozen=True)
class _Measured:
    process: int
    pictures: int


def _count(images: ImageSet, progress: Callable[[str], None]) -> tuple[_Measured, ...]:
    progress("pictures")
    return (_Measured(os.getpid(), len(images.test_images)),)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_measured_beside_the_runs_is_kept_and_not_measured_again(tmp_path: Path, jobs: int) -> None:
    whole = load_mini()
    images = dataclasses.replace(
        whole,
        **{
            name: getattr(whole, name)[:40]
            for name in ("train_images", "train_labels", "test_images", "test_labels")
        },
    )
    plan = plan_study("quick", models=["resnet14-full-none"], width=0.0625)
    said: list[str] = []

    def study() -> tuple[_Measured, ...]:
        place = Place(jobs, threads=1)
        beside = {"counted": _count, "again": _count}
        run_study(
            plan, images, tmp_path, place=place, progress_bar=False, beside=beside, on_measurement=said.append
        )
        results = Results.load(tmp_path / "results.json")
        assert len(results.rows) == 1
        assert results.extra_of("again", _Measured) == results.extra_of("counted", _Measured)
        return results.extra_of("counted", _Measured)

    (found,) = study()
    assert said == ["pictures", "pictures"]
    assert found.pictures == len(images.test_images)
    assert (found.process == os.getpid()) == (jobs == 1)
    assert study() == (found,)
    assert len(said) == 2


def test_a_study_of_another_version_of_its_preset_is_not_mixed_with_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = PRESETS["quick"]
    monkeypatch.setattr(study_run, "run_tasks", lambda *_, **__: {})
    run_study(plan_study("quick"), load_mini(), tmp_path)
    run_study(plan_study("quick"), load_mini(), tmp_path)  # the same goes on
    changes = {**preset.changes, "batch_size": 32, "dropout": 0.1}
    monkeypatch.setitem(PRESETS, "quick", dataclasses.replace(preset, changes=changes))
    with pytest.raises(RunError, match="which changed batch_size, dropout of the recipe otherwise"):
        run_study(plan_study("quick"), load_mini(), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to .*another folder with --out"):
        run_study(plan_study("quick", width=0.0625), load_mini(), tmp_path / "file" / "study")
