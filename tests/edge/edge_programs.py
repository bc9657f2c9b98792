"""Programs for the tests of exported C, with awkward sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
from test_programs import Builder, elementwise, integer, residual_signs

from bitskip.program import (
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Program,
    QuantizeInput,
    Tensor,
)


def _start(shape: tuple[int, int, int], seed: int) -> tuple[Builder, int]:
    b = Builder(shape, seed)
    x = b.tensor("i8", shape, 0.0625, -11)
    table = b.rng.integers(-128, 128, (shape[2], 256)).astype(np.int8)
    b.ops.append(QuantizeInput("input", 0, x, table=table))
    return b, x


def _epilogue(
    b: Builder, outputs: int, taps: int, weights: str, shift: int = 34, **more: object
) -> IntegerEpilogue:
    unit = 2.0**shift / (60.0 * taps**0.5 * (60 if weights == "i8" else 1))
    m = (b.rng.uniform(-1, 1, outputs) * unit).astype(np.int32)
    bias = b.rng.integers(-(1 << 20), 1 << 20, outputs) << (shift - 14)
    return IntegerEpilogue(m, bias, shift, **more)  # type: ignore[arg-type]


def _head(b: Builder, x: int, classes: int) -> Program:
    channels = b.tensors[x].shape[2]
    pooled = b.tensor("i32", (1, 1, channels))
    b.ops.append(GlobalAvgPool("pool", x, pooled))
    logits = b.tensor("f32", (1, 1, classes))
    b.conv(pooled, "i8", (1, 1, classes), (logits,), FloatEpilogue(**b.affine(classes)), 1)
    return b.finish(logits)


def small_network(keep: bool, weights: str = "w1", channels: int = 16, size: int = 20) -> Program:
    """Return a small ResNet as the lowering makes it: a stem, two blocks, a strided block, a head."""
    b, x = _start((size, size, 3), 1)
    c, z = channels, -128

    def conv(
        x: int, o: int, rows: int, shift: int = 34, w: str = weights, kernel: int = 3, **more: object
    ) -> int:
        y = b.tensor("i8", (rows, rows, o), 0.0625, z)
        taps = kernel * kernel * b.tensors[x].shape[2]
        b.conv(x, w, (rows, rows, o), (y,), _epilogue(b, o, taps, w, shift, **more), kernel)
        return y

    x = conv(x, c, size, w="i8", pre_relu=True)
    for _ in range(2):
        y = conv(x, c, size, pre_relu=True)
        residual = {"residual": x, "residual_multiplier": 1 << 33 >> 3} if keep else {}
        x = conv(y, c, size, 30, pre_relu=True, **residual)
    half = (size + 1) // 2
    y = conv(x, 2 * c, half, 28, pre_relu=True)
    if keep:
        short = conv(x, 2 * c, half, 33, kernel=1)
        x = conv(y, 2 * c, half, 30, residual=short, residual_multiplier=1 << 29, post_relu=True)
    else:
        x = conv(y, 2 * c, half, 30, post_relu=True)
    return _head(b, x, 10)


def _odd(weights: str, channels: int, zero_point: int) -> Program:
    """Return two layers on a picture of odd sides, channels that fill no word, and padding that is not 0."""
    b, x = _start((9, 7, 5), channels)
    y = b.tensor("i8", (9, 7, channels), 0.0625, zero_point)
    b.conv(x, weights, (9, 7, channels), (y,), _epilogue(b, channels, 45, weights, 33), 3)
    v = b.tensor("i8", (5, 4, 6), 0.0625, 3)
    b.conv(y, weights, (5, 4, 6), (v,), _epilogue(b, 6, 9 * channels, weights, 36), 3)
    return _head(b, v, 3)


def _deep(weights: str) -> Program:
    """Return a layer with more inputs than 16-bit lanes hold at their largest."""
    b, x = _start((5, 5, 8), 3)
    y = b.tensor("i8", (5, 5, 132), 0.0625, -128)
    b.conv(x, weights, (5, 5, 132), (y,), _epilogue(b, 132, 72, weights, 30, pre_relu=True), 3)
    v = b.tensor("i8", (5, 5, 12), 0.0625, 127)
    b.conv(y, weights, (5, 5, 12), (v,), _epilogue(b, 12, 9 * 132, weights, 36), 3)
    return _head(b, v, 4)


def _named(name: str, program: Program) -> Program:
    return dataclasses.replace(program, name=name)


def _first_bits() -> Program:
    """Return 1-bit layers with each padding after an int8 layer."""
    b, x = _start((8, 8, 3), 9)
    s = b.tensor("bits", (8, 8, 40))
    b.conv(x, "i8", (8, 8, 40), (s,), b.thresholds(40))
    for at, (pad, channels) in enumerate(((0, 72), (1, 33), (-1, 31), (0, 64))):
        t = b.tensor("bits", (8, 8, channels))
        b.conv(s, "w1", (8, 8, channels), (t,), b.thresholds(channels), (3, 5, 1, 3)[at], pad_value=pad)
        s = t
    v = b.tensor("i8", (4, 4, 16), 2.0, 6)
    b.conv(s, "w1", (4, 4, 16), (v,), _epilogue(b, 16, 5, "w1", 30))
    return _head(b, v, 5)


PROGRAMS = {
    "w1": lambda: _named("w1", small_network(True)),
    "w1-none": lambda: _named("w1-none", small_network(False)),
    "int8": lambda: _named("int8", small_network(True, "i8", 8, 13)),
    "w1a1": lambda: _named("w1a1", _first_bits()),
    "mixed": lambda: _named("mixed", integer(32, "w1", 4)),
    "mixed-int8": lambda: _named("mixed-int8", integer(63, "i8", 4)),
    "mixed-3": lambda: _named("mixed-3", integer(3, "w1", 4)),
    "odd-w1": lambda: _named("odd-w1", _odd("w1", 7, -5)),
    "odd-int8": lambda: _named("odd-int8", _odd("i8", 7, -5)),
    "even-w1": lambda: _named("even-w1", _odd("w1", 20, 100)),
    "deep-w1": lambda: _named("deep-w1", _deep("w1")),
    "deep-int8": lambda: _named("deep-int8", _deep("i8")),
    "float-residual": lambda: _named("float-residual", residual_signs(33, 0, 33)),
    "float-pad": lambda: _named("float-pad", residual_signs(65, 1, 65)),
    "float-elementwise": lambda: _named("float-elementwise", elementwise(31, 31)),
}


def two_inputs() -> Program:
    """Return a network of a picture `left` and a smaller grey one `right`, whose stems are added."""
    b, x = _start((8, 6, 3), 9)
    b.tensors = [dataclasses.replace(b.tensors[0], name="left"), Tensor("u8", (16, 12, 1), name="right")]
    b.ops, b.arena = [], 0
    stems = []
    for number, source in enumerate(b.tensors[:]):
        x = b.tensor("i8", source.shape, 0.0625, -11 * number)
        table = b.rng.integers(-128, 128, (source.shape[2], 256)).astype(np.int8)
        b.ops.append(QuantizeInput(source.name, number, x, table=table))
        stems.append(x)
    one, both, out = (b.tensor("i8", (8, 6, 20), 0.0625, z) for z in (3, -128, -128))
    b.conv(stems[0], "i8", (8, 6, 20), (one,), _epilogue(b, 20, 27, "i8", pre_relu=True), 3)
    joined = _epilogue(b, 20, 9, "i8", residual=one, residual_multiplier=1 << 30, pre_relu=True)
    b.conv(stems[1], "i8", (8, 6, 20), (both,), joined, 3)
    b.conv(both, "w1", (8, 6, 20), (out,), _epilogue(b, 20, 180, "w1", 33, pre_relu=True), 3)
    return _head(b, out, 4)


def too_wide() -> Program:
    """Return a layer with more 1-bit inputs than exported C counts."""
    b, x = _start((1, 1, 3), 0)
    s = b.tensor("bits", (1, 1, 65600))
    b.conv(x, "w1", (1, 1, 65600), (s,), b.thresholds(65600), 1)
    y = b.tensor("i8", (1, 1, 2), 1.0, 0)
    b.conv(s, "w1", (1, 1, 2), (y,), _epilogue(b, 2, 65600, "w1"), 1)
    assert isinstance(b.ops[-1], Conv2d)
    b.ops[-1] = dataclasses.replace(b.ops[-1], name="wide")
    return _head(b, y, 2)
