"""Operations that came through the table of ops: native on every instruction set here = the numpy reference.

Integers and single float32 operations to the bit, float sums within their tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitskip.backends.native import NativeProgram, available_isas
from bitskip.backends.reference import run_reference
from bitskip.program import (
    Activation,
    Affine,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    FloatEpilogue,
    IntegerEpilogue,
    Lookup,
    Mul,
    Output,
    Program,
    QuantizeInput,
    Resize,
)
from bitskip.program.schema import ACTIVATIONS
from programs import Maker

ISAS = available_isas()
I8 = {"scale": 0.5, "zero_point": 3}


def start(shape: tuple[int, int, int], dtype: str, seed: int = 0) -> tuple[Maker, int]:
    """Return a maker whose tensor 1 is the picture in `dtype`."""
    m = Maker(shape, seed)
    channels = shape[2]
    if dtype == "i8":
        made = m.tensor("i8", shape, **I8)
        m.ops.append(QuantizeInput("picture", 0, made, table=m.int8(channels, 256)))
    else:
        made = m.tensor("f32", shape)
        m.ops.append(QuantizeInput("picture", 0, made, m.floats(channels) / 20, m.floats(channels)))
    return m, made


def finish(m: Maker, number: int) -> Program:
    """Return the program that gives tensor `number`, as f32."""
    tensor = m.tensors[number]
    if tensor.dtype == "i8":
        real = m.tensor("f32", tensor.shape)
        m.ops.append(Dequantize("real", number, real))
        number = real
    return Program("ops", tuple(m.tensors), tuple(m.ops), (Output("out", number),), m.end)


def agree(program: Program, isa: str, *, exact: bool = True) -> None:
    height, width, channels = program.input_shape
    images = np.random.default_rng(1).integers(0, 256, (3, height, width, channels), dtype=np.uint8)
    expected = run_reference(program, images)
    for threads in (1, 2):
        got = NativeProgram(program, threads, isa, guarded=True).run(images)
        if exact:
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [kind for kind, (_, vectors, _) in ACTIVATIONS.items() if not vectors])
def test_activations(kind: str, isa: str) -> None:
    m, x = start((7, 9, 37), "f32")
    y = m.tensor("f32", (7, 9, 37))
    m.ops.append(Affine("act", x, (y,), FloatEpilogue(m.floats(37) * 8, m.floats(37), Activation(kind))))
    agree(finish(m, y), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_exponentials_of_extreme_values_stay_defined(isa: str) -> None:
    m, x = start((4, 64, 1), "f32")
    y = m.tensor("f32", (4, 64, 1))
    scale = np.array([3e38], np.float32)
    epilogue = FloatEpilogue(scale, None, Activation("silu"), post=Activation("sigmoid"))
    m.ops.append(Affine("act", x, (y,), epilogue))
    with np.errstate(all="ignore"):
        agree(finish(m, y), isa)


GROUPED = [
    # channels in, channels out, groups, kernel, stride, padding
    (8, 8, 8, (3, 3), (1, 1), (1, 1)),
    (37, 37, 37, (3, 3), (2, 1), (1, 0)),
    (64, 64, 64, (5, 5), (1, 1), (2, 2)),
    (33, 33, 33, (9, 9), (1, 1), (4, 4)),  # more taps than a kernel takes at once
    (32, 64, 32, (3, 3), (1, 1), (1, 1)),  # two outputs a channel
    (24, 36, 4, (3, 3), (1, 2), (1, 1)),
    (16, 16, 2, (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_convolutions_with_groups(case: Any, dtype: str, isa: str) -> None:
    inputs, outputs, groups, kernel, stride, padding = case
    shape = (11, 45, inputs)  # wider than a tile has pixels
    m, x = start(shape, dtype)
    height, width = ((shape[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in range(2))
    y = m.tensor(dtype, (height, width, outputs), **(I8 if dtype == "i8" else {}))
    if dtype == "i8":
        weight = m.int8(outputs, *kernel, inputs // groups)
        multiplier = m.rng.integers(1, 1 << 20, outputs).astype(np.int32)
        epilogue: Any = IntegerEpilogue(multiplier, m.rng.integers(-(1 << 30), 1 << 30, outputs), 28)
    else:
        weight = m.floats(outputs, *kernel, inputs // groups)
        epilogue = FloatEpilogue(m.floats(outputs), m.floats(outputs), Activation("relu6"))
    m.ops.append(Conv2d("conv", x, (y,), dtype, weight, stride, padding, epilogue, groups=groups))
    program = finish(m, y)
    agree(program, isa, exact=dtype == "i8")
    engine = NativeProgram(program, 1, isa)
    depthwise = groups == inputs == outputs
    assert engine.kernels[1].startswith("conv_depthwise_" if depthwise else "conv_grouped_")


DILATED = [
    # dtype of the input, weights, channels in, channels out, groups, kernel, stride, padding, dilation
    ("f32", "f32", 5, 33, 1, (3, 3), (1, 1), (2, 2), (2, 2)),
    ("f32", "w1", 40, 9, 1, (3, 2), (2, 1), (0, 3), (3, 5)),
    ("i8", "i8", 37, 34, 1, (3, 3), (1, 2), (4, 4), (4, 4)),
    ("i8", "w1", 64, 32, 1, (3, 3), (1, 1), (6, 2), (6, 2)),
    ("bits", "w1", 70, 40, 1, (3, 3), (1, 1), (2, 12), (2, 12)),
    ("f32", "f32", 64, 64, 64, (3, 3), (1, 1), (12, 12), (12, 12)),
    ("i8", "i8", 37, 37, 37, (5, 3), (2, 1), (4, 3), (2, 3)),
    ("f32", "f32", 24, 36, 4, (3, 3), (1, 2), (1, 1), (1, 2)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", DILATED, ids=str)
def test_dilated_convolutions(case: Any, isa: str) -> None:
    dtype, weights, inputs, outputs, groups, kernel, stride, padding, dilation = case
    m, x = start((17, 29, inputs), "i8" if dtype == "i8" else "f32")
    if dtype == "bits":
        signs = m.tensor("bits", (17, 29, inputs))
        m.ops.append(Binarize("signs", x, signs, m.floats(inputs) * 6))
        x = signs
    reach = [dilation[a] * (kernel[a] - 1) + 1 for a in range(2)]
    height, width = (((17, 29)[a] + 2 * padding[a] - reach[a]) // stride[a] + 1 for a in range(2))
    made = {"f32": m.floats, "i8": m.int8, "w1": m.signs}[weights]
    weight = made(outputs, *kernel, inputs // groups)
    y = m.tensor("f32", (height, width, outputs))
    epilogue = FloatEpilogue(m.floats(outputs), m.floats(outputs), Activation("relu"))
    for pad_value in (0, 1, -1) if dtype == "bits" else (0,):
        m.ops.append(
            Conv2d("conv", x, (y,), weights, weight, stride, padding, epilogue, pad_value,
                   groups=groups, dilation=dilation)
        )  # fmt: skip
        agree(finish(m, y), isa, exact=dtype != "f32")
        m.ops.pop()


def test_a_dilated_kernel_is_a_larger_one_with_zeros_between_its_taps() -> None:
    """The reference, against the same weights spread over the kernel's whole reach."""
    images = np.random.default_rng(2).integers(0, 256, (2, 9, 8, 4), dtype=np.uint8)
    results = []
    for spread in (False, True):
        m, x = start((9, 8, 4), "i8")
        weight, dilation = m.int8(6, 3, 2, 4), (2, 3)
        if spread:
            dense = np.zeros((6, 5, 4, 4), np.int8)
            dense[:, ::2, ::3] = weight
            weight, dilation = dense, (1, 1)
        y = m.tensor("f32", (9, 5, 6))
        m.ops.append(
            Conv2d("conv", x, (y,), "i8", weight, (1, 1), (2, 0), FloatEpilogue(), dilation=dilation)
        )
        results.append(run_reference(finish(m, y), images))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(5, 7, 11, 20), (8, 8, 3, 5), (1, 1, 4, 4), (3, 65, 33, 520)], ids=str)
def test_a_bilinear_resize_is_torchs(size: tuple[int, int, int, int], isa: str) -> None:
    torch = pytest.importorskip("torch")
    height, width, rows, columns = size
    m, x = start((height, width, 19), "f32")
    y = m.tensor("f32", (rows, columns, 19))
    m.ops.append(Bilinear("bilinear", x, y))
    program = finish(m, y)
    agree(program, isa)
    images = np.random.default_rng(3).integers(0, 256, (2, height, width, 19), dtype=np.uint8)
    given = run_reference(finish(*start((height, width, 19), "f32")), images).reshape(2, height, width, 19)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(given).permute(0, 3, 1, 2), (rows, columns), mode="bilinear", align_corners=False
    )
    got = run_reference(program, images).reshape(2, rows, columns, 19)
    np.testing.assert_allclose(got, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_a_convolution_with_groups_is_one_a_group(dtype: str) -> None:
    """The reference, against dense weights with zeros between the groups."""
    images = np.random.default_rng(2).integers(0, 256, (2, 6, 6, 12), dtype=np.uint8)
    results = []
    for groups in (3, 1):
        m, x = start((6, 6, 12), dtype)
        weight = m.int8(6, 3, 3, 4) if dtype == "i8" else m.floats(6, 3, 3, 4)
        if groups == 1:
            dense = np.zeros((6, 3, 3, 12), weight.dtype)
            for o in range(6):
                dense[o, ..., 4 * (o // 2) : 4 * (o // 2) + 4] = weight[o]
            weight = dense
        y = m.tensor("f32", (6, 6, 6))
        m.ops.append(Conv2d("conv", x, (y,), dtype, weight, (1, 1), (1, 1), FloatEpilogue(), groups=groups))
        results.append(run_reference(finish(m, y), images))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_concat_resize_and_mul(dtype: str, isa: str) -> None:
    quantized = I8 if dtype == "i8" else {}
    m, x = start((5, 7, 35), dtype)
    grown, joined = m.tensor(dtype, (8, 4, 35), **quantized), m.tensor(dtype, (8, 4, 70), **quantized)
    m.ops += [Resize("resize", x, grown), Concat("concat", (grown, grown), joined)]
    factor = m.tensor(dtype, (1, 1, 70), **quantized)
    product = m.tensor(dtype, (8, 4, 70), **quantized)
    weight = m.int8(70, 8, 4, 1) if dtype == "i8" else m.floats(70, 8, 4, 1)
    if dtype == "i8":
        looked_up = m.tensor("i8", (8, 4, 70), **I8)
        m.ops.append(Lookup("lookup", joined, looked_up, m.int8(256)))
        joined = looked_up
        one = np.full(70, 1 << 10, np.int32)
        whole: Any = IntegerEpilogue(one, np.full(70, 5, np.int64), 20, post_relu=True)
        narrow: Any = IntegerEpilogue(one, np.zeros(70, np.int64), 16)
    else:
        whole, narrow = FloatEpilogue(pre=Activation("hard_sigmoid")), FloatEpilogue(m.floats(70), None)
    m.ops.append(Conv2d("factor", joined, (factor,), dtype, weight, (1, 1), (0, 0), whole, groups=70))
    m.ops.append(Mul("mul", joined, factor, (product,), narrow))
    agree(finish(m, product), isa, exact=dtype == "i8")


@pytest.mark.parametrize("isa", ISAS)
def test_tables_of_every_remainder_of_vectors(isa: str) -> None:
    for width in (19, 16, 15, 1):  # with 17 channels 323 = 2 * 128 + 2 * 32 + 3 bytes, and so on
        m, x = start((1, width, 17), "i8")
        looked_up = m.tensor("i8", (1, width, 17), **I8)
        m.ops.append(Lookup("lookup", x, looked_up, m.rng.permutation(256).astype(np.uint8).view(np.int8)))
        agree(finish(m, looked_up), isa, exact=True)


def test_resize_takes_the_pixel_whose_part_of_the_picture_it_is() -> None:
    m, x = start((2, 3, 1), "f32")
    y = m.tensor("f32", (4, 2, 1))
    m.ops.append(Resize("resize", x, y))
    images = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    program = finish(m, y)
    given = run_reference(finish(*start((2, 3, 1), "f32")), images).reshape(2, 3)
    got = run_reference(program, images).reshape(4, 2)
    np.testing.assert_array_equal(got, given[[0, 0, 1, 1]][:, [0, 1]])
