"""The cost table: what is measured, what is predicted from it, and what a file that is not one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitskip.backends.native import tile_rate
from bitskip.bench import costs
from bitskip.bench.costs import ConvCost, CostTable, calibrate
from bitskip.bench.speed import measure_layers
from bitskip.errors import BitskipError, RunError
from bitskip.program import Conv2d, op_outputs
from programs import every_op


def table(*rows: ConvCost) -> CostTable:
    return CostTable("scalar", (), rows, {"float bits": 2.0, "float residual": 0.5}, 1.0)


ROWS = (
    ConvCost("i8_w1", 3, 1, 32, 32, 16, 50.0),
    ConvCost("i8_w1", 3, 1, 128, 128, 16, 800.0),  # the same time a multiply-accumulate
    ConvCost("i8_w1", 1, 1, 32, 32, 16, 1.0),
)


def test_measured_shapes_are_given_back_and_others_lie_between() -> None:
    costs_ = table(*ROWS)
    assert costs_.conv_us("i8_w1", 3, 1, 32, 32, 16) == pytest.approx(50.0)
    assert costs_.conv_us("i8_w1", 3, 1, 64, 64, 16) == pytest.approx(4 * 50.0)
    assert costs_.conv_us("i8_w1", 3, 1, 64, 32, 32) == pytest.approx(2 * 4 * 50.0)
    with pytest.raises(RunError, match="has no convolution of f32_f32"):
        costs_.conv_us("f32_f32", 3, 1, 32, 32, 16)


def test_epilogues_and_other_operations_cost_an_element_each() -> None:
    program = every_op()
    rows = [
        ConvCost(f"{a}_{w}", 3, 1, 32, 32, 16, 1e-9)
        for a in ("f32", "i8", "bits")
        for w in ("f32", "i8", "w1")
    ]
    costs_ = table(*rows)
    for op in program.ops:
        if isinstance(op, Conv2d) and program.tensors[op.input].dtype != "i32":
            continue
        height, width, channels = program.tensors[op_outputs(op)[0]].shape
        assert costs_.op_us(program, op) == pytest.approx(height * width * channels / 1e3)
    assert costs_.predict_us(program) == pytest.approx(sum(costs_.op_us(program, op) for op in program.ops))


def test_a_measured_table_predicts_its_own_rows_and_survives_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "CHANNELS", (16,))
    found = calibrate("scalar", sides=(4,))
    assert len(found.convs) == len(costs.TYPES) * (len(costs.SHAPES) + 2)  # and from 3 channels by 3x3
    assert all(row.us > 0 for row in found.convs)
    for row in found.convs:
        given = (row.types, row.kernel, row.stride, row.inputs, row.outputs, row.side)
        assert found.conv_us(*given) == pytest.approx(row.us)
    found.save(tmp_path / "costs.json")
    assert CostTable.load(tmp_path / "costs.json") == found


def test_a_file_that_is_not_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"version": 0}')
    with pytest.raises(BitskipError, match=r"costs\.json is not a cost table of this version"):
        CostTable.load(path)


def test_layers_stand_beside_the_ceiling_of_their_kernel() -> None:
    program = every_op()
    layers = measure_layers(program, "scalar", repeats=2)
    for layer, op in zip(layers, program.ops, strict=True):
        conv = isinstance(op, Conv2d) and program.tensors[op.input].dtype != "i32"
        tiled = conv and op.groups == 1
        assert (layer.macs_per_ns is not None) == (layer.ceiling_macs_per_ns is not None) == tiled
    assert tile_rate("conv_i8_i8_scalar") > 0
    assert tile_rate("plain_scalar") is None
