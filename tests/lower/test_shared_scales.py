"""A sum and its residual share one int8 scale where that is asked for, and engines add them exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import MEAN, STD, pictures, random_network
from safetensors.torch import save_file

from bitskip.backends.onnx.target import model_of
from bitskip.lower import lower
from bitskip.lower.from_onnx import import_onnx
from bitskip.nn.baselines import build_baseline
from bitskip.program import Conv2d, IntegerEpilogue, Program, Tensor
from bitskip.runtime import Model
from bitskip.spec import NetworkSpec

SPEC = NetworkSpec(
    name="small", widths=(8, 12), blocks=(2, 2), precision=("w1", "w1"), shortcuts=(True, True), stem_width=8,
    input_size=12, classes=7,
)  # fmt: skip


def packed(**how: object) -> Program:
    how = {"activations": "int8", "dense": "int8", "calibration": pictures(64, SPEC, seed=5)} | how
    return lower(random_network(SPEC), MEAN, STD, **how)  # type: ignore[arg-type]


def sums(program: Program) -> list[tuple[IntegerEpilogue, Tensor, Tensor]]:
    """Return the epilogue, the residual and the result of each addition."""
    return [
        (op.epilogue, program.tensors[op.epilogue.residual], program.tensors[op.outputs[0]])
        for op in program.ops
        if isinstance(op, Conv2d)
        and isinstance(op.epilogue, IntegerEpilogue)
        and op.epilogue.residual is not None
    ]


def test_a_sum_has_the_scale_of_its_residual() -> None:
    own, shared = packed(), packed(shared_scales=True)
    assert len(sums(own)) == len(sums(shared)) == 4
    assert all(residual.scale != result.scale for _, residual, result in sums(own))
    for epilogue, residual, result in sums(shared):
        assert (residual.scale, residual.zero_point) == (result.scale, result.zero_point)
        assert epilogue.residual_multiplier == 1 << epilogue.shift
    # a group's scale holds the widest range of its members; what is not in one keeps its own
    before, after = ({t.name: t.scale for t in p.tensors if t.dtype == "i8"} for p in (own, shared))
    assert all(after[name] >= before[name] for name in before)
    assert any(after[name] == before[name] for name in before)
    x = pictures(64, SPEC)
    exact = Model(packed(activations="fp32", dense="fp32")).predict(x)
    errors = [np.abs(Model(p).predict(x) - exact).mean() for p in (own, shared)]
    assert errors[1] < 2 * errors[0]


def test_import_shares_scales_too(tmp_path: Path) -> None:
    onnx.save(model_of(packed(), rounding="exact")[0], tmp_path / "m.onnx")
    program, _ = import_onnx(tmp_path / "m.onnx", shared_scales=True)
    expected = packed(shared_scales=True)
    assert [t.scale for t in program.tensors] == pytest.approx([t.scale for t in expected.tensors], rel=1e-6)


def test_its_sums_are_int8_in_onnx_and_as_exact() -> None:
    x = pictures(200, SPEC)
    floats, different = [], []
    for shared in (False, True):
        program = packed(shared_scales=shared)
        model, converter = model_of(program, rounding="auto", pictures="pixels")
        floats.append(set(converter.floats))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        logits = session.run(None, {"picture": x})[0]
        expected = Model(program).predict(x)
        different.append(np.abs(logits - expected).mean() / expected.std())
    blocks = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")
    assert floats[0] - floats[1] == {f"{block}.conv2" for block in blocks}
    assert floats[1] < floats[0]
    assert max(different) < 0.01


def test_real_activations_have_no_scales(bitskip: Any, tmp_path: Path) -> None:
    """The command says so before anything is written."""
    save_file(build_baseline("mlperf-resnet8").state_dict(), tmp_path / "w.safetensors")
    out = tmp_path / "m.bitskip"
    asked = ("--weights", str(tmp_path / "w.safetensors"), "--shared-scales", "-o", str(out))
    ended = bitskip("pack", "baseline:mlperf-resnet8", *asked)
    assert ended.code == 2
    assert "--shared-scales is for int8 activations, but these are fp32; leave it out" in " ".join(
        ended.err.split()
    )
    assert not out.exists()
