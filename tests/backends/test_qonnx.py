"""A Program as QONNX gives what the reference gives in qonnx's own executor, with the types it stands for."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitskip.backends.onnx.qonnx_target import TARGET, qonnx_model_of
from bitskip.backends.onnx.weights import WEIGHTS, integer_weight
from bitskip.backends.reference import run_reference
from bitskip.data import load_mini
from bitskip.errors import RunError
from bitskip.program import Activation, Conv2d, FloatEpilogue, GlobalAvgPool, Program, QuantizeInput
from bitskip.program import ThresholdEpilogue as Threshold
from bitskip.zoo import model_path
from programs import Maker, every_op

pytest.importorskip("qonnx")
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.change_batchsize import ChangeBatchSize
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

HYBRID = "resnet14-hybrid-all-x0.25-int8"


def pictures(program: Program, count: int = 4) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *program.input_shape), dtype=np.uint8)


def inferred(model: Any, batch: int = 1) -> Any:
    wrapped = ModelWrapper(model)
    if batch != 1:
        wrapped = wrapped.transform(ChangeBatchSize(batch))
    return wrapped.transform(InferShapes()).transform(InferDataTypes())


def execute(model: Any, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what qonnx computes, with its check that values keep to their types (it is on by default)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (made,) = execute_onnx(model, {model.graph.input[0].name: x}).values()
    return np.asarray(made, np.float32)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_op(weights: str) -> None:
    program = every_op()
    model, _ = qonnx_model_of(program, weights=weights, pictures="pixels")
    x = pictures(program, 1)
    np.testing.assert_allclose(execute(inferred(model), x), run_reference(program, x), atol=1e-4)


@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_thresholds_are_exact(pad_value: int) -> None:
    """Flips and thresholds out of reach among them; each filter of signs is BIPOLAR."""
    m = Maker((6, 5, 3))
    real, signs = m.tensor("f32", (6, 5, 3)), m.tensor("bits", (6, 5, 20))
    m.ops.append(
        QuantizeInput("picture", 0, real, np.full(3, 1 / 64, np.float32), np.full(3, -2, np.float32))
    )
    m.ops.append(
        Conv2d("stem", real, (signs,), "f32", m.floats(20, 3, 3, 3), (1, 1), (1, 1),
               FloatEpilogue(None, m.floats(20), Activation("relu"), threshold=m.floats(20)))
    )  # fmt: skip
    binary = m.tensor("bits", (6, 5, 70))
    threshold = m.rng.integers(-12, 12, 70).astype(np.int32)
    threshold[:4] = [-(1 << 31), (1 << 31) - 1, 180, -180]
    m.ops.append(
        Conv2d("threshold", signs, (binary,), "w1", m.signs(70, 3, 3, 20), (1, 1), (1, 1),
               Threshold(threshold, m.rng.random(70) < 0.5), pad_value)
    )  # fmt: skip
    last, logits = m.tensor("f32", (6, 5, 4)), m.tensor("f32", (1, 1, 4))
    m.ops.append(Conv2d("last", binary, (last,), "w1", m.signs(4, 1, 1, 70), (1, 1), (0, 0), FloatEpilogue()))
    m.ops.append(GlobalAvgPool("pool", last, logits))
    program = m.done(logits)
    made, converter = qonnx_model_of(program, pictures="pixels")
    x = pictures(program, 8)
    model = inferred(made, 8)
    np.testing.assert_allclose(execute(model, x), run_reference(program, x), atol=1e-5)
    assert converter.kinds == {"BipolarQuant": 3, "MultiThreshold": 1}
    assert str(model.get_tensor_datatype("threshold.sign")) == "BIPOLAR"
    assert str(model.get_tensor_datatype("threshold.kernel")) == "BIPOLAR"


@pytest.fixture(scope="module")
def program() -> Program:
    return Program.load(model_path(HYBRID))


class TestAHybridNetwork:
    """The smallest hybrid of the zoo: int8 and 1-bit weights, residuals, strides."""

    @pytest.mark.parametrize("rounding", ["auto", "exact"])
    def test_same_answers(self, program: Program, rounding: str) -> None:
        """In float64 each step and each logit is the packed model's."""
        x = load_mini().test_images[:12]
        expected = run_reference(program, x)
        made, _ = qonnx_model_of(program, pictures="pixels", rounding=rounding)
        logits = execute(inferred(made, len(x)), x)
        assert (logits.argmax(1) == expected.argmax(1)).all()
        if rounding == "exact":
            np.testing.assert_array_equal(logits, expected)
        else:
            assert np.abs(logits - expected).max() < 0.1

    def test_types(self, program: Program) -> None:
        model = inferred(qonnx_model_of(program)[0])
        kinds = Counter(str(model.get_tensor_datatype(name)) for name in model.get_all_tensor_names())
        convs = [op for op in program.ops if isinstance(op, Conv2d)]
        assert kinds["BIPOLAR"] == sum(op.weight_dtype == "w1" for op in convs) == 9
        assert kinds["UINT8"] == len(convs) - 1  # what each ReLU leaves
        assert kinds["INT9"] == 1  # the picture, whose zero point is not 0
        assert kinds["INT32"] == len(convs) - 1  # sums of steps and whole weights

    @pytest.mark.parametrize("weights", WEIGHTS)
    def test_size(self, program: Program, weights: str, tmp_path: Path) -> None:
        out = tmp_path / "m.onnx"
        facts = TARGET.export(program, out, {"binary-weights": weights}).facts
        bits = {"bits": 1, "int8": 8, "fp32": 32}[weights]
        stored = 0
        for op in program.ops:
            if isinstance(op, Conv2d):
                count = integer_weight(op, program.tensors[op.input].shape[2]).size
                stored += count * (bits if op.weight_dtype == "w1" else max(8, bits))
        assert stored / 8 < facts["bytes"] == out.stat().st_size < stored / 8 + 40_000


def test_cleanup_folds_bits_to_signs() -> None:
    """`qonnx-cleanup` is what FINN does first; kernels are signs then, as Brevitas writes them."""
    program = every_op()
    made, _ = qonnx_model_of(program, weights="bits", pictures="pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cleanup_model(ModelWrapper(made))
    kernels = [model.get_initializer(node.input[0]) for node in model.get_nodes_by_op_type("BipolarQuant")]
    constant = [kernel for kernel in kernels if kernel is not None]
    assert len(constant) == sum(getattr(op, "weight_dtype", "") == "w1" for op in program.ops)
    assert all((np.abs(kernel) == 1).all() for kernel in constant)
    x = pictures(program, 1)
    np.testing.assert_allclose(execute(model, x), run_reference(program, x), atol=1e-4)


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--binary-weights is 'int4', expected one of bits, int8, fp32"):
        qonnx_model_of(every_op(), weights="int4")
    out = tmp_path / "never.onnx"
    with pytest.raises(RunError, match="use --input pixels"):
        TARGET.export(every_op(), out, {})
    assert not out.exists()
