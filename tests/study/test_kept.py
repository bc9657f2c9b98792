"""Runs that travel with the package, and the zoo's networks measured beside a study."""

from __future__ import annotations

import json
from pathlib import Path

from bitskip.bench.baselines import measure_baselines
from bitskip.data import load_images
from bitskip.files import read_json
from bitskip.nn.baselines import Baseline, baseline_names
from bitskip.report.baselines import baselines_table
from bitskip.report.findings import findings
from bitskip.results.study import DataSummary, Results, StudyInfo
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.baselines import baseline_results
from bitskip.study.kept import kept_baseline, kept_runs, summary_json
from bitskip.study.packed import measure_packed, packed_results
from bitskip.study.run import plan_study
from bitskip.training import Recipe

STUDY = Results(
    StudyInfo("quick", "paper", 0.125, 1, "ste_sign", DataSummary("mini", 900, 500, 100), {}, {}), ()
)


def test_kept_runs_are_those_of_the_results_files():
    root = Path(__file__).parent.parent.parent
    studies = [
        Results.load(root / "results" / name / "results.json") for name in ("paper", "paper-no-gradient")
    ]
    baselines = [read_json(path) for path in (root / "results/baselines").glob("*/result.json")]
    kept = (root / "src/bitskip/study/kept.json").read_text(encoding="utf-8")
    assert kept == summary_json(studies, baselines)
    for run in kept_runs():
        folder = root / "results" / ("paper-no-gradient" if run.estimator == "none" else "paper") / "runs"
        left = json.loads(
            (folder / f"{run.model}-seed{run.seed}" / "result.json").read_text(encoding="utf-8")
        )
        assert (left["test_accuracy"], left["epochs"]) == (run.test_accuracy, run.epochs)


def test_kept_runs_had_the_recipe_of_the_paper_preset():
    root = Path(__file__).parent.parent.parent / "results"
    for name, estimator in (("paper", None), ("paper-no-gradient", "none")):
        plan = plan_study("paper", estimator=estimator)
        recipes = {run.folder: run.recipe.model_dump(mode="json") for run in plan.runs}
        for folder in (root / name / "runs").iterdir():
            asked = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            assert Recipe.model_validate(asked["recipe"]).model_dump(mode="json") == recipes[folder.name]
            assert asked["train_images"] == 50_000


def test_packed_networks_are_measured_and_kept_with_the_results():
    images = load_images("mini")
    found = measure_packed(images)
    assert [one.model for one in found] == [
        name for name in PAPER_VARIANTS if name in {o.model for o in found}
    ]
    for one in found:
        assert abs(one.here.share - one.card_accuracy) < 0.06  # a part of the pictures that the card knows
        assert one.images <= len(images.test_images)
    results = STUDY.with_extra("packed", found)
    assert packed_results(Results.from_dict(json.loads(results.to_json()))) == found
    assert "Trained longer and packed" in findings(results)[-1]


def test_baselines_are_measured_and_stand_in_one_table():
    found = measure_baselines(load_images("mini"))
    assert [one.name for one in found] == [f"baseline:{name}" for name in baseline_names()]
    for one in found:
        cost = Baseline(one.name.removeprefix("baseline:")).cost()
        assert (one.macs, one.effective_parameters) == (cost.macs, cost.effective_parameters)
        assert one.file_bytes < 4 * cost.effective_parameters + 4096  # 1-bit and int8 weights, not float
        assert one.milliseconds > 0
    assert [one.published.printed_accuracy for one in found] == ["89.9", "86.28", "85"]
    results = STUDY.with_extra("baselines", found)
    assert baseline_results(Results.from_dict(json.loads(results.to_json()))) == found
    table = baselines_table(results)
    assert table is not None
    cells = {row[0]: row for row in table.rows}
    for one in found:
        run = kept_baseline(one.name)
        assert cells[one.name][1] == ("not run" if run is None else f"{100 * run.test_accuracy:.2f}")
    assert "target: 85" in cells["baseline:mlperf-resnet8"][2]
    assert baselines_table(STUDY) is None
