"""A Program as QONNX, which Brevitas writes and FINN reads: `bitskip export --to qonnx`.

Every value is float32, as QONNX has it. An i8 value stands as whole steps, q - zero_point: what a `Quant` of
scale 1 gives. A bits value is +1 or -1: what a `BipolarQuant` or a `MultiThreshold` gives. Weights are what a
`BipolarQuant` or a `Quant` of scale 1 gives. So sums are whole numbers, exact below 2^24, the types of QONNX
(BIPOLAR, UINT8, INT8) hold as they are, and scales stand once, after the sum.

`MultiThreshold` counts the thresholds that a value reaches. It stands for threshold epilogues and, where that
is monotone, for the table of the picture's levels; both are exact. And it rounds to a zero point that is
neither 0 nor -128: a `Quant` with one has no type, and FINN does not take it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitskip.backends.onnx.convert import Converter
from bitskip.backends.onnx.requantize import residual_factor
from bitskip.backends.onnx.weights import signs_of_bits
from bitskip.backends.onnx.writer import Array, Writer
from bitskip.program import (
    Add,
    Binarize,
    Conv2d,
    GlobalAvgPool,
    IntegerEpilogue,
    Lookup,
    Mul,
    Program,
    QuantizeInput,
    ThresholdEpilogue,
    inverse_scale,
)
from bitskip.program.bounds import accumulator_bound

DOMAIN = "qonnx.custom_op.general"


class QonnxConverter(Converter):
    """Writes the ops of `program` into `w`.

    Args:
        program: the plan.
        w: takes the nodes.
        weights: `fp32`, float32 constants as Brevitas writes them; `int8`, or `bits` for 1-bit ones.
        pixels: whether the graph takes uint8 (N, H, W, C); else normalised float32 (N, C, H, W).
        exact: whether integer epilogues are computed in float64, in which they round as the program does.

    Attributes:
        steps: names of q - zero_point by i8 tensor.
        signs: names of +1 and -1 by bits tensor.
        kinds: how many nodes of each QONNX operator there are.
    """

    def __init__(
        self, program: Program, w: Writer, *, weights: str, pixels: bool, exact: bool = False
    ) -> None:
        super().__init__(program, w, weights=weights, pixels=pixels)
        self.exact = exact
        w.domains[DOMAIN] = 1
        self.steps: dict[int, str] = {}
        self.signs: dict[int, str] = {}
        self.kinds: dict[str, int] = {}

    # -- QONNX's own nodes ----------------------------------------------------------------------------

    def own(self, kind: str, inputs: list[str], what: str, **attributes: Any) -> str:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        return self.w.node(kind, inputs, what, domain=DOMAIN, **attributes)

    def quant(
        self, value: str, what: str, *, zero: int = 0, signed: bool = True, narrow: bool = False
    ) -> str:
        """Return clamp(round(value + zero)) - zero of 8 bits."""
        ends = [self.scalar(1.0), self.scalar(float(zero)), self.scalar(8.0)]
        return self.own(
            "Quant", [value, *ends], what, signed=int(signed), narrow=int(narrow), rounding_mode="ROUND"
        )

    def bipolar(self, value: str, what: str) -> str:
        return self.own("BipolarQuant", [value, self.scalar(1.0)], what)

    def reaches(self, value: str, thresholds: Array, what: str, kind: str, scale: float, bias: float) -> str:
        """Return bias + scale * (how many of its channel's `thresholds` (C, T) a value reaches)."""
        return self.own(
            "MultiThreshold",
            [value, self.w.constant(thresholds.astype(np.float32), "thresholds")],
            what,
            out_dtype=kind,
            out_scale=scale,
            out_bias=bias,
            data_layout="NCHW",
        )

    # -- values ---------------------------------------------------------------------------------------

    def value(self, number: int) -> str:
        if number in self.signs:
            return self.signs[number]
        if number not in self.real:
            ends = [self.steps[number], self.scalar(np.float32(self.tensors[number].scale))]
            self.real[number] = self.w.node("Mul", ends, "real")
        return self.real[number]

    def moved(self, number: int) -> str:
        return self.steps[number] if self.tensors[number].dtype == "i8" else self.value(number)

    def put_moved(self, number: int, value: str) -> None:
        (self.steps if self.tensors[number].dtype == "i8" else self.real)[number] = value

    def put_bits(self, number: int, value: str) -> None:
        self.signs[number] = self.bipolar(value, "sign")

    def put_i8(self, number: int, value: str) -> None:
        scaled = [value, self.scalar(inverse_scale(self.tensors[number].scale))]
        self.put_steps(number, self.w.node("Mul", scaled, "scaled"))

    def put_steps(self, number: int, value: str) -> None:
        """Let the i8 tensor `number` be `value`, which is in steps of it, rounded and clamped."""
        zero = self.tensors[number].zero_point
        if zero in (0, -128):  # -128 is what a ReLU leaves
            self.steps[number] = self.quant(value, "steps", signed=zero == 0)
            return
        halves = np.arange(-127, 128)[None] - zero - 0.5  # (1, 255)
        self.steps[number] = self.reaches(value, halves, "steps", "INT9", 1.0, float(-128 - zero))

    # -- weights --------------------------------------------------------------------------------------

    def constant_weight(self, weight: Array, op: Conv2d) -> str:
        """Return whole weights (O, I, KH, KW) as float32, stored as `weights` asks."""
        if op.weight_dtype == "w1" and self.weights == "bits":
            stored = signs_of_bits(self.w, weight, np.ones((1, 1, 1, 1), np.int8))
        elif self.weights == "fp32":
            return self.w.constant(weight.astype(np.float32), "weight")
        else:
            stored = self.w.constant(weight.astype(np.int8), "weight")
        return self.w.node("Cast", [stored], "weight_real", to=self.w.onnx.TensorProto.FLOAT)

    def kernel(self, op: Conv2d, flip: Array | None = None) -> str:
        """Return the quantized weights, of the other sign where `flip` (O,) says so."""
        weight = self.signed_weight(op)
        if flip is not None:
            weight = np.where(flip[:, None, None, None], -weight, weight)
        stored = self.constant_weight(weight, op)
        if op.weight_dtype == "w1":
            return self.bipolar(stored, "kernel")
        return self.quant(stored, "kernel", narrow=True)

    def real_kernel(self, weight: Array, op: Conv2d) -> str:
        if op.weight_dtype != "w1":
            return self.w.constant(weight.astype(np.float32), "weight")
        magnitude = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float32)
        signs = self.constant_weight(np.where(weight < 0, -1, 1).astype(np.int8), op)
        scale = self.w.constant(magnitude[:, None, None, None], "weight_scale")
        return self.own("BipolarQuant", [signs, scale], "kernel")

    # -- convolutions ---------------------------------------------------------------------------------

    def integer_conv(self, op: Conv2d) -> None:
        source = self.moved(op.input)
        self.finish_sum(op, source, self.window(op))

    def bits_conv(self, op: Conv2d) -> None:
        x = self.padded(self.value(op.input), op, self.scalar(float(op.pad_value)))
        self.finish_sum(op, x, self.window(op, padded=op.pad_value != 0))

    def finish_sum(self, op: Conv2d, x: str, window: dict[str, Any]) -> None:
        """Write the exact sum of whole numbers and what follows it."""
        epilogue = op.epilogue
        if isinstance(epilogue, ThresholdEpilogue):
            # not (acc >= t) is -acc >= 1 - t
            acc = self.w.node("Conv", [x, self.kernel(op, epilogue.flip)], "sum", **window)
            bound = accumulator_bound(op, self.tensors) + 1
            least = np.clip(epilogue.threshold.astype(np.int64), -bound, bound)
            least = np.where(epilogue.flip, 1 - least, least)
            self.signs[op.outputs[0]] = self.reaches(acc, least[:, None], "sign", "BIPOLAR", 2.0, -1.0)
            return
        acc = self.w.node("Conv", [x, self.kernel(op)], "sum", **window)
        if isinstance(epilogue, IntegerEpilogue):
            self.finish_integer(acc, epilogue, op.outputs[0])
            return
        if op.input in self.means:  # sums of a mean
            acc = self.w.node("Mul", [acc, self.scalar(1 / self.means[op.input])], "total")
        self.finish_float(self.affine_part(acc, epilogue.scale, epilogue.bias), epilogue, op.outputs)

    def finish_integer(self, acc: str, epilogue: IntegerEpilogue, output: int) -> None:
        w, unit = self.w, 2.0**-epilogue.shift
        real = np.float64 if self.exact else np.float32
        factor, offset = epilogue.multiplier * unit, epilogue.bias * unit
        y = self.wide(acc)
        y = self.affine_part(y, factor.astype(real), offset.astype(real) if offset.any() else None)
        low = self.tensors[output].zero_point == -128  # then clamping to the smallest code is a ReLU
        if epilogue.pre_relu and (epilogue.residual is not None or not low):
            y = w.node("Relu", [y])
        if epilogue.residual is not None:
            exact = epilogue.residual_multiplier * unit
            zero = self.tensors[epilogue.residual].zero_point
            by = self.scalar(exact if self.exact else residual_factor(exact, zero), real)
            other = w.node("Mul", [self.wide(self.steps[epilogue.residual]), by], "residual")
            y = w.node("Add", [y, other], "joined")
            if epilogue.post_relu and not low:
                y = w.node("Relu", [y])
        elif epilogue.post_relu and not low:
            y = w.node("Relu", [y])
        self.put_steps(output, y)

    def wide(self, value: str) -> str:
        """Return whole numbers as float64 if epilogues are exact."""
        if not self.exact:
            return value
        return self.w.node("Cast", [value], "wide", to=self.w.onnx.TensorProto.DOUBLE)

    # -- other ops ------------------------------------------------------------------------------------

    def from_pixels(self, op: QuantizeInput, picture: str) -> None:
        w, result = self.w, self.tensors[op.output]
        levels = w.node("Cast", [picture], "levels", to=w.onnx.TensorProto.FLOAT)
        if op.table is None:
            self.real[op.output] = self.affine_part(levels, op.scale, op.bias)
            return
        table = op.table.astype(np.int64)
        if (np.diff(table, axis=1) >= 0).all():
            codes = np.arange(-127, 128)
            # the least level whose code is at least each of `codes`; 256 where no level has it
            least = (table[:, :, None] < codes).sum(axis=1)  # (C, 255)
            bias = float(-128 - result.zero_point)
            kind = "INT8" if result.zero_point == 0 else "INT9"
            self.steps[op.output] = self.reaches(levels, least, "steps", kind, 1.0, bias)
            return
        index = w.node("Cast", [picture], "index", to=w.onnx.TensorProto.INT32)
        first = self.column(256 * np.arange(len(table), dtype=np.int32), "first")
        rows = w.constant((table - result.zero_point).astype(np.float32).reshape(-1), "table")
        index = w.node("Add", [index, first], "index")
        self.steps[op.output] = w.node("Gather", [rows, index], "steps", axis=0)

    def binarize(self, op: Binarize) -> None:
        source = self.tensors[op.input]
        if source.dtype == "f32":
            self.put_bits(op.output, self.beyond(self.value(op.input), op.threshold))
            return
        assert op.q_threshold is not None
        assert op.flip is not None
        least = np.clip(op.q_threshold.astype(np.int64), -129, 128) - source.zero_point
        positive = self.reaches(self.steps[op.input], least[:, None], "sign", "BIPOLAR", 2.0, -1.0)
        if op.flip.any():
            turned = self.column(np.where(op.flip, -1, 1).astype(np.float32), "turned")
            positive = self.w.node("Mul", [positive, turned], "sign")
        self.signs[op.output] = positive

    def integer_add(self, op: Add) -> None:
        assert isinstance(op.epilogue, IntegerEpilogue)
        self.finish_integer(self.steps[op.input], op.epilogue, op.outputs[0])

    def integer_mul(self, op: Mul) -> None:
        assert isinstance(op.epilogue, IntegerEpilogue)
        product = self.w.node("Mul", [self.steps[op.input], self.steps[op.factor]], "product")
        self.finish_integer(product, op.epilogue, op.outputs[0])

    def global_avg_pool(self, op: GlobalAvgPool) -> None:
        height, width, _ = self.tensors[op.input].shape
        self.real[op.output] = self.w.node("GlobalAveragePool", [self.moved(op.input)], "mean")
        if self.tensors[op.output].dtype == "i32":
            self.means[op.output] = 1 / (height * width)

    def lookup(self, op: Lookup) -> None:
        w, source, result = self.w, self.tensors[op.input], self.tensors[op.output]
        row = w.node("Add", [self.steps[op.input], self.scalar(float(source.zero_point + 128))], "row")
        index = w.node("Cast", [row], "index", to=w.onnx.TensorProto.INT32)
        rows = w.constant((op.table.astype(np.float32) - result.zero_point).astype(np.float32), "table")
        self.steps[op.output] = w.node("Gather", [rows, index], "steps", axis=0)
