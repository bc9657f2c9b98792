"""`bitskip count`: tables, JSON, comparisons, and what a wrong word gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitskip.spec import named_spec

Run = Callable[..., Any]

KEYS = {
    "parameters",
    "binary_parameters",
    "effective_parameters",
    "macs",
    "binary_macs",
    "weight_bytes",
    "peak_activation_bytes",
    "layers",
}


@pytest.mark.parametrize(
    "model", ["resnet14-hybrid-none", "torchvision:mobilenet_v2", "baseline:mlperf-resnet8"]
)
def test_json_has_the_promised_keys(bitskip: Run, model: str) -> None:
    ran = bitskip("count", model, "--json")
    assert (ran.code, ran.err) == (0, "")
    cost = json.loads(ran.out)
    assert cost.keys() >= KEYS
    assert cost["peak_activation_bytes"].keys() == {"naive", "in_place"}
    assert sum(layer["parameters"] for layer in cost["layers"]) == cost["parameters"]
    assert sum(layer["macs"] for layer in cost["layers"]) == cost["macs"]


def test_json_values(bitskip: Run) -> None:
    cost = json.loads(bitskip("count", "resnet14-hybrid-none", "--json").out)
    assert cost["parameters"] == 2_735_946
    assert cost["binary_parameters"] == 2_211_840
    assert cost["effective_parameters"] == 593_226
    assert cost["weight_bytes"] == 4 * 593_226
    assert cost["peak_activation_bytes"] == {"naive": 131_072 * 4, "in_place": 131_072 * 4}


def test_table_has_every_layer_and_the_totals(bitskip: Run) -> None:
    ran = bitskip("count", "resnet14-hybrid-none")
    assert ran.code == 0
    for layer in named_spec("resnet14-hybrid-none").iter_layers():
        assert layer.name in ran.out
    assert "2,211,840" in ran.out
    assert "593,226" in ran.out
    assert "…" not in ran.out


def test_comparison_puts_models_side_by_side(bitskip: Run) -> None:
    models = ["resnet14-full-all", "resnet50", "torchvision:resnet50"]
    ran = bitskip("count", "--compare", *models)
    assert ran.code == 0
    assert all(model in ran.out for model in models)
    parameters = next(line for line in ran.out.splitlines() if line.split()[:1] == ["parameters"])
    assert parameters.split() == ["parameters", "2,777,674", "25,557,032", "25,557,032"]
    values = json.loads(bitskip("count", "--compare", *models, "--json").out)
    assert [cost["name"] for cost in values] == models
    assert values[1]["peak_activation_bytes"] == values[2]["peak_activation_bytes"]


def test_unused_parameters_are_noted(bitskip: Run) -> None:
    out = bitskip("count", "torchvision:googlenet").out
    assert "note: 6,379,984 parameters are counted, but not used in inference: aux1" in out


def test_width_and_size(bitskip: Run) -> None:
    words = ("count", "resnet14-full-none", "--width", "0.5", "--input-size", "16", "--json")
    cost = json.loads(bitskip(*words).out)
    assert cost["input_shape"] == [3, 16, 16]
    assert cost["layers"][0]["output_shape"] == [32, 16, 16]


def test_spec_file(bitskip: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(named_spec("resnet14-binary-all").to_json())
    assert json.loads(bitskip("count", str(path), "--json").out)["effective_parameters"] == 95_306


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet14-hybrid-non"], "did you mean 'resnet14-hybrid-none'?"),
        (["torchvision:resnet5"], "did you mean 'resnet50'?"),
        (["baseline:xnor-nn"], "did you mean 'xnor-nin'?"),
        (["torchvision:raft_small"], "does not take one picture in real numbers"),
        (["torchvison:resnet18"], "is not a source of networks; expected one of"),
        (["zoo:resnet14-hybrid-al"], "no model 'resnet14-hybrid-al' in the zoo; did you mean"),
        (["none.py:Net"], "there is no Python file 'none.py'"),
        (["runs/none"], "there is no run or spec file 'runs/none'"),
        (["baseline:xnor-nin", "--classes", "1"], "expected at least 2"),
        (["torchvision:vit_b_16", "--input-size", "100"], "Expected 224 but got 100"),
        (["torchvision:resnet18", "--input-size", "0"], "at least 1 pixel"),
        (["torchvision:resnet18", "--width", "0.5"], "--width does not apply"),
        (["baseline:xnor-nin", "--input-size", "4"], "at least 8 pixels"),
        (["resnet14-full-all", "resnet20"], "add --compare"),
        (["missing.json"], "cannot read spec 'missing.json'"),
        (["resnet14-full-all", "--input-size", "-1"], "input_size is -1"),
    ],
)
def test_wrong_words_get_one_sentence(bitskip: Run, words: list[str], said: str) -> None:
    ran = bitskip("count", *words)
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err
    assert ran.err.startswith("bitskip: error: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON at line 1, column 2"),
        ("[1, 2]", "expected a JSON object, got list"),
        ('{"bitskip_spec": 7}', '"bitskip_spec" is 7, expected 1'),
        ('{"bitskip_spec": 1, "widhts": [4]}', "unknown key 'widhts'; did you mean 'widths'?"),
        ('{"bitskip_spec": 1, "name": "x"}', "key 'widths' is missing"),
    ],
)
def test_malformed_spec_files(bitskip: Run, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    ran = bitskip("count", str(path))
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
