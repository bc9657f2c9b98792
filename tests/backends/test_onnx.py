"""A Program as ONNX gives what the reference gives, in ONNX Runtime and OpenVINO, and is fused by both."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip.backends.onnx.requantize import Linear, requantize, residual_factor
from bitskip.backends.onnx.target import TARGET, exact_layers, model_of
from bitskip.backends.onnx.weights import WEIGHTS
from bitskip.backends.reference import run_reference
from bitskip.bits import pack_signs
from bitskip.data import load_mini
from bitskip.errors import RunError
from bitskip.program import (
    Activation,
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Program,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
)
from bitskip.zoo import model_path
from programs import I8, Maker, every_op

BINARY = "resnet14-binary-all-int8"  # the 371 KB network


def pictures(program: Program, count: int = 4, seed: int = 0) -> npt.NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, *program.input_shape), dtype=np.uint8)


def normalised(program: Program, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    real = (x / 255 - np.array(program.mean)) / np.array(program.std)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2).astype(np.float32))


def session(model: Any, **options: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def run(model: Any, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = session(model).run(None, {"picture": x})[0]
    return logits


def fused_ops(model: Any, folder: Path) -> Counter[str]:
    path = folder / "fused.onnx"
    session(model, optimized_model_filepath=str(path))
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_op(weights: str) -> None:
    program = every_op()
    model, _ = model_of(program, weights=weights, pictures="pixels")
    x = pictures(program)
    np.testing.assert_allclose(run(model, x), run_reference(program, x), atol=1e-4)


def small(
    seed: int,
    channels: int,
    kernel: int,
    stride: int,
    residual: bool,
    weight: str,
    residual_multiplier: int = 9_400_011,
) -> Program:
    """Return a program of three integer convolutions, the last with a residual if asked for."""
    m = Maker((7, 6, 3), seed)
    source = m.tensor("i8", (7, 6, 3), **I8)
    table = (np.arange(256) // 2 - 64).astype(np.int8)
    m.ops.append(QuantizeInput("picture", 0, source, table=np.stack([table] * 3)))
    padding = (kernel // 2,) * 2
    size = tuple((side + 2 * padding[0] - kernel) // stride + 1 for side in (7, 6))
    shape = (*size, channels)

    def conv(name: str, x: int, inputs: int, y: int, step: int, **more: Any) -> None:
        taps = kernel * kernel * inputs
        signs = weight == "w1"
        gain = 60 / (np.sqrt(taps) * 60 * (1 if signs else 70))  # about 60 steps of output
        values = (
            m.signs(channels, kernel, kernel, inputs) if signs else m.int8(channels, kernel, kernel, inputs)
        )
        multiplier = m.rng.uniform(0.5, 1.5, channels) * m.rng.choice([-1, 1], channels) * gain * 2**24
        bias = m.rng.normal(0, 20, channels) * 2**24
        epilogue = IntegerEpilogue(multiplier.astype(np.int32), bias.astype(np.int64), 24, **more)
        m.ops.append(Conv2d(name, x, (y,), weight, values, (step, step), padding, epilogue))

    first, second, third = (m.tensor("i8", shape, scale=I8["scale"], zero_point=-128) for _ in range(3))
    conv("first", source, 3, first, stride, pre_relu=True)
    same = {"residual": first, "residual_multiplier": residual_multiplier} if residual else {}
    conv("second", first, channels, second, 1, pre_relu=True, **same) if kernel % 2 else m.ops.append(
        Conv2d("second", first, (second,), "w1", m.signs(channels, 1, 1, channels), (1, 1), (0, 0),
               IntegerEpilogue(np.full(channels, 1_100_003, np.int32), np.full(channels, 7_001), 24))
    )  # fmt: skip
    m.ops.append(
        Conv2d("third", second, (third,), "w1", m.signs(channels, 1, 1, channels), (1, 1), (0, 0),
               IntegerEpilogue(np.full(channels, 4_100_003, np.int32), np.full(channels, 7_001, np.int64), 24,
                               post_relu=True))
    )  # fmt: skip
    sums, logits = m.tensor("i32", (1, 1, channels)), m.tensor("f32", (1, 1, 4))
    m.ops.append(GlobalAvgPool("pool", third, sums))
    m.ops.append(
        Conv2d("head", sums, (logits,), "i8", m.int8(4, 1, 1, channels), (1, 1), (0, 0),
               FloatEpilogue(np.full(4, 1e-3, np.float32), m.floats(4)))
    )  # fmt: skip
    return m.done(logits)


def test_a_fused_filter_of_signs_rounds_its_sums_as_the_program_does() -> None:
    """The unit and bias of a filter keep all of its sums on their side of a tie, where there are few sums."""
    rng = np.random.default_rng(0)
    channels, bound, source, result = (
        64,
        8 * 9 * 255,
        Tensor("i8", (4, 4, 8), 0, **I8),
        Tensor("i8", (4, 4, 64), 0, **I8),
    )
    part = Linear(rng.uniform(0.05, 0.3, channels), rng.normal(0, 20, channels))
    q = requantize(part, source, result, bound, signs=True)
    assert q is not None
    otherwise, nearest = [], []
    ends = (-128 - result.zero_point, 127 - result.zero_point)
    sums = np.arange(-bound, bound + 1)
    for c in range(channels):
        expected = np.clip(np.floor(sums * part.factor[c] + part.offset[c] + 0.5), *ends)
        scale = np.float32(source.scale) * q.weight_scale[c] / np.float32(result.scale)
        steps = np.rint((sums * q.unit[c] + q.bias[c]).astype(np.float32) * scale)
        otherwise.append(int((np.clip(steps, *ends) != expected).sum()))
        bias = np.rint(part.offset[c] / part.factor[c] * 64) / 64 * part.factor[c]
        steps = np.floor(sums * part.factor[c] + bias + 0.5)
        nearest.append(int((np.clip(steps, *ends) != expected).sum()))
    assert otherwise.count(0) > 0.8 * channels
    assert max(otherwise) <= 2  # of about 1,500 sums that 8 bits hold
    assert sum(otherwise) < 0.1 * sum(nearest)  # a unit of 64 and the bias nearest to the program's


def test_a_filter_that_is_multiplied_by_0_gives_its_bias() -> None:
    source, result = Tensor("i8", (4, 4, 8), 0, **I8), Tensor("i8", (4, 4, 2), 0, **I8)
    for signs in (True, False):
        q = requantize(
            Linear(np.array([0.0, 0.1]), np.array([17.25, 3.0])), source, result, 1 << 20, signs=signs
        )
        assert q is not None
        assert q.unit[0] == 0 < q.unit[1]
        assert q.bias[0] * q.bias_scale[0] / np.float32(result.scale) == pytest.approx(17.25, abs=1e-3)


def differing(program: Program, layer: str, rounding: str) -> float:
    """Return the share of a layer's codes that ONNX Runtime gives otherwise than the reference."""
    number = next(op for op in program.ops if op.name == layer).outputs[0]  # type: ignore[union-attr]
    model, converter = model_of(program, pictures="pixels", rounding=rounding)
    name = converter.codes[number]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    x, expected = pictures(program, 64), {}
    found = session(model).run([name], {"picture": x})[0].transpose(0, 2, 3, 1).astype(int) - 128
    run_reference(program, x, observe=lambda at, values: expected.update({at: values.copy()}))
    assert len(np.unique(expected[number])) > 30
    return float((found != expected[number]).mean())


def test_additions_of_one_scale_are_int8_and_exact() -> None:
    """Rounding to 8 bits before an addition of whole steps is rounding after it; of others it is not."""
    same, other = (small(3, 8, 3, 1, True, "w1", ratio) for ratio in (1 << 24, 9_400_011))
    kept = [exact_layers(program, "auto") for program in (same, other)]
    assert "second" not in kept[0]
    assert "second" in kept[1]
    assert model_of(same)[1].fused == ["second", "third"]
    assert differing(same, "second", "auto") < 0.001
    assert differing(other, "second", "fused") > 0.02
    assert differing(other, "second", "auto") < 0.001


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    channels=st.sampled_from([1, 3, 8, 9, 65]),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2]),
    residual=st.booleans(),
    weight=st.sampled_from(["w1", "i8"]),
    rounding=st.sampled_from(["exact", "fused"]),
)
def test_random_integer_programs(
    seed: int, channels: int, kernel: int, stride: int, residual: bool, weight: str, rounding: str
) -> None:
    """Exact layers differ in ties alone; fused ones by a step, and by what a step before them makes of it."""
    program = small(seed, channels, kernel, stride, residual, weight)
    model, converter = model_of(program, pictures="pixels", rounding=rounding)
    observed: dict[int, Any] = {}
    x = pictures(program, seed=seed)
    run_reference(program, x, observe=lambda number, values: observed.update({number: values.copy()}))
    for number, name in converter.codes.items():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
        made = session(model).run([name], {"picture": x})[0].transpose(0, 2, 3, 1).astype(int) - 128
        del model.graph.output[-1]
        distance = np.abs(made - observed[number])
        if rounding == "exact":
            assert distance.max() <= 2
            assert (distance > 0).sum() <= 2 + 0.01 * distance.size, name
        elif "second" not in name and "third" not in name:
            assert distance.max() <= 1
        else:
            assert distance.mean() < 1.5, name


@pytest.mark.parametrize(("numerator", "denominator"), [(33, 38), (35, 37), (1, 2), (3, 4), (1, 1), (97, 64)])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("step", [1.0, float(np.float32(0.0639068))])
def test_a_residual_alone_rounds_as_the_program(
    numerator: int, denominator: int, beyond: int, step: float
) -> None:
    """Ratios of scales put many values halfway between steps; the multiplier decides there."""
    multiplier = round(numerator / denominator * 2**30) + beyond
    q = np.arange(-128, 128) + 128
    wanted = (q * multiplier + (1 << 29)) >> 30
    factor = residual_factor(multiplier * 2.0**-30, -128, step)
    y = q.astype(np.float32) * factor
    np.testing.assert_array_equal(np.rint(y / np.float32(step)), wanted)
    assert abs(float(factor) / (numerator / denominator * step) - 1) < 1e-6


@pytest.mark.parametrize("pad_value", [0, 1, -1])
@pytest.mark.parametrize("weights", ["bits", "fp32"])
def test_threshold_epilogues_are_exact(pad_value: int, weights: str) -> None:
    """Signs times signs has no rounding; thresholds out of reach, flips and -2^31 among them."""
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
               ThresholdEpilogue(threshold, m.rng.random(70) < 0.5), pad_value)
    )  # fmt: skip
    last = m.tensor("f32", (6, 5, 4))
    m.ops.append(Conv2d("last", binary, (last,), "w1", m.signs(4, 1, 1, 70), (1, 1), (0, 0), FloatEpilogue()))
    logits = m.tensor("f32", (1, 1, 4))
    m.ops.append(GlobalAvgPool("pool", last, logits))
    program = m.done(logits)
    model, converter = model_of(program, weights=weights, pictures="pixels")
    x = pictures(program, 16)
    np.testing.assert_allclose(run(model, x), run_reference(program, x), atol=1e-5)
    assert converter.fused == (["threshold"] if weights == "bits" else [])


@pytest.fixture(scope="module")
def program() -> Program:
    return Program.load(model_path(BINARY))


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    return load_mini().test_images[:64]


class TestTheBinaryNetwork:
    """The 371 KB network of the zoo."""

    def test_one_bit_a_weight_on_disk(self, program: Program, tmp_path: Path) -> None:
        out = tmp_path / "m.onnx"
        written = TARGET.export(program, out, {})
        assert out.stat().st_size == written.facts["bytes"] <= 420_000
        weights = sum(op.weight.size * 64 for op in program.ops if getattr(op, "weight_dtype", "") == "w1")
        in_bits = [i for i in onnx.load(out).graph.initializer if i.name.endswith(".bits")]
        assert 8 * sum(np.prod(i.dims) for i in in_bits) == weights

    def test_runtime_fuses_it(self, program: Program, tmp_path: Path) -> None:
        """Every 1-bit layer and the stem is one QLinearConv, the weights computed at load."""
        ops = fused_ops(model_of(program, rounding="fused")[0], tmp_path)
        assert ops["QLinearConv"] == 15
        assert ops["QLinearAdd"] == 6
        assert not {"Gather", "Cast", "Reshape"} & set(ops)
        ops = fused_ops(model_of(program)[0], tmp_path)
        assert ops["QLinearConv"] == 8  # the stem and the six additions are exact
        assert len(exact_layers(program, "auto")) == 7

    @pytest.mark.parametrize("how", [{}, {"pictures": "pixels"}, {"weights": "int8"}, {"weights": "fp32"}])
    def test_same_answers(self, program: Program, images: npt.NDArray[np.uint8], how: dict[str, str]) -> None:
        x = images if "pictures" in how else normalised(program, images)
        expected = run_reference(program, images)
        logits = run(model_of(program, **how)[0], x)
        assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.98
        assert np.abs(logits - expected).max() < 0.2

    @pytest.mark.parametrize("rounding", ["auto", "exact"])
    def test_openvino_runs_it_in_int8(
        self, program: Program, images: npt.NDArray[np.uint8], rounding: str
    ) -> None:
        """Also where each layer is exact: it takes the float32 bias into its int8 kernel."""
        openvino = pytest.importorskip("openvino")
        import io

        content = io.BytesIO(model_of(program, rounding=rounding)[0].SerializeToString())
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        kinds = [
            (str(getattr(i["layerType"], "value", i["layerType"])),
             str(getattr(i["primitiveType"], "value", i["primitiveType"])))
            for i in info
        ]  # fmt: skip
        convolutions = [primitive for kind, primitive in kinds if kind == "Convolution"]
        assert len(convolutions) == 15
        assert sum(primitive.endswith("I8") for primitive in convolutions) >= 13
        logits = compiled([normalised(program, images)])[0]
        expected = run_reference(program, images)
        assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.98
        if rounding == "exact":
            assert np.abs(logits - expected).max() < 0.02

    def test_metadata_and_free_batch(self, program: Program) -> None:
        model, _ = model_of(program)
        kept = {entry.key: entry.value for entry in model.metadata_props}
        assert "airplane" in kept["class_names"]
        assert kept["mean"] == "[0.4914, 0.4822, 0.4465]"
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        assert (model.opset_import[0].version, model.ir_version) == (18, 8)
        assert run(model, np.zeros((3, 3, 32, 32), np.float32)).shape == (3, 10)


def test_options_are_checked() -> None:
    program = every_op()
    with pytest.raises(RunError, match="--binary-weights is 'int4', expected one of bits, int8, fp32"):
        model_of(program, weights="int4")
    with pytest.raises(RunError, match="use --input pixels"):
        TARGET.export(program, Path("never.onnx"), {})
    assert not Path("never.onnx").exists()


def test_bits_of_a_kernel_that_is_no_whole_byte() -> None:
    m = Maker((4, 4, 3))
    real, logits = m.tensor("f32", (4, 4, 3)), m.tensor("f32", (1, 1, 5))
    m.ops.append(QuantizeInput("picture", 0, real, np.ones(3, np.float32), np.zeros(3, np.float32)))
    pooled = m.tensor("f32", (1, 1, 3))
    m.ops.append(GlobalAvgPool("pool", real, pooled))
    weight = pack_signs(m.floats(5, 1, 1, 3))  # 15 bits
    m.ops.append(Conv2d("head", pooled, (logits,), "w1", weight, (1, 1), (0, 0), FloatEpilogue()))
    program = m.done(logits)
    x = pictures(program)
    np.testing.assert_allclose(
        run(model_of(program, pictures="pixels")[0], x), run_reference(program, x), rtol=1e-5
    )
