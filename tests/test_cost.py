"""Cost of specs, spelled as factors: the paper's nine variants and what the totals are made of."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bitskip.cost import Cost, LayerCost, cost_of
from bitskip.spec import NetworkSpec, named_models, named_spec

STEM = 3 * 3 * 3 * 64
HEAD = 256 * 10 + 10
# 3x3 convolutions of each stage: two blocks of two.
STAGE1 = 4 * 64 * 3 * 3 * 64
STAGE2 = 64 * 3 * 3 * 128 + 3 * 128 * 3 * 3 * 128
STAGE3 = 128 * 3 * 3 * 256 + 3 * 256 * 3 * 3 * 256
# A batch norm has a weight and a bias for each channel.
NORMS = 2 * 64 + 4 * 2 * 64 + 4 * 2 * 128 + 4 * 2 * 256
# Projections stand in the first blocks of stages 2 and 3.
PROJECTION2, PROJECTION3 = 64 * 128, 128 * 256
NORM2, NORM3 = 2 * 128, 2 * 256

PROJECTIONS = {
    "all": PROJECTION2 + NORM2 + PROJECTION3 + NORM3,
    "middle": PROJECTION2 + NORM2,
    "none": 0,
}
BINARY = {
    ("full", "all"): 0,
    ("full", "middle"): 0,
    ("full", "none"): 0,
    ("hybrid", "all"): STAGE1 + STAGE3 + PROJECTION3,
    ("hybrid", "middle"): STAGE1 + STAGE3,
    ("hybrid", "none"): STAGE1 + STAGE3,
    ("binary", "all"): STAGE1 + STAGE2 + STAGE3 + PROJECTION2 + PROJECTION3,
    ("binary", "middle"): STAGE1 + STAGE2 + STAGE3 + PROJECTION2,
    ("binary", "none"): STAGE1 + STAGE2 + STAGE3,
}
EFFECTIVE = {
    ("full", "all"): 2_777_674,
    ("full", "middle"): 2_744_394,
    ("full", "none"): 2_735_946,
    ("hybrid", "all"): 603_210,
    ("hybrid", "middle"): 601_674,
    ("hybrid", "none"): 593_226,
    ("binary", "all"): 95_306,
    ("binary", "middle"): 93_770,
    ("binary", "none"): 93_258,
}


@pytest.mark.parametrize(("precision", "shortcuts"), list(BINARY))
def test_the_nine_variants(precision: str, shortcuts: str) -> None:
    cost = cost_of(named_spec(f"resnet14-{precision}-{shortcuts}"))
    parameters = STEM + STAGE1 + STAGE2 + STAGE3 + NORMS + PROJECTIONS[shortcuts] + HEAD
    binary = BINARY[precision, shortcuts]
    assert cost.parameters == parameters
    assert cost.binary_parameters == binary
    assert cost.effective_parameters == parameters - binary + binary // 32
    assert cost.effective_parameters == EFFECTIVE[precision, shortcuts]
    assert cost.weight_bytes == 4 * (parameters - binary) + binary // 8
    assert cost.float32_bytes == 4 * parameters
    by_bits = {1: binary, 32: parameters - binary} if binary else {32: parameters}
    assert cost.parameters_by_bits == by_bits
    assert cost.notes == ()


@pytest.mark.parametrize("precision", ["full", "hybrid", "binary"])
@pytest.mark.parametrize("shortcuts", ["all", "middle", "none"])
def test_macs(precision: str, shortcuts: str) -> None:
    stage1 = STAGE1 * 32 * 32
    # The block that halves the picture computes its outputs at the smaller size.
    stage2, stage3 = STAGE2 * 16 * 16, STAGE3 * 8 * 8
    projections = {
        "all": PROJECTION2 * 16 * 16 + PROJECTION3 * 8 * 8,
        "middle": PROJECTION2 * 16 * 16,
        "none": 0,
    }
    cost = cost_of(named_spec(f"resnet14-{precision}-{shortcuts}"))
    macs = STEM * 32 * 32 + stage1 + stage2 + stage3 + projections[shortcuts] + 256 * 10
    assert cost.macs == macs
    assert cost.binary_macs == 0  # activations stay real
    assert cost.macs_by_precision == {"fp32": macs}
    one_bit = {
        ("full", "all"): 0,
        ("full", "middle"): 0,
        ("full", "none"): 0,
        ("hybrid", "all"): stage1 + stage3 + PROJECTION3 * 8 * 8,
        ("hybrid", "middle"): stage1 + stage3,
        ("hybrid", "none"): stage1 + stage3,
    }.get((precision, shortcuts), macs - STEM * 32 * 32 - 256 * 10)
    assert cost.binary_weight_macs == one_bit


@pytest.mark.parametrize("precision", ["full", "hybrid", "binary"])
@pytest.mark.parametrize(
    ("shortcuts", "naive"),
    [("all", 3 * 64 * 32 * 32), ("middle", 2 * 64 * 32 * 32), ("none", 2 * 64 * 32 * 32)],
)
def test_peaks_by_executor(precision: str, shortcuts: str, naive: int) -> None:
    # Naive, the add needs input, both operands' result and the main path at once: three pictures of stage 1.
    cost = cost_of(named_spec(f"resnet14-{precision}-{shortcuts}"))
    assert cost.peak_activation_bytes == {"naive": naive * 4, "in_place": 131_072 * 4}


@pytest.mark.parametrize(
    ("name", "naive", "in_place"),
    [
        # ResNet18 is bound by its stem, so its shortcuts cost no memory.
        ("resnet18-full-all", 64 * 112 * 112 + 64 * 56 * 56, 64 * 112 * 112 + 64 * 56 * 56),
        ("resnet18-full-none", 64 * 112 * 112 + 64 * 56 * 56, 64 * 112 * 112 + 64 * 56 * 56),
        ("resnet50-full-all", 9 * 64 * 56 * 56, 8 * 64 * 56 * 56),
        ("resnet50-full-none", 6 * 64 * 56 * 56, 6 * 64 * 56 * 56),
    ],
)
def test_peaks_of_imagenet_networks(name: str, naive: int, in_place: int) -> None:
    assert cost_of(named_spec(name)).peak_activation_bytes == {"naive": 4 * naive, "in_place": 4 * in_place}


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    # As torchvision publishes them: number of parameters, and 10^9 MACs to three digits.
    [
        ("resnet18", 11_689_512, 1.814),
        ("resnet34", 21_797_672, 3.664),
        ("resnet50", 25_557_032, 4.089),
        ("resnet101", 44_549_160, 7.801),
    ],
)
def test_imagenet_networks_have_the_published_counts(name: str, parameters: int, macs: float) -> None:
    cost = cost_of(named_spec(name))
    assert cost.parameters == parameters
    assert cost.macs is not None
    assert round(cost.macs / 1e9, 3) == macs


def test_binary_activations_count_as_1_bit_macs() -> None:
    cost = cost_of(named_spec("resnet14-w1a1"))
    one_bit = STAGE1 * 32 * 32 + STAGE2 * 16 * 16 + STAGE3 * 8 * 8
    real = STEM * 32 * 32 + PROJECTION2 * 16 * 16 + PROJECTION3 * 8 * 8 + 256 * 10
    assert cost.binary_macs == cost.binary_weight_macs == one_bit
    assert cost.macs_by_precision == {"fp32": real, "w1a1": one_bit}


def test_int8_and_learned_scales() -> None:
    spec = NetworkSpec("s", (4,), (1,), ("w1",), (False,), stem_width=4, weight_scale="learned")
    spec = dataclasses.replace(
        spec, stem_precision="int8", head_precision="int8", layer_precision={"stage1.block1.conv2": "int8"}
    )
    cost = cost_of(spec)
    assert cost.parameters_by_bits == {
        1: 4 * 3 * 3 * 4,
        8: 3 * 3 * 3 * 4 + 4 * 3 * 3 * 4 + 4 * 10,
        32: 3 * 2 * 4 + 4 + 10,  # three batch norms, a scale, the head's bias
    }
    assert cost.effective_parameters == (144 + 8 * 292 + 32 * 38) / 32


def test_bits_are_stored_in_whole_bytes() -> None:
    layer = LayerCost("l", "conv", "w1", 32, (1,), {1: 9, 32: 1}, 9)
    assert (layer.weight_bits, layer.weight_bytes) == (9 + 32, 2 + 4)
    assert Cost("c", (1,), (layer, layer), {"naive": 0, "in_place": 0}).effective_parameters == 2 * 41 / 32


def test_an_unknown_makes_its_totals_unknown() -> None:
    known = LayerCost("a", "conv", "fp32", 32, (1,), {32: 10}, 100)
    no_macs = LayerCost("b", "LSTM", "fp32", 32, (1,), {32: 5}, None)
    cost = Cost("c", (1,), (known, no_macs), {"naive": None, "in_place": None}, ("why",))
    assert (cost.macs, cost.binary_macs, cost.macs_by_precision) == (None, None, None)
    assert cost.parameters == 15
    no_weights = dataclasses.replace(no_macs, parameters_by_bits=None)
    cost = dataclasses.replace(cost, layers=(known, no_weights))
    for key in ("parameters", "binary_parameters", "effective_parameters", "weight_bytes", "compression"):
        assert getattr(cost, key) is None
    assert cost.to_dict()["parameters"] is None
    assert cost.to_dict()["notes"] == ["why"]


@pytest.mark.parametrize("name", named_models())
def test_rows_add_up(name: str) -> None:
    values = cost_of(named_spec(name)).to_dict()
    for key in ("parameters", "binary_parameters", "macs", "binary_macs", "weight_bytes"):
        assert sum(layer[key] for layer in values["layers"]) == values[key]
    by_bits = values["parameters_by_bits"]
    assert sum(int(bits) * number for bits, number in by_bits.items()) == 32 * values["effective_parameters"]


def test_the_examples_of_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "cost.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/cost.md", "exec"), {})
