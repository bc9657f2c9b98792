"""Runs that travel with the package, and the zoo's networks measured beside a study."""

from __future__ import annotations

import json
from pathlib import Path

from bitskip.data import load_images
from bitskip.report.findings import findings
from bitskip.results.study import DataSummary, Results, StudyInfo
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.kept import kept_runs, summary_json
from bitskip.study.packed import measure_packed, packed_results, with_packed
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
    kept = (root / "src/bitskip/study/kept.json").read_text(encoding="utf-8")
    assert kept == summary_json(studies)
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
    results = with_packed(STUDY, found)
    assert packed_results(Results.from_dict(json.loads(results.to_json()))) == found
    assert "Trained longer and packed" in findings(results)[-1]
