"""Program to ONNX graph, op by op; values are (N, C, H, W).

An i8 value is a uint8 code q + 128, so that what a ReLU wrote has zero point 0. A bits value is a boolean,
true for +1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitskip.backends.onnx.requantize import Requantized, linear, requantize
from bitskip.backends.onnx.weights import integer_weight, quantized, real
from bitskip.backends.onnx.writer import Array, Writer
from bitskip.program import (
    Activation,
    Add,
    Affine,
    AvgPool,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Lookup,
    MaxPool,
    Mul,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
    Tensor,
    ThresholdEpilogue,
    inverse_scale,
)
from bitskip.program.check import accumulator_bound

__all__ = ["Converter"]

_ZERO = 128  # of a code: the int8 value 0


class Converter:
    """Writes the ops of `program` into `w`.

    Args:
        program: the plan.
        w: takes the nodes.
        weights: what 1-bit weights stand as, one of `WEIGHTS`; with `fp32` nothing is QDQ.
        pixels: whether the graph takes uint8 (N, H, W, C); else normalised float32 (N, C, H, W).
        exact: names of integer convolutions that round once, as the program does, for which they are computed
            in float32.

    Attributes:
        real: float32 names by tensor number.
        codes: uint8 names of i8 tensors.
        positive: boolean names of bits tensors.
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
        self.program, self.w, self.weights, self.pixels = program, w, weights, pixels
        self.exact = exact
        self.tensors = program.tensors
        self.real: dict[int, str] = {}
        self.codes: dict[int, str] = {}
        self.positive: dict[int, str] = {}
        self.means: dict[int, float] = {}  # of an i32 tensor: what a sum of 1 is as a real mean
        self.fused: list[str] = []  # layers that engines fuse into an int8 kernel
        self.floats: list[str] = []  # layers with integer inputs that are computed in float32

    def run(self) -> list[str]:
        """Write every op and return the names of the outputs, (N, C, H, W) each."""
        for op in self.program.ops:
            self.w.scope = op.name
            getattr(self, op.kind)(op)
        self.w.scope = ""
        return [self.value(output.tensor) for output in self.program.outputs]

    # -- values ---------------------------------------------------------------------------------------

    def value(self, number: int) -> str:
        """Return the float32 value of an f32, i8 or i32 tensor, or +1 and -1 of bits."""
        if number not in self.real:
            if number in self.positive:
                ends = (self.scalar(1.0), self.scalar(-1.0))
                self.real[number] = self.w.node("Where", [self.positive[number], *ends], "sign")
            else:
                self.real[number] = self.dequantized(self.codes[number], self.tensors[number])
        return self.real[number]

    def scalar(self, value: Any, dtype: Any = np.float32) -> str:
        scope, self.w.scope = self.w.scope, ""
        name = self.w.constant(np.array(value, dtype), f"{np.dtype(dtype).char}{value:.6g}")
        self.w.scope = scope
        return name

    def column(self, values: Array, what: str) -> str:
        """Return a constant of one value a channel, (C, 1, 1)."""
        return self.w.constant(np.asarray(values).reshape(-1, 1, 1), what)

    def scale_and_zero(self, scale: float, zero: int) -> list[str]:
        return [self.scalar(scale), self.scalar(zero, np.uint8)]

    def dequantized(self, code: str, tensor: Tensor) -> str:
        ends = self.scale_and_zero(tensor.scale, tensor.zero_point + _ZERO)
        return self.w.node("DequantizeLinear", [code, *ends], "real")

    def put_i8(self, number: int, value: str, *, alone: bool = False) -> None:
        """Let the i8 tensor `number` be the float32 `value`.

        With fp32 weights no node is quantized: engines would make int8 kernels of what stands between two
        such nodes, and round the weights for them. `alone` keeps the one convolution before it out of that.
        """
        w, tensor = self.w, self.tensors[number]
        if self.weights != "fp32" and not alone:
            ends = self.scale_and_zero(tensor.scale, tensor.zero_point + _ZERO)
            self.codes[number] = w.node("QuantizeLinear", [value, *ends], "code")
            return
        value = w.node("Mul", [value, self.scalar(inverse_scale(tensor.scale))], "steps")
        value = w.node("Round", [value], "whole")
        if self.weights != "fp32":
            ends = self.scale_and_zero(1.0, tensor.zero_point + _ZERO)
            self.codes[number] = w.node("QuantizeLinear", [value, *ends], "code")
            return
        least, most = (np.float32(end - tensor.zero_point) for end in (-128, 127))
        value = w.node("Clip", [value, self.scalar(least), self.scalar(most)], "clipped")
        self.real[number] = w.node("Mul", [value, self.scalar(np.float32(tensor.scale))], "real")

    def write(self, y: str, outputs: tuple[int, ...], threshold: Array | None = None) -> None:
        """Let the float32 value `y` be written as each of `outputs`."""
        for number in outputs:
            tensor = self.tensors[number]
            if tensor.dtype == "f32":
                self.real[number] = y
            elif tensor.dtype == "i8":
                self.put_i8(number, y)
            else:
                self.positive[number] = self.sign(y, threshold)

    def sign(self, y: str, threshold: Array | None) -> str:
        if threshold is not None:
            y = self.w.node("Sub", [y, self.column(threshold, "threshold")], "beyond")
        return self.w.node("GreaterOrEqual", [y, self.scalar(0.0)], "positive")

    # -- epilogues ------------------------------------------------------------------------------------

    def affine_part(self, y: str, scale: Array | None, bias: Array | None) -> str:
        if scale is not None:
            y = self.w.node("Mul", [y, self.column(scale, "scale")], "scaled")
        if bias is not None:
            y = self.w.node("Add", [y, self.column(bias, "bias")], "shifted")
        return y

    def activate(self, y: str, activation: Activation) -> str:
        w = self.w
        match activation.kind:
            case "relu6":
                return w.node("Clip", [y, self.scalar(0.0), self.scalar(6.0)])
            case "sigmoid":
                return w.node("Sigmoid", [y])
            case "hard_sigmoid":
                return w.node("HardSigmoid", [y], alpha=1 / 6, beta=0.5)
            case "hard_swish":
                return w.node("HardSwish", [y])
            case "silu":
                return w.node("Mul", [y, w.node("Sigmoid", [y])], "silu")
        if activation.kind == "relu":
            return w.node("Relu", [y])
        if activation.kind == "prelu":
            return w.node("PRelu", [y, self.column(np.asarray(activation.slope), "slope")])
        if activation.kind == "rprelu":
            y = w.node("Sub", [y, self.column(np.asarray(activation.shift_in), "shift_in")], "moved")
            y = w.node("PRelu", [y, self.column(np.asarray(activation.slope), "slope")])
            y = w.node("Add", [y, self.column(np.asarray(activation.shift_out), "shift_out")], "back")
        return y

    def finish_float(self, y: str, epilogue: FloatEpilogue, outputs: tuple[int, ...]) -> None:
        """Write what follows scale and bias."""
        y = self.activate(y, epilogue.pre)
        if epilogue.residual is not None:
            y = self.w.node("Add", [y, self.value(epilogue.residual)], "sum")
        self.write(self.activate(y, epilogue.post), outputs, epilogue.threshold)

    def finish_integer(self, y: str, epilogue: IntegerEpilogue, output: int, *, rounded: bool) -> None:
        """Write what follows scale and bias: `y` is a real value of the output's scale.

        `rounded`: the convolution is fused, so a residual is added to what was rounded to 8 bits.
        """
        w, result = self.w, self.tensors[output]
        low = result.zero_point + _ZERO == 0  # then clamping to the smallest code is a ReLU
        if epilogue.residual is None:
            if (epilogue.pre_relu or epilogue.post_relu) and not low:
                y = w.node("Relu", [y])
            self.put_i8(output, y, alone=not rounded)
            return
        residual = self.tensors[epilogue.residual]
        factor = epilogue.residual_multiplier * 2.0**-epilogue.shift * result.scale
        other = self.residual(epilogue.residual, factor)
        if rounded:
            y = self.rounded(y, epilogue, result, residual, factor)
        elif epilogue.pre_relu:
            y = w.node("Relu", [y])
        y = w.node("Add", [y, other], "sum")
        if epilogue.post_relu and not low:
            y = w.node("Relu", [y])
        self.put_i8(output, y)

    def residual(self, number: int, factor: float) -> str:
        """Return (q - zero_point) * factor."""
        tensor = self.tensors[number]
        if abs(factor / tensor.scale - 1) < 1e-6:
            return self.value(number)
        if factor <= 0 or self.weights == "fp32":
            return self.w.node("Mul", [self.value(number), self.scalar(factor / tensor.scale)], "residual")
        ends = self.scale_and_zero(factor, tensor.zero_point + _ZERO)
        return self.w.node("DequantizeLinear", [self.codes[number], *ends], "residual")

    def rounded(
        self, y: str, epilogue: IntegerEpilogue, result: Tensor, residual: Tensor, factor: float
    ) -> str:
        """Return `y` rounded to 256 steps, as fine as what the sum can hold allows."""
        ends = [(code - residual.zero_point - _ZERO) * factor for code in (0, 255)]
        least, most = min(ends), max(ends)
        high = (255 - result.zero_point - _ZERO) * result.scale - least
        low = (-result.zero_point - _ZERO) * result.scale - most
        if epilogue.pre_relu:
            low = 0.0
        scale = float(np.float32((high - low) / 255))
        zero = round(-low / scale)
        if epilogue.pre_relu and zero:
            y = self.w.node("Relu", [y])
        q = self.w.node("QuantizeLinear", [y, *self.scale_and_zero(scale, zero)], "part")
        return self.w.node("DequantizeLinear", [q, *self.scale_and_zero(scale, zero)], "part_real")

    # -- convolutions ---------------------------------------------------------------------------------

    def conv2d(self, op: Conv2d) -> None:
        source = self.tensors[op.input]
        if source.dtype == "bits":
            if isinstance(op.epilogue, ThresholdEpilogue) and self.weights != "fp32":
                self.threshold_conv(op)
            else:
                self.signs_conv(op)
        elif source.dtype == "i8":
            self.integer_conv(op)
        else:
            self.float_conv(op)

    def window(self, op: Conv2d, *, padded: bool = False) -> dict[str, Any]:
        pads = (0, 0) if padded else op.padding
        return {
            "kernel_shape": list(op.kernel),
            "strides": list(op.stride),
            "pads": [*pads, *pads],
            **({} if op.groups == 1 else {"group": op.groups}),
        }

    def stored(self, op: Conv2d) -> str:
        return self.weights if op.weight_dtype == "w1" else "int8"

    def signed_weight(self, op: Conv2d) -> Array:
        return integer_weight(op, self.tensors[op.input].shape[2] // op.groups)

    def integer_conv(self, op: Conv2d) -> None:
        source, results = self.tensors[op.input], [self.tensors[n] for n in op.outputs]
        part = linear(op.epilogue, len(op.weight), results)
        if part is None:
            assert isinstance(op.epilogue, FloatEpilogue)
            self.float_conv(op)
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
        low = results[0].zero_point + _ZERO == 0
        if {op.epilogue.pre.kind, op.epilogue.post.kind} != {"none"} and not low:
            y = self.w.node("Relu", [y])
        self.put_i8(op.outputs[0], y, alone=q is None)

    def qdq_conv(self, op: Conv2d, q: Requantized) -> str:
        self.fused.append(op.name)
        weight = self.signed_weight(op)
        weight = np.where(q.negate[:, None, None, None], -weight, weight)
        w = self.w
        kernel = quantized(w, weight, q.weight_scale, self.stored(op), q.unit)
        zeros = w.constant(np.zeros(len(weight), np.int32), "bias_zero")
        terms = [w.constant(q.bias, "bias"), w.constant(q.bias_scale, "bias_scale"), zeros]
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

    def float_conv(self, op: Conv2d) -> None:
        """Write a convolution with a float epilogue that is not fused."""
        source, epilogue = self.tensors[op.input], op.epilogue
        assert isinstance(epilogue, FloatEpilogue)
        scale = np.ones(len(op.weight), np.float32) if epilogue.scale is None else epilogue.scale
        if source.dtype in ("i8", "i32"):
            y = self.real_conv(op, scale, epilogue.bias)
        else:
            weight = self.signed_weight(op) * scale[:, None, None, None]
            kernel = real(self.w, weight, self.stored(op) if op.weight_dtype == "w1" else "fp32")
            inputs = [self.value(op.input), kernel]
            if epilogue.bias is not None:
                inputs.append(self.w.constant(epilogue.bias, "bias"))
            y = self.w.node("Conv", inputs, **self.window(op))
        self.finish_float(y, epilogue, op.outputs)

    def padded(self, value: str, op: Conv2d, outside: str) -> str:
        """Return a 1-bit input with its padding, which is no 0 there."""
        if op.padding == (0, 0) or op.pad_value == 0:
            return value
        ends = [0, 0, *op.padding]
        return self.w.node("Pad", [value, self.w.constant(np.array(ends * 2), "pads"), outside], "padded")

    def signs_conv(self, op: Conv2d) -> None:
        """Write signs times signs: exact in float32, then the epilogue's own operations."""
        self.floats.append(op.name)
        weight = self.signed_weight(op)
        x = self.padded(self.value(op.input), op, self.scalar(float(op.pad_value)))
        kernel = real(self.w, weight, self.stored(op))
        y = self.w.node("Conv", [x, kernel], **self.window(op, padded=op.pad_value != 0))
        if isinstance(op.epilogue, ThresholdEpilogue):
            self.positive[op.outputs[0]] = self.beyond(y, op.epilogue.threshold, op.epilogue.flip)
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

    def beyond(self, acc: str, threshold: Array, flip: Array) -> str:
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
        terms = [w.constant(bias, "bias"), w.constant(ones, "ones"), w.constant(np.zeros_like(bias), "zeros")]
        inputs = [x, kernel, w.node("DequantizeLinear", terms, "bias_real", axis=0)]
        y = w.node("Conv", inputs, **self.window(op, padded=op.pad_value != 0))
        y = w.node("QuantizeLinear", [y, *self.scale_and_zero(1.0, _ZERO)], "code")
        # Comparisons of uint8 are not in every engine.
        whole = w.node("Cast", [y], "whole", to=w.onnx.TensorProto.INT32)
        self.positive[op.outputs[0]] = w.node(
            "GreaterOrEqual", [whole, self.scalar(_ZERO, np.int32)], "positive"
        )

    # -- other ops ------------------------------------------------------------------------------------

    def quantize_input(self, op: QuantizeInput) -> None:
        w, result = self.w, self.tensors[op.output]
        if not self.pixels:
            self.write("picture", (op.output,))
            return
        picture = w.node("Transpose", ["picture"], "channels_first", perm=[0, 3, 1, 2])
        if op.table is not None:
            channels = result.shape[2]
            table = w.constant((op.table.astype(np.int16) + _ZERO).astype(np.uint8).reshape(-1), "table")
            index = w.node("Cast", [picture], "index", to=w.onnx.TensorProto.INT32)
            if channels > 1:
                first = self.column(256 * np.arange(channels, dtype=np.int32), "first")
                index = w.node("Add", [index, first], "index")
            code = self.codes[op.output] = w.node("Gather", [table, index], "code", axis=0)
            if self.weights == "fp32":
                y = w.node("Cast", [code], "whole", to=w.onnx.TensorProto.FLOAT)
                y = w.node("Sub", [y, self.scalar(float(result.zero_point + _ZERO))], "steps")
                self.real[op.output] = w.node("Mul", [y, self.scalar(np.float32(result.scale))], "real")
            return
        y = w.node("Cast", [picture], "levels", to=w.onnx.TensorProto.FLOAT)
        self.real[op.output] = self.affine_part(y, op.scale, op.bias)

    def binarize(self, op: Binarize) -> None:
        source = self.tensors[op.input]
        if source.dtype == "f32":
            self.positive[op.output] = self.sign(self.value(op.input), op.threshold)
            return
        assert op.q_threshold is not None
        assert op.flip is not None
        w = self.w
        steps = w.node("Mul", [self.value(op.input), self.scalar(inverse_scale(source.scale))], "steps")
        steps = w.node("Round", [steps], "whole")  # q - zero_point
        least = np.clip(op.q_threshold.astype(np.int64), -129, 128) - source.zero_point
        self.positive[op.output] = self.beyond(steps, least, op.flip)

    def add(self, op: Add) -> None:
        epilogue = op.epilogue
        if isinstance(epilogue, FloatEpilogue):
            self.finish_float(self.value(op.input), epilogue, op.outputs)
            return
        assert isinstance(epilogue, IntegerEpilogue)
        result = self.tensors[op.outputs[0]]
        unit = 2.0**-epilogue.shift * result.scale
        factor, offset = epilogue.multiplier * unit, epilogue.bias * unit
        if (factor == factor[0]).all() and not offset.any():
            y = self.residual(op.input, float(factor[0]))
        else:
            scale = (factor / self.tensors[op.input].scale).astype(np.float32)
            y = self.affine_part(self.value(op.input), scale, offset.astype(np.float32))
        self.finish_integer(y, epilogue, op.outputs[0], rounded=False)

    def affine(self, op: Affine) -> None:
        y = self.affine_part(self.value(op.input), op.epilogue.scale, op.epilogue.bias)
        self.finish_float(y, op.epilogue, op.outputs)

    def pool_window(self, op: MaxPool | AvgPool) -> dict[str, Any]:
        """Return a pool's attributes; what windows need beyond the padding is padded at the end."""
        height, width, _ = self.tensors[op.input].shape
        ends = list(op.padding)
        for axis, (size, count) in enumerate(
            zip((height, width), self.tensors[op.output].shape[:2], strict=True)
        ):
            reach = (count - 1) * op.stride[axis] + op.kernel[axis]
            ends[axis] = max(ends[axis], reach - size - op.padding[axis])
        return {
            "kernel_shape": list(op.kernel),
            "strides": list(op.stride),
            "pads": [*op.padding, *ends],
        }

    def max_pool(self, op: MaxPool) -> None:
        y = self.w.node("MaxPool", [self.value(op.input)], **self.pool_window(op))
        self.write(y, (op.output,))

    def avg_pool(self, op: AvgPool) -> None:
        window = self.pool_window(op)
        self.real[op.output] = self.w.node(
            "AveragePool", [self.value(op.input)], **window, count_include_pad=int(op.count_padding)
        )

    def global_avg_pool(self, op: GlobalAvgPool) -> None:
        height, width, _ = self.tensors[op.input].shape
        self.real[op.output] = self.w.node("GlobalAveragePool", [self.value(op.input)], "mean")
        self.means[op.output] = self.tensors[op.input].scale / (height * width)

    def quantize(self, op: Quantize) -> None:
        self.write(self.value(op.input), (op.output,))

    def dequantize(self, op: Dequantize) -> None:
        self.real[op.output] = self.value(op.input)

    def concat(self, op: Concat) -> None:
        y = self.w.node("Concat", [self.value(number) for number in op.inputs], axis=1)
        self.write(y, (op.output,))

    def resize(self, op: Resize) -> None:
        (height, width, _), (rows, columns, _) = self.tensors[op.input].shape, self.tensors[op.output].shape
        y = self.value(op.input)
        if rows % height == 0 and columns % width == 0:
            scales = np.array([1, 1, rows // height, columns // width], np.float32)
            how = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            y = self.w.node("Resize", [y, "", self.w.constant(scales, "scales")], **how)
        else:  # an engine's floor of a float32 product may be one pixel off
            for axis, size, count in ((2, height, rows), (3, width, columns)):
                index = self.w.constant(np.arange(count) * size // count, "pixels")
                y = self.w.node("Gather", [y, index], "resized", axis=axis)
        self.write(y, (op.output,))

    def mul(self, op: Mul) -> None:
        y = self.w.node("Mul", [self.value(op.input), self.value(op.factor)], "product")
        if isinstance(op.epilogue, FloatEpilogue):
            y = self.affine_part(y, op.epilogue.scale, op.epilogue.bias)
            self.finish_float(y, op.epilogue, op.outputs)
            return
        assert isinstance(op.epilogue, IntegerEpilogue)
        source, by, result = (self.tensors[n] for n in (op.input, op.factor, op.outputs[0]))
        unit = 2.0**-op.epilogue.shift * result.scale
        scale = (op.epilogue.multiplier * unit / (source.scale * by.scale)).astype(np.float32)
        y = self.affine_part(y, scale, (op.epilogue.bias * unit).astype(np.float32))
        self.finish_integer(y, op.epilogue, op.outputs[0], rounded=True)

    def lookup(self, op: Lookup) -> None:
        w, source, result = self.w, self.tensors[op.input], self.tensors[op.output]
        if self.weights == "fp32":
            steps = w.node("Mul", [self.value(op.input), self.scalar(inverse_scale(source.scale))], "steps")
            steps = w.node("Add", [steps, self.scalar(float(source.zero_point + _ZERO))], "steps")
            index = w.node("Cast", [w.node("Round", [steps])], "index", to=w.onnx.TensorProto.INT32)
            real = (op.table.astype(np.float32) - np.float32(result.zero_point)) * np.float32(result.scale)
            self.real[op.output] = w.node("Gather", [w.constant(real, "table"), index], "real", axis=0)
            return
        table = w.constant((op.table.astype(np.int16) + _ZERO).astype(np.uint8), "table")
        index = w.node("Cast", [self.codes[op.input]], "index", to=w.onnx.TensorProto.INT32)
        self.codes[op.output] = w.node("Gather", [table, index], "code", axis=0)
