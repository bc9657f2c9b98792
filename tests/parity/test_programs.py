"""Whole Programs on every instruction set beside the reference: every op, two threads, several batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitskip.backends.native import NativeProgram, available_isas
from bitskip.backends.reference import run_reference
from bitskip.bits import pack_signs
from bitskip.errors import RunError
from bitskip.program import (
    Activation,
    Add,
    Affine,
    AvgPool,
    Binarize,
    Conv2d,
    Dequantize,
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

Shape = tuple[int, int, int]


class Builder:
    """Programs by hand: every tensor has memory of its own."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = [Tensor("u8", shape)]
        self.ops: list[Op] = []
        self.arena = 0

    def tensor(
        self, dtype: str, shape: Shape, scale: float = 0.0625, zero_point: int = 0, at: int = -1
    ) -> int:
        offset = self.arena if at < 0 else self.tensors[at].offset
        t = Tensor(dtype, shape, offset, scale if dtype == "i8" else 1.0, zero_point)
        self.tensors.append(t)
        self.arena = max(self.arena, -(-(offset + t.size) // 64) * 64)
        return len(self.tensors) - 1

    def floats(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape).astype(np.float32)

    def weight(self, dtype: str, shape: tuple[int, int, int, int]) -> Any:
        if dtype == "w1":
            return pack_signs(self.floats(*shape))
        if dtype == "i8":
            return self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.floats(*shape) / np.float32(np.sqrt(np.prod(shape[1:])))

    def conv(
        self, source: int, dtype: str, shape: Shape, outputs: tuple[int, ...], epilogue: Any, kernel: int = 3,
        **more: Any,
    ) -> tuple[int, ...]:  # fmt: skip
        height, _, channels = self.tensors[source].shape
        stride = -(-height // shape[0])
        weight = self.weight(dtype, (shape[2], kernel, kernel, channels))
        pads = (kernel // 2, kernel // 2)
        op = Conv2d(
            f"conv{len(self.ops)}", source, outputs, dtype, weight, (stride, stride), pads, epilogue, **more
        )
        self.ops.append(op)
        return outputs

    def affine(self, channels: int) -> dict[str, Any]:
        return {"scale": self.floats(channels) * np.float32(0.05), "bias": self.floats(channels)}

    def thresholds(self, channels: int) -> ThresholdEpilogue:
        t = self.rng.integers(-20, 20, channels).astype(np.int32)
        return ThresholdEpilogue(t, self.rng.random(channels) < 0.5)

    def finish(self, output: int) -> Program:
        outputs = (Output("logits", output),)
        return Program("made by hand", tuple(self.tensors), tuple(self.ops), outputs, self.arena)

    def input_f32(self) -> int:
        height, width, channels = self.tensors[0].shape
        x = self.tensor("f32", (height, width, channels))
        scale = np.full(channels, 2 / 255, np.float32)
        bias = -self.rng.random(channels).astype(np.float32)
        self.ops.append(QuantizeInput("input", 0, x, scale, bias))
        return x

    def head(self, x: int, classes: int) -> Program:
        channels = self.tensors[x].shape[2]
        pooled = self.tensor("f32", (1, 1, channels))
        self.ops.append(GlobalAvgPool("pool", x, pooled))
        logits = self.tensor("f32", (1, 1, classes))
        self.conv(pooled, "f32", (1, 1, classes), (logits,), FloatEpilogue(bias=self.floats(classes)), 1)
        return self.finish(logits)


def residual_signs(channels: int, pad_value: int, seed: int) -> Program:
    """fp32 stem, 1-bit blocks with f32 residuals added in place, strides, a threshold epilogue."""
    b = Builder((13, 13, 3), seed)
    c = channels
    x = b.tensor("f32", (13, 13, c))
    s = b.tensor("bits", (13, 13, c))
    slope = Activation("prelu", b.floats(c))
    b.conv(b.input_f32(), "f32", (13, 13, c), (x, s), FloatEpilogue(**b.affine(c), pre=slope))
    y = b.tensor("f32", (13, 13, c), at=x)
    ys = b.tensor("bits", (13, 13, c))
    rprelu = Activation("rprelu", b.floats(c), b.floats(c), b.floats(c))
    e = FloatEpilogue(**b.affine(c), residual=x, post=rprelu, threshold=b.floats(c))
    b.conv(s, "w1", (13, 13, c), (y, ys), e, pad_value=pad_value, in_place=True)
    zs = b.tensor("bits", (7, 7, 2 * c))
    b.conv(ys, "w1", (7, 7, 2 * c), (zs,), b.thresholds(2 * c), pad_value=pad_value)
    short = b.tensor("f32", (7, 7, c))
    b.ops.append(AvgPool("shortcut", y, short, (2, 2), (2, 2)))
    wide = b.tensor("f32", (7, 7, 2 * c))
    b.conv(short, "w1", (7, 7, 2 * c), (wide,), FloatEpilogue(scale=b.floats(2 * c)), 1)
    out = b.tensor("f32", (7, 7, 2 * c), at=wide)
    e = FloatEpilogue(**b.affine(2 * c), residual=wide)
    b.conv(zs, "w1", (7, 7, 2 * c), (out,), e, 5, pad_value=pad_value, in_place=True)
    return b.head(out, 10)


def elementwise(channels: int, seed: int) -> Program:
    """Pools, affine, binarize, quantize, dequantize and both adds."""
    b = Builder((12, 10, channels), seed)
    c = channels
    x = b.input_f32()
    p = b.tensor("f32", (6, 5, c))
    b.ops.append(MaxPool("max", x, p, (3, 3), (2, 2), (1, 1)))
    a, a8 = b.tensor("f32", (6, 5, c)), b.tensor("i8", (6, 5, c), 0.03125, 3)
    e = FloatEpilogue(scale=b.floats(c), bias=b.floats(c), pre=Activation("relu"))
    b.ops.append(Affine("affine", p, (a, a8), e))
    s = b.tensor("bits", (6, 5, c))
    b.ops.append(Binarize("signs", a, s, b.floats(c)))
    m8 = b.tensor("i8", (3, 3, c), 0.03125, 3)
    b.ops.append(MaxPool("max8", a8, m8, (2, 2), (2, 2)))
    s8 = b.tensor("bits", (3, 3, c))
    t = b.thresholds(c)
    b.ops.append(Binarize("signs8", m8, s8, q_threshold=t.threshold, flip=t.flip))
    f = b.tensor("f32", (3, 3, c))
    b.conv(s, "w1", (3, 3, c), (f,), FloatEpilogue(scale=b.floats(c) * np.float32(0.1)))
    g = b.tensor("f32", (3, 3, c))
    b.conv(s8, "w1", (3, 3, c), (g,), FloatEpilogue(scale=b.floats(c) * np.float32(0.1)), 1)
    h, h8 = b.tensor("f32", (3, 3, c), at=g), b.tensor("i8", (3, 3, c), 0.0625, -5)
    e = FloatEpilogue(residual=g, post=Activation("prelu", b.floats(c)))
    b.ops.append(Add("add", f, (h, h8), e, in_place=True))
    q8 = b.tensor("i8", (3, 3, c), 0.0625, 9)
    b.ops.append(Quantize("quantize", h, q8))
    r8 = b.tensor("i8", (3, 3, c), 0.125, -7, at=q8)
    m, bias = np.full(c, 1 << 19, np.int32), b.rng.integers(-(1 << 20), 1 << 20, c)
    b.ops.append(
        Add("add8", h8, (r8,), IntegerEpilogue(m, bias, 20, False, q8, 1 << 18, True), in_place=True)
    )
    d = b.tensor("f32", (3, 3, c))
    b.ops.append(Dequantize("dequantize", r8, d))
    return b.head(d, 7)


def integer(channels: int, weights: str, seed: int) -> Program:
    """A whole int8 net from the table of the input to the i32 fc."""
    b = Builder((9, 11, 3), seed)
    c = channels
    x = b.tensor("i8", (9, 11, 3), 0.0625, -11)
    b.ops.append(QuantizeInput("input", 0, x, table=b.rng.integers(-128, 128, (3, 256)).astype(np.int8)))

    def epilogue(n: int, inputs: int, **more: Any) -> IntegerEpilogue:
        unit = (1 << 24) / (inputs * 9 * (40 if weights == "i8" else 1)) ** 0.5
        m = (b.rng.uniform(-1, 1, n) * unit / (8 if weights == "i8" else 1)).astype(np.int32)
        return IntegerEpilogue(m, b.rng.integers(-(1 << 28), 1 << 28, n), 24, **more)

    y = b.tensor("i8", (9, 11, c), 0.0625, 4)
    b.conv(x, weights, (9, 11, c), (y,), epilogue(c, 3, pre_relu=True))
    z = b.tensor("i8", (9, 11, c), 0.0625, -128, at=y)
    u = b.tensor("i8", (9, 11, c), 0.0625, 1)
    b.conv(y, weights, (9, 11, c), (u,), epilogue(c, c))
    e = epilogue(c, c, residual=y, residual_multiplier=1 << 23, post_relu=True)
    b.conv(u, weights, (9, 11, c), (z,), e, in_place=True)
    s = b.tensor("bits", (5, 6, c))
    b.conv(z, weights, (5, 6, c), (s,), b.thresholds(c))
    v = b.tensor("i8", (5, 6, c), 2.0, 6)
    b.conv(s, "w1", (5, 6, c), (v,), FloatEpilogue(scale=b.floats(c)), pad_value=-1)
    pooled = b.tensor("i32", (1, 1, c))
    b.ops.append(GlobalAvgPool("pool", v, pooled))
    logits = b.tensor("f32", (1, 1, 12))
    b.conv(pooled, "i8", (1, 1, 12), (logits,), FloatEpilogue(**b.affine(12)), 1)
    return b.finish(logits)


def pooled(side: int, channels: int, seed: int) -> Program:
    """Sums over a picture, of 255 at most a pixel, into the fc: beyond 128 pixels they may not fit int16."""
    b = Builder((side, side, channels), seed)
    x = b.tensor("i8", (side, side, channels), 0.0625, -128)
    table = b.rng.integers(100, 128, (channels, 256)).astype(np.int8)
    b.ops.append(QuantizeInput("input", 0, x, table=table))
    sums = b.tensor("i32", (1, 1, channels))
    b.ops.append(GlobalAvgPool("pool", x, sums))
    logits = b.tensor("f32", (1, 1, 12))
    b.conv(sums, "i8", (1, 1, 12), (logits,), FloatEpilogue(**b.affine(12)), 1)
    return b.finish(logits)


PROGRAMS = {
    **{f"integer-pool-{side}-{c}": pooled(side, c, c) for side, c in ((7, 515), (20, 33))},
    **{f"signs-{c}-{pad}": residual_signs(c, pad, c) for c, pad in ((5, 0), (64, -1), (65, 1), (33, 0))},
    **{f"elementwise-{c}": elementwise(c, c) for c in (1, 3, 31, 64, 130)},
    **{f"integer-{w}-{c}": integer(c, w, c) for w in ("i8", "w1") for c in (3, 32, 63, 129)},
}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", PROGRAMS)
def test_native_agrees_with_the_reference(name: str, isa: str) -> None:
    program = PROGRAMS[name]
    images = np.random.default_rng(1).integers(0, 256, (7, *program.input_shape)).astype(np.uint8)
    expected = run_reference(program, images)
    for threads in (1, 2):
        native = NativeProgram(program, threads, isa, guarded=True)
        for batch in (1, 2, 7):
            got = native.run(images[:batch])
            if name.startswith("integer"):
                np.testing.assert_array_equal(got, expected[:batch])
            else:
                np.testing.assert_allclose(
                    got, expected[:batch], rtol=2e-4, atol=2e-4 * np.abs(expected).max()
                )


def test_isa_is_forced_by_the_call_and_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    program = PROGRAMS["integer-w1-32"]
    assert all(name.endswith("scalar") for name in NativeProgram(program, isa="scalar").kernels)
    monkeypatch.setenv("BITSKIP_ISA", "scalar")
    assert all(name.endswith("scalar") for name in NativeProgram(program).kernels)
    with pytest.raises(RunError, match="unknown instruction set 'sse'"):
        NativeProgram(program, isa="sse")


def test_wrong_images_are_named() -> None:
    native = NativeProgram(PROGRAMS["integer-w1-32"])
    with pytest.raises(RunError, match=r"expected uint8 images of shape \(N, 9, 11, 3\), got float64"):
        native.run(np.zeros((1, 9, 11, 3)))
    with pytest.raises(RunError, match=r"got uint8 of shape \(1, 11, 9, 3\)"):
        native.run(np.zeros((1, 11, 9, 3), np.uint8))
    assert native.run(np.zeros((0, 9, 11, 3), np.uint8)).shape == (0, 12)
