"""A Program as standard ONNX with QDQ: `bitskip export --to onnx`.

An i8 value is a uint8 code q + 128, so that what a ReLU wrote has zero point 0. A bits value is a boolean,
true for +1.
"""

from __future__ import annotations

import numpy as np

from bitskip.backends.onnx.convert import ZERO, Converter
from bitskip.backends.onnx.requantize import Requantized, linear, requantize, residual_factor
from bitskip.backends.onnx.weights import quantized, real
from bitskip.backends.onnx.writer import Array, Writer
from bitskip.program import (
    Add,
    Binarize,
    Conv2d,
    FloatEpilogue,
    IntegerEpilogue,
    Lookup,
    Mul,
    Program,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
    inverse_scale,
)
from bitskip.program.bounds import accumulator_bound


class QdqConverter(Converter):
    """Writes the ops of `program` into `w`.

    Args:
        program: the plan.
        w: takes the nodes.
        weights: what 1-bit weights stand as, one of `WEIGHTS`; with `fp32` nothing is QDQ.
        pixels: whether the graph takes uint8 (N, H, W, C); else normalised float32 (N, C, H, W).
        exact: names of integer convolutions that round once, as the program does, for which they are computed
            in float32.

    Attributes:
        codes: uint8 names of i8 tensors.
        positive: boolean names of bits tensors.
        fused: layers that engines fuse into an int8 kernel.
        floats: layers with integer inputs that are computed in float32.
    """

    def __init__(
        self,
        program: Program,
        w: Writer,
        *,
        weights: str,
        pixels: bool,
        exact: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(program, w, weights=weights, pixels=pixels)
        self.exact = exact
        self.codes: dict[int, str] = {}
        self.positive: dict[int, str] = {}
        self.fused: list[str] = []
        self.floats: list[str] = []

    # -- values ---------------------------------------------------------------------------------------

    def value(self, number: int) -> str:
        if number not in self.real:
            if number in self.positive:
                ends = (self.scalar(1.0), self.scalar(-1.0))
                self.real[number] = self.w.node("Where", [self.positive[number], *ends], "sign")
            else:
                self.real[number] = self.dequantized(self.codes[number], self.tensors[number])
        return self.real[number]

    def moved(self, number: int) -> str:
        return self.value(number)

    def put_moved(self, number: int, value: str) -> None:
        self.write(value, (number,))

    def put_bits(self, number: int, value: str) -> None:
        self.positive[number] = self.w.node("GreaterOrEqual", [value, self.scalar(0.0)], "positive")

    def scale_and_zero(self, scale: float, zero: int) -> list[str]:
        return [self.scalar(scale), self.scalar(zero, np.uint8)]

    def dequantized(self, code: str, tensor: Tensor) -> str:
        ends = self.scale_and_zero(tensor.scale, tensor.zero_point + ZERO)
        return self.w.node("DequantizeLinear", [code, *ends], "real")

    def put_i8(self, number: int, value: str, *, alone: bool = False) -> None:
        """Let the i8 tensor `number` be the float32 `value`.

        With fp32 weights no node is quantized: engines would make int8 kernels of what stands between two
        such nodes, and round the weights for them. `alone` keeps the one convolution before it out of that.
        """
        w, tensor = self.w, self.tensors[number]
        if self.weights != "fp32" and not alone:
            ends = self.scale_and_zero(tensor.scale, tensor.zero_point + ZERO)
            self.codes[number] = w.node("QuantizeLinear", [value, *ends], "code")
            return
        value = w.node("Mul", [value, self.scalar(inverse_scale(tensor.scale))], "steps")
        value = w.node("Round", [value], "whole")
        if self.weights != "fp32":
            ends = self.scale_and_zero(1.0, tensor.zero_point + ZERO)
            self.codes[number] = w.node("QuantizeLinear", [value, *ends], "code")
            return
        least, most = (np.float32(end - tensor.zero_point) for end in (-128, 127))
        value = w.node("Clip", [value, self.scalar(least), self.scalar(most)], "clipped")
        self.real[number] = w.node("Mul", [value, self.scalar(np.float32(tensor.scale))], "real")

    # -- epilogues ------------------------------------------------------------------------------------

    def finish_integer(self, y: str, epilogue: IntegerEpilogue, output: int, *, rounded: bool) -> None:
        """Write what follows scale and bias: `y` is a real value of the output's scale.

        `rounded`: the convolution is fused, so a residual is added to what was rounded to 8 bits.
        """
        w, result = self.w, self.tensors[output]
        low = result.zero_point + ZERO == 0  # then clamping to the smallest code is a ReLU
        if epilogue.residual is None:
            if (epilogue.pre_relu or epilogue.post_relu) and not low:
                y = w.node("Relu", [y])
            self.put_i8(output, y, alone=not rounded)
            return
        residual = self.tensors[epilogue.residual]
        exact = epilogue.residual_multiplier * 2.0**-epilogue.shift
        factor = exact * result.scale
        other = self.residual(epilogue.residual, exact, result.scale)
        if rounded:
            y = self.rounded(y, epilogue, result, residual, factor)
        elif epilogue.pre_relu:
            y = w.node("Relu", [y])
        y = w.node("Add", [y, other], "sum")
        if epilogue.post_relu and not low:
            y = w.node("Relu", [y])
        self.put_i8(output, y)

    def residual(self, number: int, exact: float, step: float) -> str:
        """Return (q - zero_point) * exact * step."""
        tensor = self.tensors[number]
        factor = residual_factor(exact, tensor.zero_point, step)
        if factor == np.float32(tensor.scale):
            return self.value(number)
        if factor <= 0 or self.weights == "fp32":
            return self.w.node("Mul", [self.value(number), self.scalar(factor / tensor.scale)], "residual")
        ends = self.scale_and_zero(float(factor), tensor.zero_point + ZERO)
        return self.w.node("DequantizeLinear", [self.codes[number], *ends], "residual")

    def rounded(
        self, y: str, epilogue: IntegerEpilogue, result: Tensor, residual: Tensor, factor: float
    ) -> str:
        """Return `y` rounded to 256 steps, as fine as what the sum can hold allows."""
        ends = [(code - residual.zero_point - ZERO) * factor for code in (0, 255)]
        least, most = min(ends), max(ends)
        high = (255 - result.zero_point - ZERO) * result.scale - least
        low = (-result.zero_point - ZERO) * result.scale - most
        if epilogue.pre_relu:
            low = 0.0
        scale = float(np.float32((high - low) / 255))
        zero = round(-low / scale)
        if epilogue.pre_relu and zero:
            y = self.w.node("Relu", [y])
        q = self.w.node("QuantizeLinear", [y, *self.scale_and_zero(scale, zero)], "part")
        return self.w.node("DequantizeLinear", [q, *self.scale_and_zero(scale, zero)], "part_real")

    # -- convolutions ---------------------------------------------------------------------------------

    def stored(self, op: Conv2d) -> str:
        return self.weights if op.weight_dtype == "w1" else "int8"

    def real_kernel(self, weight: Array, op: Conv2d) -> str:
        return real(self.w, weight, self.stored(op) if op.weight_dtype == "w1" else "fp32")

    def bits_conv(self, op: Conv2d) -> None:
        if isinstance(op.epilogue, ThresholdEpilogue) and self.weights != "fp32":
            self.threshold_conv(op)
        else:
            self.signs_conv(op)

    def integer_conv(self, op: Conv2d) -> None:
        source, results = self.tensors[op.input], [self.tensors[n] for n in op.outputs]
        part = linear(op.epilogue, len(op.weight), results)
        if part is None or source.dtype == "i32":
            assert isinstance(op.epilogue, FloatEpilogue)
            scale = np.ones(len(op.weight)) if op.epilogue.scale is None else op.epilogue.scale
            self.finish_float(self.real_conv(op, scale, op.epilogue.bias), op.epilogue, op.outputs)
            return
        q = None
        if self.weights != "fp32" and op.name not in self.exact:
            bound = accumulator_bound(op, self.tensors)
            q = requantize(part, source, results[0], bound, signs=op.weight_dtype == "w1")
        step = results[0].scale
        y = self.real_conv(op, part.factor * step, part.offset * step) if q is None else self.qdq_conv(op, q)
        if isinstance(op.epilogue, IntegerEpilogue):
            self.finish_integer(y, op.epilogue, op.outputs[0], rounded=q is not None)
            return
        assert isinstance(op.epilogue, FloatEpilogue)
        low = results[0].zero_point + ZERO == 0
        if {op.epilogue.pre.kind, op.epilogue.post.kind} != {"none"} and not low:
            y = self.w.node("Relu", [y])
        self.put_i8(op.outputs[0], y, alone=q is None)

    def qdq_conv(self, op: Conv2d, q: Requantized) -> str:
        self.fused.append(op.name)
        weight = self.signed_weight(op)
        weight = np.where(q.negate[:, None, None, None], -weight, weight)
        w = self.w
        signs = op.weight_dtype == "w1"
        if not signs:
            weight = np.where(q.unit[:, None, None, None] == 0, 0, weight)
        kernel = quantized(w, weight, q.weight_scale, self.stored(op), q.unit if signs else None)
        terms = [w.constant(q.bias, "bias"), w.constant(q.bias_scale, "bias_scale")]
        bias = w.node("DequantizeLinear", terms, "bias_real", axis=0)
        return w.node("Conv", [self.value(op.input), kernel, bias], **self.window(op))

    def real_conv(self, op: Conv2d, factor: Array, offset: Array | None) -> str:
        """Return acc * factor + offset of an integer input, computed in float32."""
        self.floats.append(op.name)
        source = self.tensors[op.input]
        unit = self.means[op.input] if source.dtype == "i32" else source.scale
        scale = np.asarray(factor, np.float64) / unit
        weight = self.signed_weight(op)
        weight = np.where((scale < 0)[:, None, None, None], -weight, weight)
        scale = np.abs(scale).astype(np.float32)
        if self.weights == "fp32":
            kernel = self.w.constant(weight.astype(np.float32) * scale[:, None, None, None], "weight")
        else:
            kernel = quantized(self.w, weight, scale, self.stored(op))
        inputs = [self.value(op.input), kernel]
        if offset is not None:
            inputs.append(self.w.constant(offset.astype(np.float32), "bias"))
        return self.w.node("Conv", inputs, **self.window(op))

    def signs_conv(self, op: Conv2d) -> None:
        """Write signs times signs: exact in float32, then the epilogue's own operations."""
        self.floats.append(op.name)
        weight = self.signed_weight(op)
        x = self.padded(self.value(op.input), op, self.scalar(float(op.pad_value)))
        kernel = real(self.w, weight, self.stored(op))
        y = self.w.node("Conv", [x, kernel], **self.window(op, padded=op.pad_value != 0))
        if isinstance(op.epilogue, ThresholdEpilogue):
            self.positive[op.outputs[0]] = self.at_least(y, op.epilogue.threshold, op.epilogue.flip)
            return
        if isinstance(op.epilogue, IntegerEpilogue):
            part = linear(op.epilogue, len(weight), [self.tensors[op.outputs[0]]])
            assert part is not None
            step = self.tensors[op.outputs[0]].scale
            y = self.affine_part(
                y, (part.factor * step).astype(np.float32), (part.offset * step).astype(np.float32)
            )
            self.finish_integer(y, op.epilogue, op.outputs[0], rounded=False)
            return
        self.finish_float(self.affine_part(y, op.epilogue.scale, op.epilogue.bias), op.epilogue, op.outputs)

    def at_least(self, acc: str, threshold: Array, flip: Array) -> str:
        """Return (acc >= threshold) xor flip, of whole numbers below 2^24 in float32."""
        least = np.clip(threshold.astype(np.int64), -(1 << 24), 1 << 24).astype(np.float32)
        positive = self.w.node("GreaterOrEqual", [acc, self.column(least, "threshold")], "positive")
        if flip.any():
            positive = self.w.node("Xor", [positive, self.column(flip, "flip")], "flipped")
        return positive

    def threshold_conv(self, op: Conv2d) -> None:
        """Write signs times signs and thresholds as QDQ: the code of acc - threshold keeps its sign."""
        assert isinstance(op.epilogue, ThresholdEpilogue)
        self.fused.append(op.name)
        w, flip = self.w, op.epilogue.flip
        # not (acc >= t) is -acc >= 1 - t
        bound = accumulator_bound(op, self.tensors) + 1
        least = np.clip(op.epilogue.threshold.astype(np.int64), -bound, bound)
        bias = np.where(flip, least - 1, -least).astype(np.int32)
        weight = self.signed_weight(op)
        weight = np.where(flip[:, None, None, None], -weight, weight)
        one = self.scalar(1, np.uint8)
        ends = (self.scalar(2, np.uint8), self.scalar(0, np.uint8))
        code = w.node("Where", [self.positive[op.input], *ends], "code")
        code = self.padded(code, op, self.scalar(1 + op.pad_value, np.uint8))
        x = w.node("DequantizeLinear", [code, self.scalar(1.0), one], "sign")
        ones = np.ones(len(weight), np.float32)
        kernel = quantized(w, weight, ones, self.stored(op))
        terms = [w.constant(bias, "bias"), w.constant(ones, "ones")]
        inputs = [x, kernel, w.node("DequantizeLinear", terms, "bias_real", axis=0)]
        y = w.node("Conv", inputs, **self.window(op, padded=op.pad_value != 0))
        y = w.node("QuantizeLinear", [y, *self.scale_and_zero(1.0, ZERO)], "code")
        # Comparisons of uint8 are not in every engine.
        whole = w.node("Cast", [y], "whole", to=w.onnx.TensorProto.INT32)
        self.positive[op.outputs[0]] = w.node(
            "GreaterOrEqual", [whole, self.scalar(ZERO, np.int32)], "positive"
        )

    # -- other ops ------------------------------------------------------------------------------------

    def from_pixels(self, op: QuantizeInput, picture: str) -> None:
        w, result = self.w, self.tensors[op.output]
        if op.table is not None:
            channels = result.shape[2]
            table = w.constant((op.table.astype(np.int16) + ZERO).astype(np.uint8).reshape(-1), "table")
            index = w.node("Cast", [picture], "index", to=w.onnx.TensorProto.INT32)
            if channels > 1:
                first = self.column(256 * np.arange(channels, dtype=np.int32), "first")
                index = w.node("Add", [index, first], "index")
            code = self.codes[op.output] = w.node("Gather", [table, index], "code", axis=0)
            if self.weights == "fp32":
                y = w.node("Cast", [code], "whole", to=w.onnx.TensorProto.FLOAT)
                y = w.node("Sub", [y, self.scalar(float(result.zero_point + ZERO))], "steps")
                self.real[op.output] = w.node("Mul", [y, self.scalar(np.float32(result.scale))], "real")
            return
        y = w.node("Cast", [picture], "levels", to=w.onnx.TensorProto.FLOAT)
        self.real[op.output] = self.affine_part(y, op.scale, op.bias)

    def binarize(self, op: Binarize) -> None:
        source = self.tensors[op.input]
        if source.dtype == "f32":
            self.put_bits(op.output, self.beyond(self.value(op.input), op.threshold))
            return
        assert op.q_threshold is not None
        assert op.flip is not None
        w = self.w
        steps = w.node("Mul", [self.value(op.input), self.scalar(inverse_scale(source.scale))], "steps")
        steps = w.node("Round", [steps], "whole")  # q - zero_point
        least = np.clip(op.q_threshold.astype(np.int64), -129, 128) - source.zero_point
        self.positive[op.output] = self.at_least(steps, least, op.flip)

    def integer_add(self, op: Add) -> None:
        epilogue = op.epilogue
        assert isinstance(epilogue, IntegerEpilogue)
        result = self.tensors[op.outputs[0]]
        unit = 2.0**-epilogue.shift
        factor, offset = epilogue.multiplier * unit, epilogue.bias * unit * result.scale
        if (factor == factor[0]).all() and not offset.any():
            y = self.residual(op.input, float(factor[0]), result.scale)
        else:
            scale = (factor * result.scale / self.tensors[op.input].scale).astype(np.float32)
            y = self.affine_part(self.value(op.input), scale, offset.astype(np.float32))
        self.finish_integer(y, epilogue, op.outputs[0], rounded=False)

    def integer_mul(self, op: Mul) -> None:
        assert isinstance(op.epilogue, IntegerEpilogue)
        y = self.w.node("Mul", [self.value(op.input), self.value(op.factor)], "product")
        source, by, result = (self.tensors[n] for n in (op.input, op.factor, op.outputs[0]))
        unit = 2.0**-op.epilogue.shift * result.scale
        scale = (op.epilogue.multiplier * unit / (source.scale * by.scale)).astype(np.float32)
        if (scale != 1).any() or op.epilogue.bias.any():  # else the product is the value as it is
            y = self.affine_part(y, scale, (op.epilogue.bias * unit).astype(np.float32))
        self.finish_integer(y, op.epilogue, op.outputs[0], rounded=True)

    def lookup(self, op: Lookup) -> None:
        w, source, result = self.w, self.tensors[op.input], self.tensors[op.output]
        if self.weights == "fp32":
            steps = w.node("Mul", [self.value(op.input), self.scalar(inverse_scale(source.scale))], "steps")
            steps = w.node("Add", [steps, self.scalar(float(source.zero_point + ZERO))], "steps")
            index = w.node("Cast", [w.node("Round", [steps])], "index", to=w.onnx.TensorProto.INT32)
            real = (op.table.astype(np.float32) - np.float32(result.zero_point)) * np.float32(result.scale)
            self.real[op.output] = w.node("Gather", [w.constant(real, "table"), index], "real", axis=0)
            return
        table = w.constant((op.table.astype(np.int16) + ZERO).astype(np.uint8), "table")
        index = w.node("Cast", [self.codes[op.input]], "index", to=w.onnx.TensorProto.INT32)
        self.codes[op.output] = w.node("Gather", [table, index], "code", axis=0)
