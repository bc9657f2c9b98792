"""Program to ONNX graph, op by op; values are (N, C, H, W): what every form of it shares.

`QdqConverter` (qdq.py) writes standard ONNX, `QonnxConverter` (qonnx.py) QONNX. They differ in how an i8 or a
bits value stands, and so in what reads and writes those; real values are float32 in both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bitskip.backends.onnx.weights import integer_weight
from bitskip.backends.onnx.writer import Array, Writer
from bitskip.program import (
    Activation,
    Add,
    Affine,
    AvgPool,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    FloatEpilogue,
    GlobalAvgPool,
    Lookup,
    MaxPool,
    Mul,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
)

ZERO = 128  # of a uint8 code: the int8 value 0


class Converter(ABC):
    """Writes the ops of `program` into `w`.

    Args:
        program: the plan.
        w: takes the nodes.
        weights: what weights stand as, one of `WEIGHTS`.
        pixels: whether the graph takes uint8 (N, H, W, C); else normalised float32 (N, C, H, W).

    Attributes:
        real: float32 names by tensor number.
        means: of an i32 tensor, what a sum of 1 is in the values that `real` has.
    """

    def __init__(self, program: Program, w: Writer, *, weights: str, pixels: bool) -> None:
        self.program, self.w, self.weights, self.pixels = program, w, weights, pixels
        self.tensors = program.tensors
        self.real: dict[int, str] = {}
        self.means: dict[int, float] = {}

    def run(self) -> list[str]:
        """Write every op and return the names of the outputs, (N, C, H, W) each."""
        for op in self.program.ops:
            self.w.scope = op.name
            getattr(self, op.kind)(op)
        self.w.scope = ""
        return [self.value(output.tensor) for output in self.program.outputs]

    # -- what a form decides --------------------------------------------------------------------------

    @abstractmethod
    def value(self, number: int) -> str:
        """Return the float32 value of an f32, i8 or i32 tensor, or +1 and -1 of bits."""

    @abstractmethod
    def put_i8(self, number: int, value: str) -> None:
        """Let the i8 tensor `number` be the float32 `value`, rounded and clamped."""

    @abstractmethod
    def put_bits(self, number: int, value: str) -> None:
        """Let the bits tensor `number` be true where the float32 `value` is 0 or more."""

    @abstractmethod
    def moved(self, number: int) -> str:
        """Return a value that an op takes along as it is: of pools, concatenations and resizes."""

    @abstractmethod
    def put_moved(self, number: int, value: str) -> None:
        """Let the tensor `number` be a value that `moved` gave."""

    @abstractmethod
    def integer_conv(self, op: Conv2d) -> None:
        """Write a convolution of an i8 or i32 tensor."""

    @abstractmethod
    def bits_conv(self, op: Conv2d) -> None:
        """Write a convolution of a bits tensor."""

    @abstractmethod
    def real_kernel(self, weight: Array, op: Conv2d) -> str:
        """Return float32 weights (O, I, KH, KW) of a convolution of an f32 tensor."""

    @abstractmethod
    def from_pixels(self, op: QuantizeInput, picture: str) -> None:
        """Write how an input is read from its pixels, uint8 (N, C, H, W)."""

    @abstractmethod
    def binarize(self, op: Binarize) -> None:
        """Write the signs of a value."""

    @abstractmethod
    def integer_add(self, op: Add) -> None:
        """Write an addition of i8 tensors."""

    @abstractmethod
    def integer_mul(self, op: Mul) -> None:
        """Write a product of i8 tensors."""

    @abstractmethod
    def lookup(self, op: Lookup) -> None:
        """Write a table of 256 rows."""

    # -- values ---------------------------------------------------------------------------------------

    def scalar(self, value: Any, dtype: Any = np.float32) -> str:
        scope, self.w.scope = self.w.scope, ""
        name = self.w.constant(np.array(value, dtype), f"{np.dtype(dtype).char}{value:.6g}")
        self.w.scope = scope
        return name

    def column(self, values: Array, what: str) -> str:
        """Return a constant of one value a channel, (C, 1, 1)."""
        return self.w.constant(np.asarray(values).reshape(-1, 1, 1), what)

    def write(self, y: str, outputs: tuple[int, ...], threshold: Array | None = None) -> None:
        """Let the float32 value `y` be written as each of `outputs`."""
        for number in outputs:
            tensor = self.tensors[number]
            if tensor.dtype == "f32":
                self.real[number] = y
            elif tensor.dtype == "i8":
                self.put_i8(number, y)
            else:
                self.put_bits(number, self.beyond(y, threshold))

    def beyond(self, y: str, threshold: Array | None) -> str:
        """Return y - threshold[c]: the subtraction is rounded, as in training."""
        if threshold is None:
            return y
        return self.w.node("Sub", [y, self.column(threshold, "threshold")], "beyond")

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

    # -- convolutions ---------------------------------------------------------------------------------

    def conv2d(self, op: Conv2d) -> None:
        match self.tensors[op.input].dtype:
            case "bits":
                self.bits_conv(op)
            case "i8" | "i32":
                self.integer_conv(op)
            case _:
                self.float_conv(op)

    def float_conv(self, op: Conv2d) -> None:
        """Write a convolution of real values."""
        epilogue = op.epilogue
        assert isinstance(epilogue, FloatEpilogue)
        scale = np.ones(len(op.weight), np.float32) if epilogue.scale is None else epilogue.scale
        kernel = self.real_kernel(self.signed_weight(op) * scale[:, None, None, None], op)
        inputs = [self.value(op.input), kernel]
        if epilogue.bias is not None:
            inputs.append(self.w.constant(epilogue.bias, "bias"))
        y = self.w.node("Conv", inputs, **self.window(op))
        self.finish_float(y, epilogue, op.outputs)

    def window(self, op: Conv2d, *, padded: bool = False) -> dict[str, Any]:
        pads = (0, 0) if padded else op.padding
        return {
            "kernel_shape": list(op.kernel),
            "strides": list(op.stride),
            "pads": [*pads, *pads],
            **({} if op.groups == 1 else {"group": op.groups}),
            **({} if op.dilation == (1, 1) else {"dilations": list(op.dilation)}),
        }

    def signed_weight(self, op: Conv2d) -> Array:
        return integer_weight(op, self.tensors[op.input].shape[2] // op.groups)

    def padded(self, value: str, op: Conv2d, outside: str) -> str:
        """Return a 1-bit input with its padding, which is no 0 there."""
        if op.padding == (0, 0) or op.pad_value == 0:
            return value
        ends = [0, 0, *op.padding]
        return self.w.node("Pad", [value, self.w.constant(np.array(ends * 2), "pads"), outside], "padded")

    # -- other ops ------------------------------------------------------------------------------------

    def quantize_input(self, op: QuantizeInput) -> None:
        given = self.program.inputs[op.input].name
        if self.pixels:
            self.from_pixels(op, self.w.node("Transpose", [given], "channels_first", perm=[0, 3, 1, 2]))
        else:
            self.write(given, (op.output,))

    def add(self, op: Add) -> None:
        if isinstance(op.epilogue, FloatEpilogue):
            self.finish_float(self.value(op.input), op.epilogue, op.outputs)
        else:
            self.integer_add(op)

    def mul(self, op: Mul) -> None:
        if not isinstance(op.epilogue, FloatEpilogue):
            self.integer_mul(op)
            return
        y = self.w.node("Mul", [self.value(op.input), self.value(op.factor)], "product")
        y = self.affine_part(y, op.epilogue.scale, op.epilogue.bias)
        self.finish_float(y, op.epilogue, op.outputs)

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
        y = self.w.node("MaxPool", [self.moved(op.input)], **self.pool_window(op))
        self.put_moved(op.output, y)

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
        y = self.w.node("Concat", [self.moved(number) for number in op.inputs], axis=1)
        self.put_moved(op.output, y)

    def resize(self, op: Resize) -> None:
        (height, width, _), (rows, columns, _) = self.tensors[op.input].shape, self.tensors[op.output].shape
        y = self.moved(op.input)
        if rows % height == 0 and columns % width == 0:
            scales = np.array([1, 1, rows // height, columns // width], np.float32)
            how = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            y = self.w.node("Resize", [y, "", self.w.constant(scales, "scales")], **how)
        else:  # an engine's floor of a float32 product may be one pixel off
            for axis, size, count in ((2, height, rows), (3, width, columns)):
                index = self.w.constant(np.arange(count) * size // count, "pixels")
                y = self.w.node("Gather", [y, index], "resized", axis=axis)
        self.put_moved(op.output, y)

    def bilinear(self, op: Bilinear) -> None:
        rows, columns, _ = self.tensors[op.output].shape
        sizes = self.w.constant(np.array([rows, columns]), "sizes")
        how: dict[str, Any] = {
            "coordinate_transformation_mode": "half_pixel",
            "mode": "linear",
            "axes": [2, 3],
        }
        self.real[op.output] = self.w.node("Resize", [self.value(op.input), "", "", sizes], **how)
