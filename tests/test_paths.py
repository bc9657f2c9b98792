"""Whoever calls from Python names files by `str` as well as by `Path`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitskip.data import read_image_set
from bitskip.errors import BitskipError
from bitskip.lower.from_onnx import import_onnx
from bitskip.nn import build
from bitskip.pruning import Plan, analyse, load_pruned, plan_shortcuts, remove_shortcuts, save_pruned
from bitskip.spec import named_spec
from bitskip.training import RunResult, load_run

PUBLIC = (
    "bitskip.backends.c99", "bitskip.data", "bitskip.lower", "bitskip.lower.from_onnx",
    "bitskip.nn", "bitskip.program", "bitskip.pruning", "bitskip.runtime", "bitskip.spec", "bitskip.training",
    "bitskip.zoo",
)  # fmt: skip


def _callables(package: str) -> Iterator[tuple[str, object]]:
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            for method, function in inspect.getmembers(value, callable):
                if not method.startswith("_") or method == "__init__":
                    yield f"{name}.{method}", function
        elif callable(value):
            yield name, value


@pytest.mark.parametrize("package", PUBLIC)
def test_every_path_may_be_a_str(package: str) -> None:
    for name, function in _callables(package):
        try:
            parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        except (TypeError, ValueError):  # written in C
            continue
        for parameter in parameters:
            words = re.findall(r"\w+", str(parameter.annotation))
            assert "Path" not in words or "str" in words, f"{package}.{name}({parameter.name})"


def test_what_is_written_to_a_str_is_read_from_it(tmp_path: Path) -> None:
    folder = str(tmp_path / "pruned")
    model = build(named_spec("resnet14-full-all-x0.0625")).eval()
    plan = plan_shortcuts(model, analyse(model, torch.zeros(1, 3, 32, 32)), "none")
    pruned = remove_shortcuts(model, plan)
    save_pruned(folder, pruned, plan)
    again = load_pruned(folder, model)
    assert Plan.load(f"{folder}/plan.json") == plan
    assert again.state_dict().keys() == pruned.state_dict().keys()

    for missing in (import_onnx, load_run, read_image_set, RunResult.load):
        with pytest.raises(BitskipError, match="nowhere"):
            missing(str(tmp_path / "nowhere"))
