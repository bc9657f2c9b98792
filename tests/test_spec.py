"""NetworkSpec: what it accepts, what it refuses and how it says so, JSON, names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitskip.errors import SpecError, nearest
from bitskip.quantizers import QUANTIZERS, input_quantizers
from bitskip.spec import (
    PAPER_VARIANTS,
    PRECISIONS,
    WEIGHT_SCALES,
    NetworkSpec,
    named_models,
    named_spec,
    resolve_spec,
)


def _spec(**changes: object) -> NetworkSpec:
    values: dict[str, object] = {
        "name": "small",
        "widths": (4, 8),
        "blocks": (1, 2),
        "precision": ("fp32", "w1"),
        "shortcuts": (True, False),
    }
    return NetworkSpec(**(values | changes))  # type: ignore[arg-type]


# -- validation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "name must be a non-empty string"),
        ({"widths": ()}, "widths is empty"),
        ({"widths": (4, 0)}, r"widths\[1\] is 0, expected a whole number of at least 1"),
        ({"widths": (4, 8.0)}, r"widths\[1\] is 8.0"),
        ({"blocks": (1,)}, "blocks has 1 entries, expected 2"),
        ({"blocks": (True, 1)}, r"blocks\[0\] is True"),
        ({"precision": ("fp32", "w2")}, r"precision\[1\] is 'w2', expected one of fp32, int8, w1, w1a1"),
        ({"shortcuts": (1, 0)}, r"shortcuts\[0\] is 1, expected true or false"),
        ({"block": "wide"}, "block is 'wide', expected one of basic, bottleneck"),
        ({"style": "pre"}, "style is 'pre'"),
        ({"stem": "mnist"}, "stem is 'mnist'"),
        ({"stem_precision": "w1"}, "stem_precision is 'w1', expected one of fp32, int8"),
        ({"head_precision": "w1a1"}, "head_precision is 'w1a1'"),
        ({"weight_quantizer": "ste"}, "weight_quantizer is 'ste'"),
        ({"input_quantizer": "none"}, "input_quantizer is 'none'"),
        ({"weight_scale": "layer"}, "weight_scale is 'layer'"),
        ({"pad_value": 2}, "pad_value is 2, expected one of 0, 1, -1"),
        ({"pad_value": True}, "pad_value is True"),
        ({"classes": 0}, "classes is 0"),
        ({"input_size": -1}, "input_size is -1"),
        ({"input_channels": "3"}, "input_channels is '3'"),
        ({"block": "bottleneck", "style": "per_conv"}, "per_conv is defined for basic blocks only"),
    ],
)
def test_refuses(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _spec(**changes)


def test_overrides() -> None:
    spec = _spec(
        layer_precision={"stage1.block1.conv2": "int8"},
        block_shortcuts={"stage1.block1": False, "stage2.block2": True},
    )
    first, second, third = spec.iter_blocks()
    assert [conv.precision for conv in first.convs] == ["fp32", "int8"]
    assert (first.shortcut, second.shortcut, third.shortcut) == (None, None, "identity")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_precision": {"stage1.block1.conv3": "w1"}}, "which is not a layer of a block; did you mean"),
        ({"layer_precision": {"stage1.block1.conv1": "fp16"}}, "is 'fp16', expected one of"),
        # Without its shortcut the second stage has no projection to override.
        ({"layer_precision": {"stage2.block1.shortcut.conv": "fp32"}}, "which is not a layer of a block"),
        ({"block_shortcuts": {"stage3.block1": True}}, "which is not a block; did you mean"),
        ({"block_shortcuts": {"stage1.block1": 1}}, "is 1, expected a bool"),
    ],
)
def test_overrides_that_fit_nothing(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _spec(**changes)


@pytest.mark.parametrize("where", ["precision", "layer_precision"])
def test_sign_of_relu_is_refused(where: str) -> None:
    change: dict[str, object] = (
        {"precision": ("fp32", "w1a1")}
        if where == "precision"
        else {"layer_precision": {"stage1.block1.conv2": "w1a1"}}
    )
    with pytest.raises(SpecError, match=r"comes from a ReLU, so its sign is the constant \+1"):
        _spec(before_binary="relu", **change)
    for remedy in ("no_relu", "threshold"):
        _spec(before_binary=remedy, **change)
    _spec(before_binary="relu", activation="rprelu", **change)  # RPReLU has both signs
    _spec(before_binary="relu")  # 1-bit weights alone read real activations


# -- structure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [14, 20, 32, 44, 56, 110, 18, 34, 50, 101])
def test_depth_is_the_number_of_weight_layers(depth: int) -> None:
    spec = named_spec(f"resnet{depth}")
    main_path = 1 + sum(len(block.convs) for block in spec.iter_blocks()) + 1
    assert main_path == depth


def test_odd_sizes_round_up_as_padded_strides_do() -> None:
    stages = {"widths": (4,) * 3, "blocks": (1,) * 3, "precision": ("fp32",) * 3, "shortcuts": (True,) * 3}
    spec = _spec(**stages, input_size=9)
    assert [block.output_size for block in spec.iter_blocks()] == [9, 5, 3]


def test_a_projection_has_its_stages_precision_and_pool_conv_is_real() -> None:
    spec = named_spec("resnet14-binary-all")
    projections = [block.projection for block in spec.iter_blocks() if block.projection]
    assert [(p.name, p.precision, p.stride) for p in projections] == [
        ("stage2.block1.shortcut.conv", "w1", 2),
        ("stage3.block1.shortcut.conv", "w1", 2),
    ]
    pooled = dataclasses.replace(spec, projection="pool_conv")
    assert {(b.projection.precision, b.projection.stride) for b in pooled.iter_blocks() if b.projection} == {
        ("fp32", 1)
    }


def test_policies_leave_the_middle() -> None:
    spec = named_spec("resnet14-hybrid-middle")
    assert spec.precision == ("w1", "fp32", "w1")
    assert spec.shortcuts == (False, True, False)
    deep = named_spec("resnet18-hybrid-middle")
    assert deep.precision == ("w1", "fp32", "fp32", "w1")
    assert deep.shortcuts == (False, True, True, False)


# -- JSON -------------------------------------------------------------------------------------------------


SPECS = st.integers(1, 4).flatmap(
    lambda stages: st.builds(
        NetworkSpec,
        name=st.text(min_size=1, max_size=8),
        widths=st.tuples(*[st.integers(1, 64)] * stages),
        blocks=st.tuples(*[st.integers(1, 3)] * stages),
        precision=st.tuples(*[st.sampled_from(PRECISIONS)] * stages),
        shortcuts=st.tuples(*[st.booleans()] * stages),
        style=st.sampled_from(["paper", "standard", "per_conv"]),
        stem=st.sampled_from(["cifar", "imagenet"]),
        projection=st.sampled_from(["conv", "pool_conv"]),
        before_binary=st.sampled_from(["no_relu", "threshold"]),
        weight_quantizer=st.sampled_from(list(QUANTIZERS)),
        input_quantizer=st.sampled_from(input_quantizers()),
        weight_scale=st.sampled_from(WEIGHT_SCALES),
        pad_value=st.sampled_from([0, 1, -1]),
        layer_precision=st.dictionaries(st.just("stage1.block1.conv1"), st.sampled_from(PRECISIONS)),
        block_shortcuts=st.dictionaries(st.just("stage1.block1"), st.booleans()),
        classes=st.integers(1, 1000),
    )
)


@given(SPECS)
def test_json_round_trip(spec: NetworkSpec) -> None:
    again = NetworkSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert list(again.iter_layers()) == list(spec.iter_layers())


def test_json_carries_its_version() -> None:
    assert json.loads(_spec().to_json())["bitskip_spec"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bitskip_spec": 2}, '"bitskip_spec" is 2, expected 1'),
        ({"shortcut": [True, False]}, "unknown key 'shortcut'; did you mean 'shortcuts'?"),
        ({"widths": 4}, "widths is 4, expected a list"),
        ({"layer_precision": []}, r"layer_precision is \[\], expected an object"),
        ({"block_shortcuts": "none"}, "block_shortcuts is 'none', expected an object"),
    ],
)
def test_malformed_values(change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        NetworkSpec.from_dict(_spec().to_dict() | change)


def test_missing_key_and_version() -> None:
    values = _spec().to_dict()
    for key, said in (("blocks", "key 'blocks' is missing"), ("bitskip_spec", "is None, expected 1")):
        with pytest.raises(SpecError, match=said):
            NetworkSpec.from_dict({k: v for k, v in values.items() if k != key})


def test_malformed_text_names_its_source() -> None:
    with pytest.raises(SpecError, match=r"net\.json: not valid JSON at line 2, column 1"):
        NetworkSpec.from_json("{\n", source="net.json")
    with pytest.raises(SpecError, match="expected a JSON object, got int"):
        NetworkSpec.from_json("3")


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _spec().classes = 3  # type: ignore[misc]


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*named_models(), "resnet20-binary-none", "resnet50-hybrid-middle"])
def test_a_named_spec_bears_its_name(name: str) -> None:
    assert named_spec(name).name == name


def test_the_papers_grid_is_nine() -> None:
    assert len(set(PAPER_VARIANTS)) == 9
    assert set(PAPER_VARIANTS) <= set(named_models())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet14-hybird-none", "did you mean 'resnet14-hybrid-none'?"),
        ("resnet14-full", "did you mean 'resnet14-full-"),
        ("resnet15", "did you mean 'resnet"),
        ("resnet14-full-all-xhalf", "'-xhalf' is not a width factor"),
        ("resnet14-full-all-x0", "expected a factor above 0"),
        ("qqqqqq", r"unknown model 'qqqqqq' \("),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        named_spec(name)


def test_width_factor() -> None:
    half = named_spec("resnet14-hybrid-none-x0.5")
    assert half == named_spec("resnet14-hybrid-none").scaled(0.5)
    assert (half.name, half.stem_width, half.widths) == ("resnet14-hybrid-none-x0.5", 32, (32, 64, 128))
    assert named_spec("resnet20").scaled(1e-6).widths == (1, 1, 1)
    assert named_spec("resnet20").scaled(1) == named_spec("resnet20")


def test_input_size_at_the_end_of_a_name() -> None:
    spec = named_spec("resnet14-hybrid-none-x0.5-64px")
    assert spec == named_spec("resnet14-hybrid-none").scaled(0.5).resized(64)
    assert (spec.name, spec.input_size, spec.widths[0]) == ("resnet14-hybrid-none-x0.5-64px", 64, 32)
    assert named_spec("resnet20").resized(32) == named_spec("resnet20")
    with pytest.raises(SpecError, match="input_size is 0"):
        named_spec("resnet20").resized(0)
    with pytest.raises(SpecError, match="unknown model 'resnet20-px'"):
        named_spec("resnet20-px")


def test_resolve_reads_names_and_files(tmp_path: Path) -> None:
    assert resolve_spec("resnet20") == named_spec("resnet20")
    path = tmp_path / "net.json"
    path.write_text(_spec().to_json())
    assert resolve_spec(str(path)) == _spec()
    with pytest.raises(SpecError, match="cannot read spec"):
        resolve_spec(str(tmp_path / "other.json"))


def test_nearest() -> None:
    assert nearest("pth", ["path", "file"]) == "; did you mean 'path'?"
    assert nearest("CAT ", ["dog", "cat"]) == "; did you mean 'cat'?"
    assert nearest("zzz", ["path", "file"]) == ""
