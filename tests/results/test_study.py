"""The results file: saved and loaded without loss, and every malformed key refused by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import pytest

from bitskip.errors import FileFormatError, RunError
from bitskip.results.study import (
    Counts,
    DataSummary,
    EpochRecord,
    PaperFigures,
    ResultRow,
    Results,
    StudyInfo,
)

STUDY = StudyInfo(
    preset="quick", recipe="paper", width=0.25, epochs=2, estimator="ste_sign",
    data=DataSummary("CIFAR-10", 45_000, 10_000, 5_000, {"note": "whole"}),
    versions={"torch": "2.13.0"}, machine={"cores": 2}, extra={"why": "test"},
)  # fmt: skip
ROW = ResultRow(
    model="resnet14-binary-all", seed=0, recipe="paper", epochs=2, width=0.25, estimator="ste_sign",
    test_accuracy=0.5, test_loss=1.25,
    validation=(EpochRecord(1, 1.5, 0.4), EpochRecord(2, 1.3, 0.5)),
    train=(EpochRecord(1, 1.6, 0.35), EpochRecord(2, 1.4, 0.45)),
    counts=Counts(100, 64, 38.0, 1000, 0, 152), full_width_counts=Counts(400, 256, 152.0, 4000, 0, 608),
    seconds=12.5, paper=PaperFigures(0.4808, 18930.0),
    extra={"sign_flip_share": [0.2, 0.1], "l2": 1e-4, "precision": "32-true"},
)  # fmt: skip
RESULTS = Results(STUDY, (ROW,))


def test_round_trip(tmp_path):
    path = RESULTS.save(tmp_path / "deep" / "results.json")
    assert Results.load(path) == RESULTS
    assert Results.load(path).to_json() == RESULTS.to_json()


def test_no_rows_and_no_paper(tmp_path):
    assert Results.load(Results(STUDY, ()).save(tmp_path / "r.json")) == Results(STUDY, ())
    other = Results(STUDY, (dataclasses.replace(ROW, model="resnet20", paper=None),))
    assert Results.load(other.save(tmp_path / "o.json")) == other


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_come_back_as_nan(tmp_path, loss):
    bad = dataclasses.replace(ROW, test_loss=loss, validation=(EpochRecord(1, loss, 0.1),))
    path = Results(STUDY, (bad,)).save(tmp_path / "r.json")
    assert json.loads(path.read_text())["rows"][0]["test_loss"] is None
    row = Results.load(path).rows[0]
    assert math.isnan(row.test_loss)
    assert math.isnan(row.validation[0].loss)


def test_with_row_replaces_the_same_run_only():
    again = dataclasses.replace(ROW, test_accuracy=0.6)
    assert RESULTS.with_row(again).rows == (again,)
    for change in (
        {"model": "resnet14-binary-none"}, {"seed": 1}, {"recipe": "r"}, {"epochs": 3}, {"width": 1.0},
        {"estimator": "none"}, {"extra": {"l2": 0.0}}, {"extra": {}},
    ):  # fmt: skip
        other = dataclasses.replace(ROW, **change)
        assert RESULTS.with_row(other).rows == (ROW, other)


def test_of_model_is_by_seed():
    second, first = dataclasses.replace(ROW, seed=1), ROW
    assert Results(STUDY, (second, first)).of_model(ROW.model) == (first, second)
    assert RESULTS.of_model("resnet20") == ()


def paths(values: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all keys that the format fixes."""
    free = {"versions", "machine", "extra"}
    found: list[tuple[Any, ...]] = []
    if isinstance(values, dict):
        for key, inner in values.items():
            found.append((*prefix, key))
            if key not in free:
                found += paths(inner, (*prefix, key))
    elif isinstance(values, list):
        for at, inner in enumerate(values):
            found += paths(inner, (*prefix, at))
    return found


def changed(path: tuple[Any, ...], change: Any) -> dict[str, Any]:
    values = copy.deepcopy(RESULTS.to_dict())
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return values


ALL = paths(RESULTS.to_dict())
LOSSES_AND_PAPER = {"test_loss", "loss", "paper"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: ".".join(map(str, path)))
def test_missing_unknown_and_wrong_keys(path):
    key = path[-1]
    if key != "extra":
        with pytest.raises(FileFormatError, match=f"key '{key}' is missing"):
            Results.from_dict(changed(path, lambda inner, name: inner.pop(name)))
    with pytest.raises(FileFormatError, match="unknown key 'extraneous'"):
        Results.from_dict(changed(path, lambda inner, name: inner.update(extraneous=1)))
    with pytest.raises(FileFormatError, match=str(key)):
        Results.from_dict(changed(path, lambda inner, name: inner.update({name: True})))
    if key not in LOSSES_AND_PAPER:
        with pytest.raises(FileFormatError, match=str(key)):
            Results.from_dict(changed(path, lambda inner, name: inner.update({name: None})))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("bitskip_results",), 2, "expected 1"),
        (("study", "width"), 0, "width is 0"),
        (("study", "width"), -1, "above 0"),
        (("study", "epochs"), 0, "at least 1"),
        (("study", "preset"), "", "non-empty"),
        (("rows",), {}, "expected a list"),
        (("rows", 0), [], "expected a JSON object"),
        (("rows", 0, "test_accuracy"), 50.0, "from 0 to 1"),
        (("rows", 0, "seconds"), math.inf, "finite"),
        (("rows", 0, "seed"), 0.5, "whole number"),
        (("rows", 0, "validation", 1, "accuracy"), -0.1, r"validation\[1\]: accuracy"),
        (("rows", 0, "extra", "sign_flip_share"), [1.5], "shares from 0 to 1"),
        (("rows", 0, "extra", "sign_flip_share"), 0.5, "shares from 0 to 1"),
        (("rows", 0, "extra", "l2"), -1, "l2 is -1"),
    ],
)
def test_values_out_of_range(path, value, message):
    def put(inner: Any, name: Any) -> None:
        inner[name] = value

    with pytest.raises(FileFormatError, match=message):
        Results.from_dict(changed(path, put))


def test_nearest_key_is_suggested():
    with pytest.raises(FileFormatError, match="did you mean 'test_accuracy'"):
        Results.from_dict(
            changed(("rows", 0, "test_accuracy"), lambda inner, name: inner.update(test_acuracy=1))
        )


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(FileFormatError, match="cannot read"):
        Results.load(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text(RESULTS.to_json()[:-40])
    with pytest.raises(FileFormatError, match="not valid JSON"):
        Results.load(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FileFormatError, match="expected a JSON object, got a list"):
        Results.load(tmp_path / "list.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        RESULTS.save(tmp_path / "file" / "results.json")
