"""`bitskip models`: every named model and baseline, with counts that agree with `bitskip count`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bitskip.spec import named_models

Run = Callable[..., Any]
BASELINES = ("baseline:binarized-vgg", "baseline:xnor-nin", "baseline:mlperf-resnet8")


def test_lists_models_and_baselines(bitskip: Run) -> None:
    ran = bitskip("models")
    assert (ran.code, ran.err) == (0, "")
    for name in (*named_models(), *BASELINES):
        assert f" {name} " in ran.out


def test_json_rows(bitskip: Run) -> None:
    rows = json.loads(bitskip("models", "--json").out)
    assert [row["name"] for row in rows] == [*named_models(), *BASELINES]
    assert len({frozenset(row) for row in rows}) == 1
    hybrid = next(row for row in rows if row["name"] == "resnet14-hybrid-middle")
    assert hybrid["precision"] == ["w1", "fp32", "w1"]
    assert hybrid["shortcuts"] == [False, True, False]
    assert hybrid["effective_parameters"] == 601_674
    vgg = next(row for row in rows if row["name"] == "baseline:binarized-vgg")
    assert vgg["precision"] == ["w1", "w1a1"]
    assert vgg["shortcuts"] is None


@pytest.mark.parametrize("name", ["resnet14-w1a1", "resnet18", "baseline:xnor-nin"])
def test_rows_agree_with_count(bitskip: Run, name: str) -> None:
    row = next(row for row in json.loads(bitskip("models", "--json").out) if row["name"] == name)
    cost = json.loads(bitskip("count", name, "--json").out)
    for key in ("parameters", "binary_parameters", "effective_parameters", "macs"):
        assert row[key] == cost[key]


def test_without_torch_the_named_models_remain(bitskip: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("bitskip.nn")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = json.loads(bitskip("models", "--json").out)
    assert [row["name"] for row in rows] == list(named_models())
