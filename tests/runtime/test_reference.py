"""The numpy reference computes what docs/program.md says, beside plain loops written from that page."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from bitskip.backends.reference import Reference, run_reference
from bitskip.bits import pack_signs, unpack_signs
from bitskip.program import (
    Activation,
    Affine,
    AvgPool,
    Binarize,
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    MaxPool,
    Op,
    Output,
    Program,
    Quantize,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
)


def observed(program: Program, images: npt.NDArray[np.uint8]) -> dict[int, npt.NDArray[Any]]:
    """Run and return every tensor."""
    seen: dict[int, npt.NDArray[Any]] = {}
    run_reference(program, images, observe=lambda number, values: seen.update({number: values.copy()}))
    return seen


def program_of(tensors: list[Tensor], ops: list[Op]) -> Program:
    """Give each tensor a place, and end with a pool and a head so that there are logits."""
    placed, end = [tensors[0]], 0
    tensors = [*tensors, Tensor("f32", (1, 1, 1)), Tensor("f32", (1, 1, 1))]
    channels = tensors[1].shape[2]
    tensors[-2] = Tensor("f32", (1, 1, channels))
    pool = GlobalAvgPool("pool", 1, len(tensors) - 2)
    one = np.ones((1, 1, 1, channels), np.float32)
    head = Conv2d("head", len(tensors) - 2, (len(tensors) - 1,), "f32", one, (1, 1), (0, 0), FloatEpilogue())
    for t in tensors[1:]:
        placed.append(Tensor(t.dtype, t.shape, end, t.scale, t.zero_point))
        end += -(-t.size // 64) * 64
    return Program("p", tuple(placed), (*ops, pool, head), (Output("logits", len(placed) - 1),), end)


def with_picture(shape: tuple[int, int, int], *tensors: Tensor, ops: list[Op]) -> Program:
    """Start with the picture as f32, tensor 1, scaled by 1/64 about 128."""
    channels = shape[2]
    scale, bias = np.full(channels, 1 / 64, np.float32), np.full(channels, -2, np.float32)
    picture = QuantizeInput("picture", 0, 1, scale, bias)
    return program_of([Tensor("u8", shape), Tensor("f32", shape), *tensors], [picture, *ops])


def images(shape: tuple[int, int, int], count: int = 2, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def slow_conv(
    x: npt.NDArray[np.int64], w: npt.NDArray[np.int64], stride: int, pad: int, outside: int
) -> npt.NDArray[np.int64]:
    """Convolve integers (N, H, W, I) by (O, KH, KW, I), one output at a time."""
    count, height, width, _ = x.shape
    out_channels, kh, kw, _ = w.shape
    out_h, out_w = (height + 2 * pad - kh) // stride + 1, (width + 2 * pad - kw) // stride + 1
    y = np.zeros((count, out_h, out_w, out_channels), np.int64)
    for n, i, j, o, a, b in np.ndindex(count, out_h, out_w, out_channels, kh, kw):
        row, column = i * stride + a - pad, j * stride + b - pad
        inside = 0 <= row < height and 0 <= column < width
        tap = x[n, row, column] if inside else np.full(x.shape[-1], outside)
        y[n, i, j, o] += int((tap * w[o, a, b]).sum())
    return y


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pad"),
    [(1, 1, 1, 0), (3, 3, 1, 1), (5, 3, 2, 1), (65, 3, 1, 1), (4, 5, 3, 2), (2, 7, 2, 3), (64, 1, 2, 0)],
)
@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_signs_times_signs(channels: int, kernel: int, stride: int, pad: int, pad_value: int) -> None:
    rng = np.random.default_rng(channels)
    shape, out = (6, 7, channels), 3
    weight = np.where(rng.random((out, kernel, kernel, channels)) < 0.5, -1, 1)
    size = tuple((side + 2 * pad - kernel) // stride + 1 for side in shape[:2])
    threshold = rng.normal(size=channels).astype(np.float32)
    program = with_picture(
        shape,
        Tensor("bits", shape),
        Tensor("f32", (*size, out)),
        ops=[
            Affine("sign", 1, (2,), FloatEpilogue(threshold=threshold)),
            Conv2d("conv", 2, (3,), "w1", pack_signs(weight), (stride,) * 2, (pad,) * 2, FloatEpilogue(),
                   pad_value),
        ],
    )  # fmt: skip
    seen = observed(program, images(shape))
    signs = np.where(seen[1] - threshold >= 0, 1, -1)
    np.testing.assert_array_equal(np.where(seen[2], -1, 1), signs)
    np.testing.assert_array_equal(seen[3], slow_conv(signs, weight, stride, pad, pad_value))


@pytest.mark.parametrize("weight_dtype", ["i8", "w1"])
def test_integer_convolution_and_its_epilogue(weight_dtype: str) -> None:
    """Against Python's own integers, which neither round nor overflow."""
    rng = np.random.default_rng(3)
    shape, out, zero, target_zero = (5, 6, 3), 4, -100, 17
    weight = rng.integers(-127, 128, (out, 3, 3, 3))
    stored: Any = weight.astype(np.int8)
    if weight_dtype == "w1":
        weight = np.where(weight < 0, -1, 1)
        stored = pack_signs(weight)
    multiplier = rng.integers(-(1 << 30), 1 << 30, out)
    bias, residual_multiplier, shift = rng.integers(-(1 << 45), 1 << 45, out), 123_456_789, 34
    table = rng.integers(-128, 128, (3, 256)).astype(np.int8)
    scale = float(np.float32(0.1))
    tensors = [
        Tensor("u8", shape),
        Tensor("f32", shape),
        Tensor("i8", shape, 0, scale, zero),
        Tensor("i8", (5, 6, out), 0, scale, 5),
        Tensor("i8", (5, 6, out), 0, scale, target_zero),
    ]

    def epilogue(**more: Any) -> IntegerEpilogue:
        return IntegerEpilogue(multiplier.astype(np.int32), bias, shift, **more)

    one = np.ones(3, np.float32)
    ops: list[Op] = [
        QuantizeInput("real", 0, 1, one, one),
        QuantizeInput("picture", 0, 2, table=table),
        Conv2d("first", 2, (3,), weight_dtype, stored, (1, 1), (1, 1), epilogue(pre_relu=True)),
        Conv2d("second", 2, (4,), weight_dtype, stored, (1, 1), (1, 1),
               epilogue(residual=3, residual_multiplier=residual_multiplier, post_relu=True)),
    ]  # fmt: skip
    batch = images(shape)
    seen = observed(program_of(tensors, ops), batch)
    expected_input = table[np.arange(3), batch]
    np.testing.assert_array_equal(seen[2], expected_input)
    acc = slow_conv(expected_input.astype(np.int64) - zero, weight, 1, 1, 0)
    for index in np.ndindex(acc.shape):
        c = index[-1]
        t = int(acc[index]) * int(multiplier[c]) + int(bias[c])
        first = max(-128, min(127, ((max(t, 0) + 2 ** (shift - 1)) >> shift) + 5))
        assert seen[3][index] == first
        t = max(t + (first - 5) * residual_multiplier, 0)
        assert seen[4][index] == max(-128, min(127, ((t + 2 ** (shift - 1)) >> shift) + target_zero))


def test_threshold_epilogue() -> None:
    shape = (3, 3, 8)
    weight = np.where(np.arange(9 * 8 * 4).reshape(4, 3, 3, 8) % 3 == 0, -1, 1)
    threshold = np.array([0, 5, -(1 << 31), -(1 << 31)], np.int32)
    flip = np.array([False, True, False, True])
    program = with_picture(
        shape, Tensor("bits", shape), Tensor("bits", (3, 3, 4)),
        ops=[
            Affine("sign", 1, (2,), FloatEpilogue()),
            Conv2d("conv", 2, (3,), "w1", pack_signs(weight), (1, 1), (1, 1),
                   ThresholdEpilogue(threshold, flip)),
        ],
    )  # fmt: skip
    seen = observed(program, images(shape))
    acc = slow_conv(np.where(seen[2], -1, 1), weight, 1, 1, 0)
    expected = np.stack([acc[..., 0] < 0, acc[..., 1] >= 5, acc[..., 2] > 1e9, acc[..., 3] < 1e9], axis=-1)
    np.testing.assert_array_equal(seen[3], expected)


def test_float_convolutions_are_torch_s() -> None:
    rng = np.random.default_rng(0)
    shape = (7, 6, 5)
    real = rng.normal(size=(4, 3, 3, 5)).astype(np.float32)
    signs = np.where(real < 0, -1, 1)
    program = with_picture(
        shape, Tensor("f32", (4, 3, 4)), Tensor("f32", (4, 3, 4)),
        ops=[
            Conv2d("real", 1, (2,), "f32", real, (2, 2), (1, 1), FloatEpilogue()),
            Conv2d("signs", 1, (3,), "w1", pack_signs(signs), (2, 2), (1, 1), FloatEpilogue()),
        ],
    )  # fmt: skip
    seen = observed(program, images(shape))
    x = torch.from_numpy(seen[1]).permute(0, 3, 1, 2)
    for number, weight in ((2, real), (3, signs.astype(np.float32))):
        expected = F.conv2d(x, torch.from_numpy(weight).permute(0, 3, 1, 2), stride=2, padding=1)
        np.testing.assert_allclose(seen[number], expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "relu", "prelu", "rprelu"])
def test_float_epilogue_rounds_each_operation(kind: str) -> None:
    """Each step in float64, rounded to float32: one rounding an operation, in the stated order."""
    rng = np.random.default_rng(1)
    shape = (4, 4, 6)
    vector = {name: rng.normal(size=6).astype(np.float32) for name in "abcdefg"}
    parts = {"prelu": "slope", "rprelu": "slope shift_in shift_out"}.get(kind, "").split()
    activation = Activation(kind, **{part: vector["cde"[i]] for i, part in enumerate(parts)})
    target = Tensor("i8", shape, 0, float(np.float32(0.037)), -3)
    program = with_picture(
        shape, Tensor("f32", shape), target, Tensor("f32", shape), Tensor("bits", shape),
        ops=[
            Affine("first", 1, (2, 3), FloatEpilogue(vector["a"], vector["b"], activation)),
            Affine("second", 2, (4, 5),
                   FloatEpilogue(vector["f"], None, activation, None, activation, vector["g"])),
        ],
    )  # fmt: skip
    seen = observed(program, images(shape))

    def f32(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.astype(np.float32).astype(np.float64)

    def act(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if kind == "relu":
            return np.maximum(y, 0)
        if kind == "prelu":
            return np.where(y >= 0, y, f32(y * vector["c"]))
        if kind == "rprelu":
            z = f32(y - vector["d"])
            return f32(np.where(z >= 0, z, f32(z * vector["c"])) + vector["e"])
        return y

    y = act(f32(f32(seen[1].astype(np.float64) * vector["a"]) + vector["b"]))
    np.testing.assert_array_equal(seen[2], y)
    inverse = np.float32(1) / np.float32(0.037)
    q = np.clip(np.rint(f32(y * inverse)) - 3, -128, 127)
    np.testing.assert_array_equal(seen[3], q)
    again = act(act(f32(y * vector["f"])))
    np.testing.assert_array_equal(seen[4], again)
    np.testing.assert_array_equal(seen[5], ~(f32(again - vector["g"]) >= 0))


def test_the_sign_of_zero_is_plus_one() -> None:
    """Also of -0.0, and of a value that equals its threshold."""
    shape = (1, 1, 6)
    value = np.array([0, -0.0, 0.25, 0.25, -1e-45, 0.3], np.float32)
    threshold = np.array([0, 0, 0.25, 0.5, 0, 0.3], np.float32)
    zero = np.zeros(6, np.float32)
    tensors = [Tensor("u8", shape), Tensor("f32", shape), *[Tensor("bits", shape)] * 3]
    ops: list[Op] = [
        QuantizeInput("picture", 0, 1, zero, value),
        Affine("with", 1, (2,), FloatEpilogue(threshold=threshold)),
        Affine("without", 1, (3,), FloatEpilogue()),
        Binarize("binarize", 1, 4, threshold),
    ]
    seen = observed(program_of(tensors, ops), np.zeros((1, *shape), np.uint8))
    assert seen[2].ravel().tolist() == [False, False, False, True, True, False]
    assert seen[3].ravel().tolist() == [False, False, False, False, True, False]
    assert seen[4].ravel().tolist() == seen[2].ravel().tolist()


def test_rounding_is_to_even_and_saturates() -> None:
    shape = (1, 1, 8)
    scale = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
    bias = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 0], np.float32)
    tensors = [Tensor("u8", shape), Tensor("f32", shape), Tensor("i8", shape, 0, 1.0, 1)]
    ops: list[Op] = [QuantizeInput("picture", 0, 1, scale, bias), Quantize("quantize", 1, 2)]
    seen = observed(program_of(tensors, ops), np.zeros((1, *shape), np.uint8))
    assert seen[2].ravel().tolist() == [1, 3, 3, 1, -1, 127, -128, 1]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "ceil"), [(8, 2, 2, True), (7, 2, 2, True), (9, 3, 2, False)]
)
def test_average_pools_are_torch_s(size: int, kernel: int, stride: int, ceil: bool) -> None:
    shape = (size, size + 1, 3)
    x = torch.zeros(1, 3, *shape[:2])
    out = F.avg_pool2d(x, kernel, stride, ceil_mode=ceil, count_include_pad=False).shape[2:]
    pool = AvgPool("pool", 1, 2, (kernel,) * 2, (stride,) * 2)
    seen = observed(with_picture(shape, Tensor("f32", (*out, 3)), ops=[pool]), images(shape))
    x = torch.from_numpy(seen[1]).permute(0, 3, 1, 2)
    expected = F.avg_pool2d(x, kernel, stride, ceil_mode=ceil, count_include_pad=False)
    np.testing.assert_allclose(seen[2], expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)


@pytest.mark.parametrize("include", [False, True])
def test_average_pools_count_padding_where_asked(include: bool) -> None:
    shape = (6, 6, 2)
    pool = AvgPool("pool", 1, 2, (3, 3), (2, 2), (1, 1), count_padding=include)
    seen = observed(with_picture(shape, Tensor("f32", (3, 3, 2)), ops=[pool]), images(shape))
    x = torch.from_numpy(seen[1]).permute(0, 3, 1, 2)
    expected = F.avg_pool2d(x, 3, 2, 1, count_include_pad=include).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(seen[2], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_max_pools_are_torch_s(dtype: str) -> None:
    shape = (7, 6, 3)
    quantization = (float(np.float32(0.02)), -9) if dtype == "i8" else (1.0, 0)
    tensors = [Tensor(dtype, shape, 0, *quantization), Tensor(dtype, (4, 3, 3), 0, *quantization)]
    first: Op = Quantize("quantize", 1, 2) if dtype == "i8" else Affine("copy", 1, (2,), FloatEpilogue())
    pool = MaxPool("pool", 2, 3, (3, 3), (2, 2), (1, 1))
    seen = observed(with_picture(shape, *tensors, ops=[first, pool]), images(shape))
    x = torch.from_numpy(seen[2].astype(np.float32)).permute(0, 3, 1, 2)
    expected = F.max_pool2d(x, 3, 2, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(seen[3], expected)


def test_batches_and_single_pictures_agree() -> None:
    from programs import every_op

    program = every_op()
    batch = images((6, 5, 3), 5)
    reference = Reference(program)
    together = reference.run(batch)
    apart = np.concatenate([reference.run(batch[n : n + 1]) for n in range(5)])
    # A machine's BLAS may add a batch in another order; what that rounds away is of the largest sum's size.
    np.testing.assert_allclose(together, apart, rtol=1e-6, atol=1e-6 * float(np.abs(together).max()))
    assert unpack_signs(pack_signs(np.ones((1, 3))), 3).tolist() == [[1, 1, 1]]
