"""ResNet14 as Programs with random constants, for timing: speed does not depend on the values of weights.

A stage is `fp32`, `int8`, `w1` (1-bit weights, int8 inputs), `w1f` (real activations) or `w1a1`. The w1a1
stages have a real shortcut around every convolution (Bi-Real Net) with RPReLU, or none at all, in which case
nothing but bits lies between layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bitskip.bits import pack_signs
from bitskip.program import (
    Activation,
    AvgPool,
    Binarize,
    Conv2d,
    Dequantize,
    Epilogue,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Op,
    Output,
    Program,
    Quantize,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
    op_inputs,
    op_outputs,
)

__all__ = ["NETS", "resnet14"]

Shape = tuple[int, int, int]
RELU = Activation("relu")

# stage kinds, and whether blocks have shortcuts
NETS: dict[str, tuple[tuple[str, str, str], bool]] = {
    "fp32": (("fp32", "fp32", "fp32"), True),
    "int8": (("int8", "int8", "int8"), True),
    "w1": (("w1", "w1", "w1"), True),
    "w1-fp32-activations": (("w1f", "w1f", "w1f"), True),
    "hybrid": (("w1", "int8", "w1"), True),
    "hybrid-w1a1": (("w1a1", "int8", "w1a1"), True),
    "w1a1": (("w1a1", "w1a1", "w1a1"), True),
    "w1a1-none": (("w1a1", "w1a1", "w1a1"), False),
}


class _Net:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.tensors = [Tensor("u8", (32, 32, 3))]
        self.ops: list[Op] = []

    def tensor(self, dtype: str, shape: Shape) -> int:
        self.tensors.append(Tensor(dtype, shape, 0, 0.0625 if dtype == "i8" else 1.0))
        return len(self.tensors) - 1

    def floats(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape).astype(np.float32)

    def conv(
        self, x: int, weights: str, width: int, stride: int, kernel: int, dtypes: tuple[str, ...],
        epilogue: Epilogue, **more: Any,
    ) -> tuple[int, ...]:  # fmt: skip
        size, _, channels = self.tensors[x].shape
        shape = (width, kernel, kernel, channels)
        weight: Any = self.floats(*shape) / np.float32(kernel * channels**0.5)
        if weights == "w1":
            weight = pack_signs(weight)
        elif weights == "i8":
            weight = self.rng.integers(-127, 128, shape).astype(np.int8)
        size = (size + 2 * (kernel // 2) - kernel) // stride + 1
        outputs = tuple(self.tensor(dtype, (size, size, width)) for dtype in dtypes)
        pads = (kernel // 2, kernel // 2)
        name = f"conv{len(self.ops)} {channels}->{width} {size}x{size}"
        self.ops.append(Conv2d(name, x, outputs, weights, weight, (stride, stride), pads, epilogue, **more))
        return outputs

    def integer(self, width: int, weights: str, residual: int | None = None) -> IntegerEpilogue:
        m = np.full(width, 3000 if weights == "i8" else 100_000, np.int32)
        bias = self.rng.integers(-1000, 1000, width)
        return IntegerEpilogue(m, bias, 24, True, residual, 0 if residual is None else 1 << 23)

    def block_real(self, x: int, kind: str, width: int, stride: int, shortcut: bool) -> int:
        weights = {"fp32": "f32", "w1f": "w1", "int8": "i8", "w1": "w1"}[kind]
        dtype = "f32" if kind in ("fp32", "w1f") else "i8"

        def epilogue(residual: int | None = None) -> Epilogue:
            if dtype == "i8":
                return self.integer(width, weights, residual)
            return FloatEpilogue(self.floats(width), self.floats(width), RELU, residual)

        (y,) = self.conv(x, weights, width, stride, 3, (dtype,), epilogue())
        if stride > 1 and shortcut:
            (x,) = self.conv(x, weights, width, stride, 1, (dtype,), epilogue())
        return self.conv(y, weights, width, 1, 3, (dtype,), epilogue(x if shortcut else None))[0]

    def signs(self, x: int) -> int:
        s = self.tensor("bits", self.tensors[x].shape)
        self.ops.append(Binarize(f"binarize{len(self.ops)}", x, s, self.floats(self.tensors[x].shape[2])))
        return s

    def block_signs(self, x: int, s: int, width: int, stride: int) -> tuple[int, int]:
        """Shortcut around every convolution: x is real, s its signs."""
        for step in (stride, 1):
            if step > 1:
                size, _, channels = self.tensors[x].shape
                pooled = self.tensor("f32", (size // step, size // step, channels))
                self.ops.append(AvgPool(f"pool{len(self.ops)}", x, pooled, (step, step), (step, step)))
                projected = FloatEpilogue(self.floats(width), self.floats(width))
                (x,) = self.conv(self.signs(pooled), "w1", width, 1, 1, ("f32",), projected)
            rprelu = Activation("rprelu", self.floats(width), self.floats(width), self.floats(width))
            e = FloatEpilogue(
                self.floats(width), self.floats(width), residual=x, post=rprelu, threshold=self.floats(width)
            )
            x, s = self.conv(s, "w1", width, step, 3, ("f32", "bits"), e)
        return x, s

    def block_bits(self, s: int, width: int, stride: int) -> int:
        for step in (stride, 1):
            t = self.rng.integers(-20, 20, width).astype(np.int32)
            (s,) = self.conv(
                s, "w1", width, step, 3, ("bits",), ThresholdEpilogue(t, self.rng.random(width) < 0.5)
            )
        return s

    def program(self, name: str, output: int) -> Program:
        """Give every tensor its place: first fit among those alive, largest first."""
        end = len(self.ops)
        born = {n: at for at, op in enumerate(self.ops) for n in op_outputs(op)}
        dead = {n: at for at, op in enumerate(self.ops) for n in op_inputs(op)} | {output: end}
        placed: list[tuple[int, int, int, int]] = []  # start, stop, born, dead
        arena = 0
        for n in sorted(born, key=lambda n: -self.tensors[n].size):
            last = dead.get(n, born[n])
            start = 0
            for low, high, first, until in sorted(placed):
                if first <= last and until >= born[n] and low < start + self.tensors[n].size and high > start:
                    start = -(-high // 64) * 64
            stop = start + self.tensors[n].size
            placed.append((start, stop, born[n], last))
            arena = max(arena, stop)
            self.tensors[n] = dataclasses.replace(self.tensors[n], offset=start)
        return Program(name, tuple(self.tensors), tuple(self.ops), (Output("logits", output),), arena)


def resnet14(name: str) -> Program:
    """Return one of NETS."""
    stages, shortcuts = NETS[name]
    net = _Net()
    integers = stages[0] in ("int8", "w1")
    x = net.tensor("i8" if integers else "f32", (32, 32, 3))
    if integers:
        net.ops.append(
            QuantizeInput("input", 0, x, table=net.rng.integers(-128, 128, (3, 256)).astype(np.int8))
        )
        (x,) = net.conv(x, "i8", 64, 1, 3, ("i8",), net.integer(64, "i8"))
    else:
        net.ops.append(QuantizeInput("input", 0, x, np.full(3, 0.01, np.float32), np.zeros(3, np.float32)))
        e = FloatEpilogue(net.floats(64), net.floats(64), RELU)
        dtypes = (
            ("f32", "bits")
            if stages[0] == "w1a1" and shortcuts
            else ("bits",)
            if stages[0] == "w1a1"
            else ("f32",)
        )
        made = net.conv(x, "f32", 64, 1, 3, dtypes, e)
        x, s = made[0], made[-1]
    before = stages[0]
    for stage, (kind, width) in enumerate(zip(stages, (64, 128, 256), strict=True)):
        if before != kind and kind == "w1a1":
            real = net.tensor("f32", net.tensors[x].shape)
            net.ops.append(Dequantize(f"dequantize{len(net.ops)}", x, real))
            x, s = real, net.signs(real)
        elif before == "w1a1" and kind != before:
            q = net.tensor("i8", net.tensors[x].shape)
            net.ops.append(Quantize(f"quantize{len(net.ops)}", x, q))
            x = q
        before = kind
        for block in range(2):
            stride = 2 if stage and not block else 1
            if kind != "w1a1":
                x = net.block_real(x, kind, width, stride, shortcuts)
            elif shortcuts:
                x, s = net.block_signs(x, s, width, stride)
            else:
                s = net.block_bits(s, width, stride)
    if not shortcuts and kind == "w1a1":  # the last bits go through one real output
        last = net.ops[-1]
        assert isinstance(last, Conv2d)
        net.tensors[last.outputs[0]] = Tensor("f32", net.tensors[last.outputs[0]].shape)
        net.ops[-1] = dataclasses.replace(
            last, epilogue=FloatEpilogue(net.floats(256), net.floats(256), RELU)
        )
        x = last.outputs[0]
    dtype = "i32" if net.tensors[x].dtype == "i8" else "f32"
    pooled = net.tensor(dtype, (1, 1, 256))
    net.ops.append(GlobalAvgPool("pool", x, pooled))
    (logits,) = net.conv(
        pooled,
        "i8" if dtype == "i32" else "f32",
        10,
        1,
        1,
        ("f32",),
        FloatEpilogue(net.floats(10), net.floats(10)),
    )
    return net.program(f"resnet14 {name}, random constants", logits)
