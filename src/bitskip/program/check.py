"""The one validation pass over a Program: what it lets through, every runtime may execute without checks.

All arithmetic is on Python integers, which do not overflow. Every failure is a FileFormatError that names
the op or the tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bitskip.bits import WORD_BITS, words_for
from bitskip.errors import FileFormatError
from bitskip.program.ops import (
    OPS,
    Activation,
    Add,
    Affine,
    Array,
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
    Quantize,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
    inverse_scale,
    op_inputs,
    op_outputs,
    op_residual,
)

if TYPE_CHECKING:
    from bitskip.program.plan import Program

__all__ = ["MAX_KERNEL", "MAX_SIDE", "accumulator_bound", "check_program", "integer_bound"]

MAX_OPS = 4096
MAX_TENSORS = 8192
MAX_OUTPUTS = 16
MAX_SIDE = 1 << 16  # height, width
MAX_CHANNELS = 1 << 20
MAX_KERNEL = 255
MAX_POOL_TAPS = 1 << 24  # pixels under a pool's kernel
MAX_ARENA = (1 << 31) - 1
_ACCUMULATOR_LIMIT = 1 << 31  # |acc| of a convolution stays below
_INTEGER_LIMIT = 1 << 62  # |t| of an integer epilogue stays below
_ALIGNMENT = {"bits": 8}
_DTYPES = ("u8", "f32", "i8", "i32", "bits")
_ACTIVATIONS = {
    "none": (),
    "relu": (),
    "prelu": ("slope",),
    "rprelu": ("shift_in", "slope", "shift_out"),
}


def check_program(program: Program) -> None:
    """Raise FileFormatError unless every op, shape, dtype, bound and offset of `program` holds together."""
    if not isinstance(program.name, str) or len(program.name) > 1000:
        _fail("program", "name must be a string of at most 1000 characters")
    if not 1 <= len(program.tensors) <= MAX_TENSORS or not 1 <= len(program.ops) <= MAX_OPS:
        _fail(
            "program",
            f"has {len(program.tensors)} tensors and {len(program.ops)} ops, "
            f"expected 1..{MAX_TENSORS} and 1..{MAX_OPS}",
        )
    _integer(program.arena_bytes, 0, MAX_ARENA, "program", "arena_bytes")
    for number, tensor in enumerate(program.tensors):
        _check_tensor(number, tensor, program.arena_bytes)
    written_at = _check_order(program)
    bounds: dict[int, int] = {}  # largest |value| of each i32 tensor
    for op in program.ops:
        _Checker(program.tensors, op, bounds).check()
    _check_aliasing(program, written_at)
    _check_labels(program)


def _fail(where: str, message: str) -> NoReturn:
    raise FileFormatError(f"{where}: {message}")


def _integer(value: object, low: int, high: int, where: str, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _fail(where, f"{what} is {value!r}, expected a whole number in {low}..{high}")
    return value


def _check_tensor(number: int, tensor: Tensor, arena: int) -> None:
    where = f"tensor {number}"
    if not isinstance(tensor, Tensor) or tensor.dtype not in _DTYPES:
        _fail(where, f"dtype is {getattr(tensor, 'dtype', tensor)!r}, expected one of {', '.join(_DTYPES)}")
    if not isinstance(tensor.shape, tuple) or len(tensor.shape) != 3:
        _fail(where, f"shape is {tensor.shape!r}, expected (height, width, channels)")
    for axis, (size, most) in enumerate(
        zip(tensor.shape, (MAX_SIDE, MAX_SIDE, MAX_CHANNELS), strict=True)
    ):
        _integer(size, 1, most, where, f"shape[{axis}]")
    _integer(tensor.zero_point, -128, 127, where, "zero_point")
    scale = tensor.scale
    if (
        not isinstance(scale, float)
        or not math.isfinite(scale)
        or scale <= 0
        or float(_as_float32(scale)) != scale
    ):
        _fail(where, f"scale is {scale!r}, expected a positive float32")
    if tensor.dtype == "i8" and not 2.0**-100 <= scale <= 2.0**100:
        _fail(where, f"scale is {scale!r}, expected 2^-100..2^100")
    if (number == 0) != (tensor.dtype == "u8"):
        _fail(where, f"dtype is {tensor.dtype}; tensor 0, and no other, is the u8 picture")
    if number == 0:
        if tensor.offset != -1 or tensor.size > MAX_ARENA:
            _fail(where, "the picture belongs to the caller: its offset must be -1, its size below 2^31")
        return
    alignment = _ALIGNMENT.get(tensor.dtype, 64)
    _integer(tensor.offset, 0, MAX_ARENA, where, "offset")
    if tensor.offset % alignment:
        _fail(where, f"offset {tensor.offset} is not a multiple of {alignment}")
    if tensor.buffer.end > arena:
        _fail(where, f"ends at byte {tensor.buffer.end} of an arena of {arena}")


def _as_float32(value: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)


def _check_order(program: Program) -> list[int]:
    """Check that each tensor is written once, before it is read; return the op that writes each (0: -1)."""
    count = len(program.tensors)
    written = [-2] * count
    written[0] = -1
    for at, op in enumerate(program.ops):
        if OPS.get(getattr(op, "kind", "")) is not type(op):
            _fail(f"op {at}", f"is a {type(op).__name__}, expected one of {', '.join(OPS)}")
        where = f"op '{op.name}'"
        if not isinstance(op.name, str) or len(op.name) > 1000:
            _fail(f"op {at}", "name must be a string of at most 1000 characters")
        outputs = op_outputs(op)
        if not isinstance(outputs, tuple) or not 1 <= len(outputs) <= 2:
            _fail(where, f"outputs are {outputs!r}, expected one or two tensors")
        for number in op_inputs(op):
            _integer(number, 0, count - 1, where, "an input")
            if written[number] == -2:
                _fail(where, f"reads tensor {number} before it is written")
        for number in outputs:
            _integer(number, 1, count - 1, where, "an output")
            if written[number] != -2:
                _fail(where, f"writes tensor {number} a second time")
            written[number] = at
    if -2 in written:
        _fail(f"tensor {written.index(-2)}", "is never written")
    _check_outputs(program)
    return written


def _check_outputs(program: Program) -> None:
    if not isinstance(program.outputs, tuple) or not 1 <= len(program.outputs) <= MAX_OUTPUTS:
        _fail("program", f"outputs are {program.outputs!r:.60}, expected 1..{MAX_OUTPUTS} of them")
    for output in program.outputs:
        if not isinstance(output, Output) or not isinstance(output.name, str) or len(output.name) > 1000:
            _fail("program", f"output {output!r:.60} is not a name of at most 1000 characters and a tensor")
        _integer(output.tensor, 1, len(program.tensors) - 1, "program", f"output '{output.name}'")
        tensor = program.tensors[output.tensor]
        if tensor.dtype != "f32":
            _fail("program", f"output '{output.name}' is {tensor.dtype} {tensor.shape}, expected f32")
    names, numbers = zip(*program.outputs, strict=True)
    if len(set(names)) != len(names) or len(set(numbers)) != len(numbers):
        _fail("program", "two outputs have the same name or the same tensor")


def _check_aliasing(program: Program, written_at: list[int]) -> None:
    """Check that tensors alive at once do not overlap, but for declared in-place adds."""
    count, end = len(program.tensors), len(program.ops)
    last = list(written_at)
    for at, op in enumerate(program.ops):
        for number in op_inputs(op):
            last[number] = at
    for output in program.outputs:
        last[output.tensor] = end
    start = np.array([t.offset for t in program.tensors])
    stop = np.array([t.buffer.end for t in program.tensors])
    born, dead = np.array(written_at), np.array(last)
    in_place = {
        (op_residual(op), at)
        for at, op in enumerate(program.ops)
        if isinstance(op, Conv2d | Add) and op.in_place
    }
    for number in range(1, count):
        overlaps = (start < stop[number]) & (stop > start[number])
        together = (born <= dead[number]) & (dead >= born[number])
        clash = np.flatnonzero(overlaps & together)
        for other in clash[(clash != number) & (clash != 0)]:
            first, second = sorted((number, int(other)), key=lambda n: written_at[n])
            tensor, residual = program.tensors[second], program.tensors[first]
            allowed = (
                last[first] == written_at[second]
                and (first, written_at[second]) in in_place
                and tensor.offset == residual.offset
                and tensor.dtype == residual.dtype
                and first != program.ops[written_at[second]].input
            )
            if not allowed:
                _fail(f"tensor {second}", f"overlaps tensor {first} in the arena while both are alive")


def _check_labels(program: Program) -> None:
    channels = program.input_shape[2]
    for what, values in (("mean", program.mean), ("std", program.std)):
        if len(values) not in (0, channels) or not all(
            isinstance(v, float) and math.isfinite(v) for v in values
        ):
            _fail("program", f"{what} is {values!r}, expected {channels} finite numbers, or none")
    if len(program.mean) != len(program.std) or any(v <= 0 for v in program.std):
        _fail("program", "mean and std must both be given, and std be positive")
    names = program.class_names
    if not all(isinstance(name, str) for name in names) or len(names) > MAX_CHANNELS:
        _fail("program", f"class names must be at most {MAX_CHANNELS} strings")
    if program.is_classifier and len(names) not in (0, program.classes):
        _fail("program", f"has {len(names)} class names for {program.classes} classes")
    for what, value in (("activations", program.activations), ("dense", program.dense)):
        if value not in ("fp32", "int8"):
            _fail("program", f"{what} is {value!r}, expected fp32 or int8")
    _integer(program.calibration_images, 0, 1 << 40, "program", "calibration_images")


def accumulator_bound(op: Conv2d, tensors: tuple[Tensor, ...], input_bound: int = 0) -> int:
    """Return the largest |acc| that any input can reach, whatever the weights; 0 for a float accumulator.

    Args:
        op: the convolution.
        tensors: the program's tensors.
        input_bound: largest |value| of an i32 input.
    """
    source = tensors[op.input]
    taps = op.kernel[0] * op.kernel[1] * source.shape[2]
    if source.dtype == "f32":
        return 0
    weight = 127 if op.weight_dtype == "i8" else 1
    return taps * weight * {"i8": 255, "bits": 1, "i32": input_bound}[source.dtype]


def integer_bound(epilogue: IntegerEpilogue, accumulator: int) -> int:
    """Return the largest |t| of an integer epilogue, rounding term included, for |acc| <= `accumulator`."""
    largest_m = max(abs(int(epilogue.multiplier.min())), abs(int(epilogue.multiplier.max())))
    largest_b = max(abs(int(epilogue.bias.min())), abs(int(epilogue.bias.max())))
    residual = 255 * abs(epilogue.residual_multiplier)
    return accumulator * largest_m + largest_b + residual + (1 << (epilogue.shift - 1))


class _Checker:
    """Checks one op against the tensors that it names."""

    def __init__(self, tensors: tuple[Tensor, ...], op: Op, bounds: dict[int, int]) -> None:
        self.tensors, self.op, self.bounds = tensors, op, bounds
        self.where = f"op '{op.name}'"
        self.source = tensors[op.input]
        self.results = [tensors[number] for number in op_outputs(op)]

    def fail(self, message: str) -> NoReturn:
        _fail(self.where, message)

    def check(self) -> None:
        if isinstance(self.op, Conv2d | Add) and not isinstance(self.op.in_place, bool):
            self.fail(f"in_place is {self.op.in_place!r}, expected true or false")
        getattr(self, f"check_{self.op.kind}")(self.op)

    # -- small helpers --------------------------------------------------------------------------------

    def dtypes(self, source: str, *results: str) -> None:
        got = (self.source.dtype, *(t.dtype for t in self.results))
        if got != (source, *results):
            self.fail(f"is {got[0]} to {' and '.join(got[1:])}, expected {source} to {' and '.join(results)}")

    def same_shape(self) -> None:
        for result in self.results:
            if result.shape != self.source.shape:
                self.fail(f"turns shape {self.source.shape} into {result.shape}, expected the same")

    def array(self, values: object, dtype: Any, shape: tuple[int, ...], what: str) -> None:
        if not isinstance(values, np.ndarray) or values.dtype != dtype or values.shape != shape:
            got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else repr(values)[:40]
            self.fail(f"{what} is {got}, expected {np.dtype(dtype)} {shape}")
        if values.dtype == np.float32 and not np.isfinite(values).all():
            self.fail(f"{what} holds a value that is not finite")

    def optional(self, values: Array | None, channels: int, what: str) -> None:
        if values is not None:
            self.array(values, np.float32, (channels,), what)

    def pair(self, values: object, low: int, high: int, what: str) -> tuple[int, int]:
        if not isinstance(values, tuple) or len(values) != 2:
            self.fail(f"{what} is {values!r}, expected two whole numbers")
        first, second = (_integer(value, low, high, self.where, what) for value in values)
        return first, second

    def activation(self, activation: object, channels: int, what: str) -> None:
        if not isinstance(activation, Activation) or activation.kind not in _ACTIVATIONS:
            self.fail(
                f"{what} is {getattr(activation, 'kind', activation)!r}, expected one of "
                f"{', '.join(_ACTIVATIONS)}"
            )
        needed = _ACTIVATIONS[activation.kind]
        for field in ("shift_in", "slope", "shift_out"):
            values = getattr(activation, field)
            if field in needed:
                self.array(values, np.float32, (channels,), f"{what}.{field}")
            elif values is not None:
                self.fail(f"{what} '{activation.kind}' takes no {field}")

    # -- epilogues ------------------------------------------------------------------------------------

    def epilogue(self, epilogue: object, accumulator: int) -> None:
        """Check an epilogue and the outputs; `accumulator` is the bound on |acc|, 0 if it is a float."""
        shape = self.results[0].shape
        channels = shape[2]
        if any(result.shape != shape for result in self.results):
            self.fail(f"has outputs of shapes {shape} and {self.results[1].shape}, expected the same")
        written = [result.dtype for result in self.results]
        if len(set(written)) != len(written):
            self.fail(f"has two outputs of dtype {written[0]}")
        if isinstance(epilogue, FloatEpilogue):
            if not set(written) <= {"f32", "bits", "i8"}:
                self.fail(f"a float epilogue writes f32, bits or i8, not {' and '.join(written)}")
            self.optional(epilogue.scale, channels, "scale")
            self.optional(epilogue.bias, channels, "bias")
            self.optional(epilogue.threshold, channels, "threshold")
            self.activation(epilogue.pre, channels, "pre")
            self.activation(epilogue.post, channels, "post")
            if epilogue.threshold is not None and "bits" not in written:
                self.fail("has a threshold, but no bits output")
            self.residual(epilogue.residual, "f32", shape)
        elif isinstance(epilogue, ThresholdEpilogue):
            if written != ["bits"] or accumulator == 0:
                self.fail("a threshold epilogue turns an integer accumulator into bits alone")
            self.array(epilogue.threshold, np.int32, (channels,), "threshold")
            self.array(epilogue.flip, np.bool_, (channels,), "flip")
        elif isinstance(epilogue, IntegerEpilogue):
            if written != ["i8"] or accumulator == 0:
                self.fail("an integer epilogue turns an integer accumulator into i8 alone")
            self.array(epilogue.multiplier, np.int32, (channels,), "multiplier")
            self.array(epilogue.bias, np.int64, (channels,), "bias")
            _integer(epilogue.shift, 1, 40, self.where, "shift")
            _integer(
                epilogue.residual_multiplier, -(1 << 31), (1 << 31) - 1, self.where, "residual_multiplier"
            )
            for what in ("pre_relu", "post_relu"):
                if not isinstance(getattr(epilogue, what), bool):
                    self.fail(f"{what} is {getattr(epilogue, what)!r}, expected true or false")
            self.residual(epilogue.residual, "i8", shape)
            if integer_bound(epilogue, accumulator) >= _INTEGER_LIMIT:
                self.fail("the integer epilogue can reach 2^62")
        else:
            self.fail(f"epilogue is {type(epilogue).__name__}, expected a float, threshold or integer one")

    def residual(self, number: int | None, dtype: str, shape: tuple[int, ...]) -> None:
        if number is None:
            if isinstance(self.op, Conv2d | Add) and self.op.in_place:
                self.fail("is in place, but adds no residual")
            return
        added = self.tensors[number]
        if added.dtype != dtype or added.shape != shape:
            self.fail(f"adds {added.dtype} {added.shape}, expected {dtype} {shape}")

    # -- ops ------------------------------------------------------------------------------------------

    def check_quantize_input(self, op: QuantizeInput) -> None:
        self.same_shape()
        channels = self.source.shape[2]
        if self.results[0].dtype == "i8":
            self.dtypes("u8", "i8")
            self.array(op.table, np.int8, (channels, 256), "table")
            if op.scale is not None or op.bias is not None:
                self.fail("takes a table or scale and bias, not both")
            return
        self.dtypes("u8", "f32")
        self.array(op.scale, np.float32, (channels,), "scale")
        self.array(op.bias, np.float32, (channels,), "bias")
        if op.table is not None:
            self.fail("takes a table or scale and bias, not both")

    def check_conv2d(self, op: Conv2d) -> None:
        allowed = {
            "f32": ("f32", "w1"),
            "i8": ("i8", "w1"),
            "bits": ("w1",),
            "i32": ("i8",),
        }.get(self.source.dtype, ())
        if op.weight_dtype not in allowed:
            self.fail(f"has {self.source.dtype} input and {op.weight_dtype!r} weights, which do not combine")
        if not isinstance(op.weight, np.ndarray) or op.weight.ndim != 4:
            self.fail("weights must have four axes (O, KH, KW, I)")
        in_channels, out_channels = self.source.shape[2], self.results[0].shape[2]
        for size in op.kernel:
            _integer(size, 1, MAX_KERNEL, self.where, "kernel")
        dtype, last = {
            "f32": (np.float32, in_channels),
            "i8": (np.int8, in_channels),
            "w1": (np.uint64, words_for(in_channels)),
        }[op.weight_dtype]
        self.array(op.weight, dtype, (out_channels, *op.kernel, last), "weight")
        if op.weight_dtype == "i8" and op.weight.min() == -128:
            self.fail("an int8 weight is -128, expected -127..127")
        unused = -in_channels % WORD_BITS
        if op.weight_dtype == "w1" and unused and (op.weight[..., -1] >> np.uint64(WORD_BITS - unused)).any():
            self.fail("unused bits of the 1-bit weights are not 0")
        self.window(op.kernel, op.stride, op.padding, ceil=False)
        _integer(op.pad_value, -1, 1, self.where, "pad_value")
        if op.pad_value and self.source.dtype != "bits":
            self.fail(f"pads {self.source.dtype} with {op.pad_value}, expected 0")
        if self.source.dtype == "i32" and (op.kernel != (1, 1) or self.source.shape[:2] != (1, 1)):
            self.fail("an i32 input must be a vector, and its kernel 1x1")
        bound = accumulator_bound(op, self.tensors, self.bounds.get(op.input, 0))
        limit = _INTEGER_LIMIT if self.source.dtype == "i32" else _ACCUMULATOR_LIMIT
        if bound >= limit:
            self.fail(f"its accumulator can reach {bound}, expected less than {limit}")
        if self.source.dtype == "i32" and not isinstance(op.epilogue, FloatEpilogue):
            self.fail("an i32 input takes a float epilogue")
        self.epilogue(op.epilogue, bound)

    def window(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        *,
        ceil: bool,
    ) -> None:
        """Check that the output's height and width are those of the windows."""
        stride = self.pair(stride, 1, MAX_SIDE, "stride")
        padding = self.pair(padding, 0, MAX_KERNEL - 1, "padding")
        for axis in range(2):
            size, result = self.source.shape[axis], self.results[0].shape[axis]
            if padding[axis] >= kernel[axis]:
                self.fail(f"padding {padding[axis]} is not below the kernel's {kernel[axis]}")
            room = size + 2 * padding[axis] - kernel[axis]
            expected = [room // stride[axis] + 1] if room >= 0 else []
            if ceil:
                # torch's ceil_mode: one more window if it still starts inside the picture or its left padding
                more = -(-room // stride[axis]) + 1
                if (more - 1) * stride[axis] >= size + padding[axis]:
                    more -= 1
                expected.append(more)
            if result not in expected:
                self.fail(
                    f"output size {result} on axis {axis} does not follow from {size} with kernel "
                    f"{kernel[axis]}, stride {stride[axis]} and padding {padding[axis]}"
                )

    def check_binarize(self, op: Binarize) -> None:
        self.same_shape()
        channels = self.source.shape[2]
        if self.source.dtype == "i8":
            self.dtypes("i8", "bits")
            self.array(op.q_threshold, np.int32, (channels,), "q_threshold")
            self.array(op.flip, np.bool_, (channels,), "flip")
            if op.threshold is not None:
                self.fail("takes an integer threshold for an i8 input")
            return
        self.dtypes("f32", "bits")
        self.optional(op.threshold, channels, "threshold")
        if op.q_threshold is not None or op.flip is not None:
            self.fail("takes a float threshold for an f32 input")

    def check_add(self, op: Add) -> None:
        self.same_shape()
        if op_residual(op) is None:
            self.fail("adds no residual")
        if self.source.dtype == "i8":
            if not isinstance(op.epilogue, IntegerEpilogue):
                self.fail("an i8 add takes an integer epilogue")
            self.epilogue(op.epilogue, 255)
            return
        plain = isinstance(op.epilogue, FloatEpilogue) and (
            op.epilogue.scale is None and op.epilogue.bias is None and op.epilogue.pre.kind == "none"
        )
        if self.source.dtype != "f32" or not plain:
            self.fail("adds f32 with a float epilogue without scale, bias and pre, or i8")
        self.epilogue(op.epilogue, 0)

    def check_affine(self, op: Affine) -> None:
        self.same_shape()
        if self.source.dtype != "f32" or not isinstance(op.epilogue, FloatEpilogue):
            self.fail("affine takes f32 and a float epilogue")
        if op.epilogue.residual is not None:
            self.fail("affine adds no residual")
        self.epilogue(op.epilogue, 0)

    def check_max_pool(self, op: MaxPool) -> None:
        self.pool(op)
        kind = self.source.dtype
        if kind not in ("f32", "i8"):
            self.fail(f"pools {kind}, expected f32 or i8")
        self.dtypes(kind, kind)
        result = self.results[0]
        if kind == "i8" and (result.scale, result.zero_point) != (self.source.scale, self.source.zero_point):
            self.fail("the scale or the zero point changes under a max pool")

    def check_avg_pool(self, op: AvgPool) -> None:
        self.pool(op)
        self.dtypes("f32", "f32")
        if not isinstance(op.count_padding, bool):
            self.fail(f"count_padding is {op.count_padding!r}, expected true or false")

    def pool(self, op: MaxPool | AvgPool) -> None:
        kernel = self.pair(op.kernel, 1, MAX_SIDE, "kernel")
        if kernel[0] * kernel[1] > MAX_POOL_TAPS:
            self.fail(f"its kernel {kernel} covers more than {MAX_POOL_TAPS} pixels")
        self.window(kernel, op.stride, op.padding, ceil=True)
        if any(2 * padding > size for padding, size in zip(op.padding, kernel, strict=True)):
            self.fail("padding is more than half of the kernel")
        if self.results[0].shape[2] != self.source.shape[2]:
            self.fail(f"turns {self.source.shape[2]} channels into {self.results[0].shape[2]}")

    def check_global_avg_pool(self, op: GlobalAvgPool) -> None:
        height, width, channels = self.source.shape
        if self.results[0].shape != (1, 1, channels):
            self.fail(f"turns {self.source.shape} into {self.results[0].shape}, expected (1, 1, {channels})")
        if self.source.dtype == "i8":
            self.dtypes("i8", "i32")
            bound = height * width * 255
            if bound >= _ACCUMULATOR_LIMIT:
                self.fail(f"its sum can reach {bound}, expected less than 2^31")
            self.bounds[op.output] = bound
        else:
            self.dtypes("f32", "f32")

    def check_quantize(self, op: Quantize) -> None:
        self.same_shape()
        self.dtypes("f32", "i8")
        if not np.isfinite(inverse_scale(self.results[0].scale)):
            self.fail("1 / scale is not finite")

    def check_dequantize(self, op: Dequantize) -> None:
        self.same_shape()
        self.dtypes("i8", "f32")
