"""The ops of specs: what is stored in which format, and in what order it runs."""

from __future__ import annotations

import dataclasses

import pytest

from bitskip.activations import peak_activation_bytes, spec_schedule
from bitskip.memory import Held, ScheduledOp
from bitskip.spec import NetworkSpec, named_models, named_spec

SMALL = NetworkSpec(
    "small", (4, 8), (1, 1), ("fp32", "fp32"), (True, True), style="standard", stem_width=4, input_size=8
)


def sizes(spec: NetworkSpec) -> dict[str, int]:
    return {name: held.size for name, held in spec_schedule(spec).tensors.items()}


def ops(spec: NetworkSpec) -> dict[str, ScheduledOp[str]]:
    return {op.name: op for op in spec_schedule(spec).ops}


def test_ops_in_order() -> None:
    schedule = spec_schedule(SMALL)
    assert schedule.inputs == ("input:f32",)
    assert schedule.tensors["input:f32"] == Held(3 * 8 * 8 * 4, "f32")
    first, second = 4 * 8 * 8 * 4, 8 * 4 * 4 * 4  # bytes of a feature map of each stage
    block1, block2 = "stage1.block1", "stage2.block1"
    expected = [
        ("stem", "input", first, None),
        (f"{block1}.conv1", "stem", first, None),
        (f"{block1}.conv2", f"{block1}.conv1", first, "stem:f32"),
        (f"{block2}.shortcut.conv", f"{block1}.conv2", second, None),
        (f"{block2}.conv1", f"{block1}.conv2", second, None),
        (f"{block2}.conv2", f"{block2}.conv1", second, f"{block2}.shortcut.conv:f32"),
        ("pool", f"{block2}.conv2", 8 * 4, None),
        ("head", "pool", 10 * 4, None),
    ]
    got = [(op.name, op.operands, op.writes, sizes(SMALL)[op.writes[0]], op.shortcut) for op in schedule.ops]
    assert got == [
        (name, (f"{read}:f32",), (f"{name}:f32",), size, shortcut) for name, read, size, shortcut in expected
    ]


def test_binary_inputs_are_stored_as_bits_beside_what_the_add_reads() -> None:
    spec = dataclasses.replace(SMALL, precision=("w1a1", "w1a1"))
    known, held = ops(spec), sizes(spec)
    assert known["stem"].writes == ("stem:bits", "stem:f32")
    assert (held["stem:bits"], held["stem:f32"]) == (4 * 8 * 8 / 8, 4 * 8 * 8 * 4)
    assert known["stage1.block1.conv1"].operands == ("stem:bits",)
    assert known["stage1.block1.conv1"].writes == ("stage1.block1.conv1:bits",)
    assert known["stage1.block1.conv2"].shortcut == "stem:f32"
    # Stage 2 reads it only as bits: its first convolution and its projection are both w1a1.
    assert known["stage1.block1.conv2"].writes == ("stage1.block1.conv2:bits",)


def test_int8_layers_read_bytes() -> None:
    int8 = {"precision": ("int8", "int8"), "stem_precision": "int8", "head_precision": "int8"}
    spec = dataclasses.replace(SMALL, **int8)  # type: ignore[arg-type]
    held = sizes(spec)
    assert spec_schedule(spec).inputs == ("input:i8",)
    assert held["input:i8"] == 3 * 8 * 8
    assert ops(spec)["stem"].writes == ("stem:i8",)
    assert held["stem:i8"] == 4 * 8 * 8
    assert held["head:f32"] == 10 * 4


def test_without_shortcuts_nothing_is_added() -> None:
    known = ops(dataclasses.replace(SMALL, shortcuts=(False, False)))
    assert all(op.shortcut is None for op in known.values())
    assert not any("shortcut" in name for name in known)


def test_per_conv_adds_around_every_convolution() -> None:
    spec = dataclasses.replace(SMALL, style="per_conv", projection="pool_conv")
    shortcuts = {name: op.shortcut for name, op in ops(spec).items()}
    assert shortcuts["stage1.block1.conv1"] == "stem:f32"
    assert shortcuts["stage1.block1.conv2"] == "stage1.block1.conv1:f32"
    assert shortcuts["stage2.block1.conv1"] == "stage2.block1.shortcut.conv:f32"
    assert "stage2.block1.shortcut.pool" in shortcuts


@pytest.mark.parametrize("name", named_models())
def test_in_place_never_needs_more(name: str) -> None:
    peaks = peak_activation_bytes(named_spec(name))
    assert 0 < peaks["in_place"] <= peaks["naive"]
