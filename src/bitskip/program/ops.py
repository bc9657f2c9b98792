"""The ops of a Program, its tensors and where they lie: values, one dataclass an op.

docs/program.md fixes what each op computes, to the bit.

Constants are numpy arrays: f32 float32, i8 int8, i32 int32, i64 int64, flags bool, and 1-bit weights as
uint64 words (O, KH, KW, ceil(I / 64)) in the packing of `bitskip.bits`. Channel vectors have shape (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bitskip.bits import words_for

__all__ = [
    "ELEMENT_BYTES",
    "Activation",
    "Add",
    "Affine",
    "Array",
    "AvgPool",
    "Bilinear",
    "Binarize",
    "Buffer",
    "Concat",
    "Conv2d",
    "Dequantize",
    "Epilogue",
    "FloatEpilogue",
    "GlobalAvgPool",
    "Input",
    "IntegerEpilogue",
    "Lookup",
    "MaxPool",
    "Mul",
    "Op",
    "Output",
    "Pool",
    "Quantize",
    "QuantizeInput",
    "Resize",
    "Tensor",
    "ThresholdEpilogue",
    "conv_precision",
    "input_count",
    "inverse_scale",
    "op_inputs",
    "op_outputs",
    "op_residual",
]

Array = npt.NDArray[Any]

ELEMENT_BYTES = {"u8": 1, "f32": 4, "i8": 1, "i32": 4}


@dataclass(frozen=True)
class Buffer:
    """Where a tensor lies in the arena of one image, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.offset + self.size


@dataclass(frozen=True)
class Tensor:
    """One value: (height, width, channels) of one image, and its place in the arena.

    The program's inputs (the first tensors, `u8`) belong to the caller: their offset is -1, and they take no
    arena.
    """

    dtype: str  # u8, f32, i8, i32 or bits
    shape: tuple[int, int, int]  # H, W, C
    offset: int = -1  # bytes from the arena's start: 8-byte aligned for bits, else 64
    scale: float = 1.0  # i8: real = (q - zero_point) * scale; an exact float32
    zero_point: int = 0  # i8: -128..127
    name: str = ""  # which layer's output it is, for reports

    @property
    def size(self) -> int:
        """Bytes it takes for one image."""
        height, width, channels = self.shape
        if self.dtype == "bits":
            return height * width * words_for(channels) * 8
        return height * width * channels * ELEMENT_BYTES[self.dtype]

    @property
    def buffer(self) -> Buffer:
        """Its place in the arena."""
        return Buffer(self.offset, self.size)


class Input(NamedTuple):
    """A u8 tensor that a program takes, under a name that tells it from the others."""

    name: str
    tensor: int
    shape: tuple[int, int, int]  # H, W, C


class Output(NamedTuple):
    """A tensor that a program gives, under a name that tells it from the others."""

    name: str
    tensor: int


@dataclass(frozen=True, eq=False)
class Activation:
    """A kind of `schema.ACTIVATIONS`; `prelu` has slope, `rprelu` shift_in, slope and shift_out, f32 (C,)."""

    kind: str = "none"
    slope: Array | None = None
    shift_in: Array | None = None
    shift_out: Array | None = None


NO_ACTIVATION = Activation()


@dataclass(frozen=True, eq=False)
class FloatEpilogue:
    """y = acc*scale + bias; pre; + residual (f32); post; written as f32, bits (y - threshold >= 0) or i8."""

    scale: Array | None = None  # f32 (C,)
    bias: Array | None = None  # f32 (C,)
    pre: Activation = NO_ACTIVATION
    residual: int | None = None  # tensor number, f32, shape of the output
    post: Activation = NO_ACTIVATION
    threshold: Array | None = None  # f32 (C,), for a bits output; absent means 0
    kind: Literal["float"] = "float"


@dataclass(frozen=True, eq=False)
class ThresholdEpilogue:
    """bit = !((acc >= threshold) xor flip), for an integer accumulator and one bits output."""

    threshold: Array  # i32 (C,)
    flip: Array  # bool (C,)
    kind: Literal["threshold"] = "threshold"


@dataclass(frozen=True, eq=False)
class IntegerEpilogue:
    """t = acc*multiplier + bias; relu; + (r - z_r)*residual_multiplier; relu; rounding shift to one i8."""

    multiplier: Array  # i32 (C,)
    bias: Array  # i64 (C,)
    shift: int  # 1..40
    pre_relu: bool = False
    residual: int | None = None  # tensor number, i8, shape of the output
    residual_multiplier: int = 0  # int32
    post_relu: bool = False
    kind: Literal["integer"] = "integer"


Epilogue = FloatEpilogue | ThresholdEpilogue | IntegerEpilogue


@dataclass(frozen=True, eq=False)
class _OneToOne:
    """An op that makes one tensor of one other; both by number."""

    name: str
    input: int
    output: int


@dataclass(frozen=True, eq=False)
class QuantizeInput(_OneToOne):
    """The picture as f32 (x*scale + bias per channel) or as i8 (table[c][x])."""

    scale: Array | None = None  # f32 (C,), with an f32 output
    bias: Array | None = None  # f32 (C,)
    table: Array | None = None  # i8 (C, 256), with an i8 output
    kind: Literal["quantize_input"] = "quantize_input"


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Convolution (a linear layer is a 1x1 one on a 1x1 picture) and its epilogue.

    With `groups`, output channels of group g read the input channels of group g alone; as many groups as
    input channels make it a depthwise convolution.
    `in_place`: the first output with the residual's dtype lies in the residual's buffer.
    """

    name: str
    input: int  # f32, i8, bits, or i32 (1x1 on 1x1, i8 weights)
    outputs: tuple[int, ...]  # one or two tensors of different dtypes
    weight_dtype: str  # f32, i8 or w1
    weight: Array  # (O, KH, KW, I / groups), or words (O, KH, KW, ceil(I / 64)) for w1
    stride: tuple[int, int]
    padding: tuple[int, int]
    epilogue: Epilogue
    pad_value: int = 0  # what a padded tap of a bits input reads: 0, +1 or -1
    in_place: bool = False
    groups: int = 1  # other than 1 with f32 or i8 weights only
    dilation: tuple[int, int] = (1, 1)  # pixels from tap to tap
    kind: Literal["conv2d"] = "conv2d"

    @property
    def kernel(self) -> tuple[int, int]:
        """(KH, KW)."""
        return int(self.weight.shape[1]), int(self.weight.shape[2])

    @property
    def reach(self) -> tuple[int, int]:
        """Pixels from the first tap to the last, both included: height, width."""
        (height, width), (down, across) = self.kernel, self.dilation
        return down * (height - 1) + 1, across * (width - 1) + 1


@dataclass(frozen=True, eq=False)
class Binarize(_OneToOne):
    """f32 to bits by `threshold` (f32, absent means 0), or i8 to bits: !((q >= q_threshold) xor flip)."""

    threshold: Array | None = None  # f32 (C,)
    q_threshold: Array | None = None  # i32 (C,)
    flip: Array | None = None  # bool (C,)
    kind: Literal["binarize"] = "binarize"


@dataclass(frozen=True, eq=False)
class Add:
    """input + epilogue.residual: the epilogue's steps on acc = x (f32), or on acc = q - zero_point (i8).

    f32: a float epilogue without scale, bias and pre; i8: an integer epilogue.
    """

    name: str
    input: int
    outputs: tuple[int, ...]
    epilogue: Epilogue
    in_place: bool = False
    kind: Literal["add"] = "add"


@dataclass(frozen=True, eq=False)
class Affine:
    """The float epilogue's steps 1, 2 and 5 on an f32 tensor: BN without a convolution before it."""

    name: str
    input: int
    outputs: tuple[int, ...]
    epilogue: FloatEpilogue
    kind: Literal["affine"] = "affine"


@dataclass(frozen=True, eq=False)
class MaxPool(_OneToOne):
    """Largest of each window, padding ignored; f32 to f32, or i8 to i8 of the same scale and zero point."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    kind: Literal["max_pool"] = "max_pool"


@dataclass(frozen=True, eq=False)
class AvgPool(_OneToOne):
    """Mean of each window, f32 to f32: the sum times float32(1 / count).

    Windows are cut off at the picture's edge, also at the right and the bottom (torch's ceil_mode). `count`
    is that of the taps inside the picture, or KH*KW with `count_padding`.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    count_padding: bool = False
    kind: Literal["avg_pool"] = "avg_pool"


@dataclass(frozen=True, eq=False)
class GlobalAvgPool(_OneToOne):
    """(H, W, C) to (1, 1, C): f32 sum times float32(1 / (H*W)); i8 to the i32 sum of (q - zero_point)."""

    kind: Literal["global_avg_pool"] = "global_avg_pool"


@dataclass(frozen=True, eq=False)
class Quantize(_OneToOne):
    """f32 to i8: clamp(rint(x * inv_scale) + zero_point, -128, 127)."""

    kind: Literal["quantize"] = "quantize"


@dataclass(frozen=True, eq=False)
class Dequantize(_OneToOne):
    """i8 to f32: (q - zero_point) * scale."""

    kind: Literal["dequantize"] = "dequantize"


@dataclass(frozen=True, eq=False)
class Concat:
    """The channels of two to four tensors of one height and width, one after the other.

    f32, or i8 where all have the output's scale and zero point.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    kind: Literal["concat"] = "concat"

    @property
    def input(self) -> int:
        """The first of its inputs."""
        return self.inputs[0]


@dataclass(frozen=True, eq=False)
class Resize(_OneToOne):
    """Nearest pixel: out[y, x] = in[y * H // OH, x * W // OW]; f32, or i8 of one scale and zero point."""

    kind: Literal["resize"] = "resize"


@dataclass(frozen=True, eq=False)
class Bilinear(_OneToOne):
    """f32 to another height and width, between the four nearest pixels (torch's align_corners=False)."""

    kind: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True, eq=False)
class Mul:
    """A tensor times one value a channel (squeeze and excitation), then an epilogue without a residual.

    f32: acc = x * factor, float epilogue. i8: acc = (q - zero_point) * (factor - its zero point), exact,
    integer epilogue.
    """

    name: str
    input: int
    factor: int  # (1, 1, C), of the input's dtype
    outputs: tuple[int, ...]
    epilogue: Epilogue
    kind: Literal["mul"] = "mul"


@dataclass(frozen=True, eq=False)
class Lookup(_OneToOne):
    """i8 to i8 through a table: out = table[q + 128]; any function of one value."""

    table: Array  # i8 (256,)
    kind: Literal["lookup"] = "lookup"


Pool = MaxPool | AvgPool | GlobalAvgPool
Op = (
    QuantizeInput
    | Conv2d
    | Binarize
    | Add
    | Affine
    | Pool
    | Quantize
    | Dequantize
    | Concat
    | Resize
    | Bilinear
    | Mul
    | Lookup
)


def input_count(tensors: Sequence[Tensor]) -> int:
    """Return how many inputs a program with `tensors` has: the `u8` ones, which come first."""
    return next((at for at, tensor in enumerate(tensors) if tensor.dtype != "u8"), len(tensors))


def op_residual(op: Op) -> int | None:
    """Return the number of the tensor that `op` adds, if any."""
    if isinstance(op, Conv2d | Add) and not isinstance(op.epilogue, ThresholdEpilogue):
        return op.epilogue.residual
    return None


def op_inputs(op: Op) -> tuple[int, ...]:
    """Return the numbers of the tensors that `op` reads, the residual or the factor last."""
    if isinstance(op, Concat):
        return op.inputs
    if isinstance(op, Mul):
        return op.input, op.factor
    residual = op_residual(op)
    return (op.input,) if residual is None else (op.input, residual)


def op_outputs(op: Op) -> tuple[int, ...]:
    """Return the numbers of the tensors that `op` writes."""
    return op.outputs if isinstance(op, Conv2d | Add | Affine | Mul) else (op.output,)


def conv_precision(op: Conv2d, tensors: tuple[Tensor, ...]) -> str:
    """Return `fp32`, `int8`, `w1` or `w1a1`: what a convolution computes in."""
    if op.weight_dtype == "w1":
        return "w1a1" if tensors[op.input].dtype == "bits" else "w1"
    return "int8" if op.weight_dtype == "i8" else "fp32"


def inverse_scale(scale: float) -> np.float32:
    """Return inv_scale of an i8 tensor: the float32 division 1 / scale."""
    return np.float32(1) / np.float32(scale)
