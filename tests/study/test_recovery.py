"""The recovery experiment at its smallest: every arm, resuming, looking up, refusing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bitskip.data import ImageSet, load_mini
from bitskip.errors import DataError, FileFormatError, RunError
from bitskip.files import read_json
from bitskip.report.recovery import recovery_markdown, write_recovery
from bitskip.spec import named_spec
from bitskip.study.recovery import Experiment, run_experiment
from bitskip.training import Hardware, load_recipe, load_run, train

RESULTS = Path(__file__).parents[2] / "results" / "shortcuts"
EXPERIMENT = Experiment(targets=("none",), arms=("continued", "refit", "gradual"), epochs=6, batch_size=50)


@pytest.fixture(scope="module")
def corner() -> ImageSet:
    whole = load_mini()
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[::4],
        train_labels=whole.train_labels[::4],
        test_images=whole.test_images[::10],
        test_labels=whole.test_labels[::10],
    )


@pytest.fixture(scope="module")
def runs(corner: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for policy in ("all", "none"):
        spec = named_spec(f"resnet14-full-{policy}-x0.0625")
        recipe = load_recipe("paper", spec.name, {"epochs": 1, "batch_size": 50})
        folders[policy] = tmp_path_factory.mktemp(policy)
        train(
            spec, recipe, corner, folders[policy], hardware=Hardware(precision="32-true"), progress_bar=False
        )
    return folders


class _Stop(Exception):
    """Stands for whatever ends a process between two epochs."""


def test_an_experiment_resumes_and_says_what_it_found(
    runs: dict[str, Path], corner: ImageSet, tmp_path: Path
) -> None:
    seen: list[tuple[str, str, bool]] = []
    epochs: list[int] = []

    def on_arm(target: str, arm: str, done: bool) -> None:
        seen.append((target, arm, done))

    def stop(entry: dict[str, Any]) -> None:
        epochs.append(entry["epoch"])
        if len(epochs) == 6 + 2:
            raise _Stop

    scratch = {"none": runs["none"]}
    with pytest.raises(_Stop):
        run_experiment(runs["all"], corner, tmp_path, EXPERIMENT, on_arm=on_arm, on_epoch=stop)
    values = run_experiment(
        runs["all"],
        corner,
        tmp_path,
        EXPERIMENT,
        scratch=scratch,
        on_arm=on_arm,
        on_epoch=lambda entry: epochs.append(entry["epoch"]),
    )
    assert epochs == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    assert seen[3:] == [("all", "continued", True), ("none", "refit", True), ("none", "gradual", False)]
    rows = {(row["target"], row["arm"]): row for row in values["rows"]}
    assert list(rows) == [("all", "continued"), ("none", "refit"), ("none", "gradual"), ("none", "scratch")]
    assert len(rows["none", "gradual"]["history"]) == 6
    assert json.loads((tmp_path / "results.json").read_text()) == values
    page = write_recovery(values, tmp_path).read_text()
    assert "| none | gradual | 6 |" in page
    assert "| all | continued | 6 |" in page
    picture = (tmp_path / "recovery.svg").read_text()
    assert "recovery.svg" in page
    assert "none: gradual" in picture
    gradual = 100 * (rows["none", "gradual"]["test_accuracy"] - values["teacher_test_accuracy"])
    assert f"{gradual:+.2f}" in picture
    spec, _ = load_run(tmp_path / "none" / "gradual")
    assert spec.name == "resnet14-full-none-x0.0625"
    gains = {gain["name"]: gain for gain in values["gains"]["none"]}
    assert (gains["shortcuts"]["before"], gains["shortcuts"]["after"]) == (6, 0)
    assert gains["peak activations, naive"]["change"] == pytest.approx(-1 / 3)
    assert gains["time of a picture, packed int8"]["after"] > 0


def test_a_bar_met_exactly_is_met_and_other_formats_are_refused() -> None:
    row = {"target": "middle", "arm": "one_shot", "epochs": 4, "test_accuracy": 0.8417}
    values = {
        "bitskip_shortcut_recovery": 3, "teacher": "t", "teacher_test_accuracy": 0.8467, "data": "d",
        "train_images": 1, "held_out_images": 0, "test_images": 10_000, "machine": {}, "rows": [row],
        "versions": {"torch": "2"},
        "settings": {"seed": 0, "learning_rate": 1e-3, "precision": "32-true"}, "gains": {},
    }  # fmt: skip
    assert "| −0.50 |  | met |" in recovery_markdown(values, "recovery.svg")
    with pytest.raises(FileFormatError, match="got results of format 1, expected .* format 3"):
        recovery_markdown(values | {"bitskip_shortcut_recovery": 1}, "recovery.svg")


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*/page.md")), ids=lambda page: page.parent.name)
def test_committed_pages_say_what_their_results_say(page: Path) -> None:
    assert page.read_text() == recovery_markdown(read_json(page.parent / "results.json"), "recovery.svg")


def test_what_does_not_fit_is_refused(runs: dict[str, Path], corner: ImageSet, tmp_path: Path) -> None:
    only = dataclasses.replace(EXPERIMENT, arms=("refit",))
    run_experiment(runs["all"], corner, tmp_path, only)
    with pytest.raises(RunError, match="holds an experiment with another settings"):
        run_experiment(runs["all"], corner, tmp_path, dataclasses.replace(only, epochs=7))
    with pytest.raises(RunError, match="has other shortcuts than 'none' leaves"):
        run_experiment(runs["all"], corner, tmp_path, only, scratch={"none": runs["all"]})
    with pytest.raises(RunError, match="unknown value in arms: 'gradually', expected one of"):
        Experiment(arms=("gradually",))
    fewer = dataclasses.replace(corner, class_names=corner.class_names[:5])
    with pytest.raises(DataError, match="has 5 classes, but resnet14-full-all-x0.0625 has 10 outputs"):
        run_experiment(runs["all"], fewer, tmp_path / "other", only)


def test_gradual_fades_fill_three_fifths() -> None:
    settings = Experiment(epochs=30).settings("gradual", 6)
    assert (settings.interval, settings.fade, settings.closed_after(6)) == (3, 3.0, 18.0)
    short = Experiment(epochs=5).settings("gradual", 6)
    short.check(6)
    assert (short.interval, short.closed_after(6)) == pytest.approx((0.5, 3.0))
    labels = Experiment(epochs=30).settings("one_shot_labels", 6)
    assert (labels.schedule, labels.ce_weight, labels.mse_weight) == ("one_shot", 1.0, 0.0)
