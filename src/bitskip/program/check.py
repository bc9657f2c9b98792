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
from bitskip.memory import Lifetime, lifetimes
from bitskip.program.memory import program_schedule
from bitskip.program.ops import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv2d,
    GlobalAvgPool,
    IntegerEpilogue,
    MaxPool,
    Mul,
    Op,
    Output,
    Tensor,
    op_inputs,
    op_outputs,
    op_residual,
)
from bitskip.program.record import Flat, flatten
from bitskip.program.schema import (
    ACCUMULATOR_LIMIT,
    ACTIVATIONS,
    DTYPES,
    EPILOGUES,
    INTEGER_LIMIT,
    LIMITS,
    OPS,
    Form,
    row_of,
)

if TYPE_CHECKING:
    from bitskip.program.plan import Program

__all__ = ["MAX_KERNEL", "MAX_SIDE", "accumulator_bound", "check_program", "integer_bound"]

MAX_OPS, MAX_TENSORS, MAX_OUTPUTS = LIMITS["MAX_OPS"], LIMITS["MAX_TENSORS"], LIMITS["MAX_OUTPUTS"]
MAX_SIDE, MAX_CHANNELS, MAX_KERNEL = LIMITS["MAX_SIDE"], LIMITS["MAX_CHANNELS"], LIMITS["MAX_KERNEL"]
MAX_ARENA = LIMITS["MAX_BYTES"]
_ALIGNMENT = {"bits": 8}


def check_program(program: Program) -> None:
    """Raise FileFormatError unless every op, shape, dtype, bound and offset of `program` holds together."""
    _check_name(program.name, "program")
    if not 1 <= len(program.tensors) <= MAX_TENSORS or not 1 <= len(program.ops) <= MAX_OPS:
        _fail(
            "program",
            f"has {len(program.tensors)} tensors and {len(program.ops)} ops, "
            f"expected 1..{MAX_TENSORS} and 1..{MAX_OPS}",
        )
    _integer(program.arena_bytes, 0, MAX_ARENA, "program", "arena_bytes")
    inputs = _check_inputs(program.tensors)
    for number, tensor in enumerate(program.tensors):
        _check_tensor(number, tensor, program.arena_bytes, inputs)
    if sum(tensor.size for tensor in program.tensors[:inputs]) > MAX_ARENA:
        _fail("program", "its inputs together take 2^31 bytes or more")
    _check_order(program, inputs)
    bounds: dict[int, int] = {}  # largest |value| of each i32 tensor
    for op in program.ops:
        _Checker(program.tensors, op, bounds).check()
    _check_aliasing(program, inputs)
    _check_labels(program, inputs)


def _fail(where: str, message: str) -> NoReturn:
    raise FileFormatError(f"{where}: {message}")


def _integer(value: object, low: int, high: int, where: str, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _fail(where, f"{what} is {value!r}, expected a whole number in {low}..{high}")
    return value


def _check_inputs(tensors: tuple[Tensor, ...]) -> int:
    """Return how many inputs there are: the first tensors, u8, named apart if there are several."""
    count = next((n for n, t in enumerate(tensors) if getattr(t, "dtype", "") != "u8"), len(tensors))
    if not 1 <= count <= LIMITS["MAX_PICTURES"]:
        _fail("program", f"its first {count} tensors are u8 inputs, expected 1..{LIMITS['MAX_PICTURES']}")
    names = [tensor.name for tensor in tensors[:count]]
    if count > 1 and (len(set(names)) != count or "" in names):
        _fail(
            "program",
            f"its inputs are named {', '.join(map(repr, names))}, expected a name of its own for each",
        )
    return count


def _check_tensor(number: int, tensor: Tensor, arena: int, inputs: int) -> None:
    where = f"tensor {number}"
    _check_name(getattr(tensor, "name", None), where)
    if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES:
        _fail(where, f"dtype is {getattr(tensor, 'dtype', tensor)!r}, expected one of {', '.join(DTYPES)}")
    if not isinstance(tensor.shape, tuple) or len(tensor.shape) != 3:
        _fail(where, f"shape is {tensor.shape!r}, expected (height, width, channels)")
    for axis, (size, most) in enumerate(zip(tensor.shape, (MAX_SIDE, MAX_SIDE, MAX_CHANNELS), strict=True)):
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
    if number >= inputs and tensor.dtype == "u8":
        _fail(where, "dtype is u8; the first tensors, and no others, are u8 inputs")
    if number < inputs:
        if tensor.offset != -1 or tensor.size > MAX_ARENA:
            _fail(where, "an input belongs to the caller: its offset must be -1, its size below 2^31")
        return
    alignment = _ALIGNMENT.get(tensor.dtype, 64)
    _integer(tensor.offset, 0, MAX_ARENA, where, "offset")
    if tensor.offset % alignment:
        _fail(where, f"offset {tensor.offset} is not a multiple of {alignment}")
    if tensor.buffer.end > arena:
        _fail(where, f"ends at byte {tensor.buffer.end} of an arena of {arena}")


def _check_name(name: object, where: str) -> None:
    """Names stand in the file as lines of UTF-8."""
    most = LIMITS["MAX_NAME"]
    try:
        sound = isinstance(name, str) and "\n" not in name and len(name.encode()) <= most
    except UnicodeEncodeError:  # half of a surrogate pair
        sound = False
    if not sound:
        _fail(where, f"name is {name!r:.60}, expected a string of at most {most} bytes of UTF-8 on one line")


def _check_reads(op: Op, where: str) -> None:
    """Check how many tensors an op reads, and that its epilogue is one."""
    row = OPS[op.kind]
    if hasattr(op, "epilogue") and type(op.epilogue) not in [known.cls for known in EPILOGUES.values()]:
        _fail(where, f"epilogue is {type(op.epilogue).__name__}, expected a float, threshold or integer one")
    least, most = row.inputs
    if isinstance(op, Concat) and not (isinstance(op.inputs, tuple) and least <= len(op.inputs) <= most):
        _fail(where, f"reads {op.inputs!r:.60}, expected {least} to {most} tensors")


def _as_float32(value: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)


def _check_order(program: Program, inputs: int) -> None:
    """Check that each tensor is written once, before it is read."""
    count = len(program.tensors)
    written = [-1] * inputs + [-2] * (count - inputs)
    for at, op in enumerate(program.ops):
        if row_of(op) is None:
            _fail(f"op {at}", f"is a {type(op).__name__}, expected one of {', '.join(OPS)}")
        where = f"op '{op.name}'"
        _check_name(op.name, f"op {at}")
        outputs = op_outputs(op)
        if not isinstance(outputs, tuple) or not 1 <= len(outputs) <= 2:
            _fail(where, f"outputs are {outputs!r}, expected one or two tensors")
        _check_reads(op, where)
        for number in op_inputs(op):
            _integer(number, 0, count - 1, where, "an input")
            if written[number] == -2:
                _fail(where, f"reads tensor {number} before it is written")
        for number in outputs:
            _integer(number, inputs, count - 1, where, "an output")
            if written[number] != -2:
                _fail(where, f"writes tensor {number} a second time")
            written[number] = at
    if -2 in written:
        _fail(f"tensor {written.index(-2)}", "is never written")
    _check_outputs(program, inputs)


def _check_outputs(program: Program, inputs: int) -> None:
    if not isinstance(program.outputs, tuple) or not 1 <= len(program.outputs) <= MAX_OUTPUTS:
        _fail("program", f"outputs are {program.outputs!r:.60}, expected 1..{MAX_OUTPUTS} of them")
    for output in program.outputs:
        if not isinstance(output, Output):
            _fail("program", f"output {output!r:.60} is not an Output")
        _check_name(output.name, "an output")
        _integer(output.tensor, inputs, len(program.tensors) - 1, "program", f"output '{output.name}'")
        tensor = program.tensors[output.tensor]
        if tensor.dtype != "f32":
            _fail("program", f"output '{output.name}' is {tensor.dtype} {tensor.shape}, expected f32")
    names, numbers = zip(*program.outputs, strict=True)
    if len(set(names)) != len(names) or len(set(numbers)) != len(numbers):
        _fail("program", "two outputs have the same name or the same tensor")


def _check_aliasing(program: Program, inputs: int) -> None:
    """Check that tensors alive at once do not overlap, but for declared in-place adds."""
    count = len(program.tensors)
    lives = lifetimes(program_schedule(program.tensors, program.ops, (o.tensor for o in program.outputs)))
    unread = Lifetime(-1, -1)  # an input that no op reads
    spans = [lives.get(number, unread) for number in range(count)]
    start = np.array([t.offset for t in program.tensors])
    stop = np.array([t.buffer.end for t in program.tensors])
    born, dead = np.array([span.born for span in spans]), np.array([span.dies for span in spans])
    in_place = {
        (op_residual(op), at)
        for at, op in enumerate(program.ops)
        if isinstance(op, Conv2d | Add) and op.in_place
    }
    for number in range(inputs, count):
        overlaps = (start < stop[number]) & (stop > start[number])
        together = (born <= dead[number]) & (dead >= born[number])
        clash = np.flatnonzero(overlaps & together)
        for other in clash[(clash != number) & (clash >= inputs)]:
            first, second = sorted((number, int(other)), key=lambda n: spans[n].born)
            tensor, residual = program.tensors[second], program.tensors[first]
            allowed = (
                spans[first].dies == spans[second].born
                and (first, spans[second].born) in in_place
                and tensor.offset == residual.offset
                and tensor.dtype == residual.dtype
                and first != program.ops[spans[second].born].input
            )
            if not allowed:
                _fail(f"tensor {second}", f"overlaps tensor {first} in the arena while both are alive")


def _check_labels(program: Program, inputs: int) -> None:
    channels = sum(tensor.shape[2] for tensor in program.tensors[:inputs])
    for what, values in (("mean", program.mean), ("std", program.std)):
        if len(values) not in (0, channels) or not all(
            isinstance(v, float) and math.isfinite(v) for v in values
        ):
            _fail("program", f"{what} is {values!r}, expected {channels} finite numbers, or none")
    if len(program.mean) != len(program.std) or any(v <= 0 for v in program.std):
        _fail("program", "mean and std must both be given, and std be positive")
    names = program.class_names
    if not isinstance(names, tuple) or len(names) > MAX_CHANNELS:
        _fail("program", f"class names are not a tuple of at most {MAX_CHANNELS}")
    for name in names:
        _check_name(name, "a class")
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
    taps = op.kernel[0] * op.kernel[1] * (source.shape[2] // op.groups)
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
    """Checks one op against its row of the table and the tensors that it names."""

    def __init__(self, tensors: tuple[Tensor, ...], op: Op, bounds: dict[int, int]) -> None:
        self.tensors, self.op, self.bounds = tensors, op, bounds
        self.where = f"op '{op.name}'"
        self.row = OPS[op.kind]
        self.source = tensors[op.input]
        self.results = [tensors[number] for number in op_outputs(op)]

    def fail(self, message: str) -> NoReturn:
        _fail(self.where, message)

    def check(self) -> None:
        for name in ("in_place", "count_padding"):
            if not isinstance(getattr(self.op, name, False), bool):
                self.fail(f"{name} is {getattr(self.op, name)!r}, expected true or false")
        flat = flatten(self.op)
        form = self.form(flat)
        self.written(form)
        self.constants(flat, form)
        if isinstance(self.op, Conv2d):
            self.convolution(self.op, form)
        self.shape()
        self.values(flat)
        if self.row.keeps_scale:
            self.same_scale()
        self.residual()
        bound = self.accumulator()
        if isinstance(self.op, Conv2d | Add | Mul) and isinstance(self.op.epilogue, IntegerEpilogue):
            self.integer(self.op.epilogue, bound)

    # -- types ----------------------------------------------------------------------------------------

    def form(self, flat: Flat) -> Form:
        """Return the form of the table that the op has."""
        forms = self.row.forms
        fitting = [form for form in forms if form.source == self.source.dtype]
        if not fitting:
            known = ", ".join(dict.fromkeys(form.source for form in forms))
            self.fail(f"reads {self.source.dtype}, expected {known}")
        weight = flat.values.get("weight_dtype", "")
        fitting = [form for form in fitting if form.weight == weight]
        if not fitting:
            self.fail(f"has {self.source.dtype} input and {weight!r} weights, which do not combine")
        fitting = [form for form in fitting if form.epilogue == flat.epilogue]
        if not fitting:
            self.fail(f"has a {flat.epilogue} epilogue, which does not take {self.source.dtype} here")
        written = {result.dtype for result in self.results}
        for form in fitting:
            if written <= set(form.writes):
                return form
        self.fail(
            f"turns {self.source.dtype} into {' and '.join(sorted(written))}, expected "
            f"{' or '.join(dict.fromkeys(name for form in fitting for name in form.writes))}"
        )

    def written(self, form: Form) -> None:
        dtypes = [result.dtype for result in self.results]
        if len(set(dtypes)) != len(dtypes):
            self.fail(f"has two outputs of dtype {dtypes[0]}")
        if len(dtypes) > 1 and form.epilogue != "float":
            self.fail(f"writes {' and '.join(dtypes)}, expected one output")
        least, most = self.row.inputs
        inputs = op_inputs(self.op)
        plain = inputs[: len(inputs) - (op_residual(self.op) is not None)]
        if not least <= len(plain) <= most:
            self.fail(f"reads {len(plain)} tensors, expected {least} to {most}")
        for number in plain[1:]:
            if self.tensors[number].dtype != self.source.dtype:
                self.fail(f"reads {self.source.dtype} and {self.tensors[number].dtype}, expected one dtype")

    def constants(self, flat: Flat, form: Form) -> None:
        given = set(flat.constants)
        for name in sorted(form.needed - given):
            self.fail(f"lacks its {name}")
        for name in sorted(given - form.taken):
            self.fail(f"takes no {name} with {self.source.dtype} input")
        written = {result.dtype for result in self.results}
        if form.epilogue == "float" and "threshold" in given and "bits" not in written:
            self.fail("has a threshold, but no bits output")
        for at in ("pre", "post"):
            if form.epilogue == "float" and at in flat.values:
                self.activation(getattr(self.op.epilogue, at), at)  # type: ignore[union-attr]
                kind = flat.values[at]
                if kind != "none" and form.takes is not None and f"{at}_slope" not in form.takes:
                    self.fail(f"takes no activation {at}")
        if form.epilogue == "integer":
            epilogue: Any = self.op.epilogue  # type: ignore[union-attr]
            self.integer_fields(epilogue)

    def activation(self, activation: object, what: str) -> None:
        if not isinstance(activation, Activation) or activation.kind not in ACTIVATIONS:
            kind = getattr(activation, "kind", activation)
            self.fail(f"{what} is {kind!r}, expected one of {', '.join(ACTIVATIONS)}")
        needed = ACTIVATIONS[activation.kind][1]
        for name in ("shift_in", "slope", "shift_out"):
            if (getattr(activation, name) is not None) != (name in needed):
                has = "lacks its" if name in needed else "takes no"
                self.fail(f"{what} '{activation.kind}' {has} {name}")

    def integer_fields(self, epilogue: IntegerEpilogue) -> None:
        _integer(epilogue.shift, 1, LIMITS["MAX_SHIFT"], self.where, "shift")
        most = (1 << 31) - 1
        _integer(epilogue.residual_multiplier, -most - 1, most, self.where, "residual_multiplier")
        if epilogue.residual is None and epilogue.residual_multiplier:
            self.fail("has a residual_multiplier, but no residual")
        for what in ("pre_relu", "post_relu"):
            if not isinstance(getattr(epilogue, what), bool):
                self.fail(f"{what} is {getattr(epilogue, what)!r}, expected true or false")

    # -- shapes ---------------------------------------------------------------------------------------

    def shape(self) -> None:
        shape = self.results[0].shape
        if any(result.shape != shape for result in self.results):
            self.fail(f"has outputs of shapes {shape} and {self.results[1].shape}, expected the same")
        (height, width, channels), rule = self.source.shape, self.row.shape
        if rule in ("window", "ceil"):
            self.window(ceil=rule == "ceil")
            expected = (*shape[:2], channels if rule == "ceil" else shape[2])
        elif rule == "global":
            expected = (1, 1, channels)
        elif rule == "concat":
            parts = [self.tensors[number].shape for number in op_inputs(self.op)]
            if any(part[:2] != (height, width) for part in parts):
                self.fail(f"joins shapes {', '.join(map(str, parts))}, expected one height and width")
            expected = (height, width, sum(part[2] for part in parts))
        else:
            expected = (*(shape[:2] if rule == "resize" else (height, width)), channels)
        if shape != expected:
            self.fail(f"turns shape {self.source.shape} into {shape}, expected {expected}")
        if isinstance(self.op, Mul):
            factor = self.tensors[self.op.factor].shape
            if factor != (1, 1, channels):
                self.fail(f"multiplies by shape {factor}, expected (1, 1, {channels})")

    def window(self, *, ceil: bool) -> None:
        """Check that the output's height and width are those of the windows."""
        op: Any = self.op
        kernel = self.pair(op.kernel, 1, MAX_SIDE if ceil else MAX_KERNEL, "kernel")
        stride = self.pair(op.stride, 1, LIMITS["MAX_STRIDE"], "stride")
        padding = self.pair(op.padding, 0, MAX_KERNEL - 1, "padding")
        if isinstance(op, MaxPool | AvgPool):
            if kernel[0] * kernel[1] > LIMITS["MAX_POOL_TAPS"]:
                self.fail(f"its kernel {kernel} covers more than {LIMITS['MAX_POOL_TAPS']} pixels")
            if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
                self.fail("padding is more than half of the kernel")
        if isinstance(op, Conv2d):
            self.pair(op.dilation, 1, LIMITS["MAX_DILATION"], "dilation")
            self.pair(op.reach, 1, MAX_SIDE, "dilation * (kernel - 1) + 1")
            if any(step > 1 and side == 1 for step, side in zip(op.dilation, kernel, strict=True)):
                self.fail(f"its kernel {kernel} has dilation {op.dilation}, expected 1 where the kernel is 1")
            kernel = op.reach
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

    def pair(self, values: object, low: int, high: int, what: str) -> tuple[int, int]:
        if not isinstance(values, tuple) or len(values) != 2:
            self.fail(f"{what} is {values!r}, expected two whole numbers")
        first, second = (_integer(value, low, high, self.where, what) for value in values)
        return first, second

    def convolution(self, op: Conv2d, form: Form) -> None:
        if not isinstance(op.weight, np.ndarray) or op.weight.ndim != 4:
            self.fail("weights must have four axes (O, KH, KW, I)")
        _integer(op.pad_value, -1, 1, self.where, "pad_value")
        if op.pad_value and self.source.dtype != "bits":
            self.fail(f"pads {self.source.dtype} with {op.pad_value}, expected 0")
        if self.source.dtype == "i32" and (op.kernel != (1, 1) or self.source.shape[:2] != (1, 1)):
            self.fail("an i32 input must be a vector, and its kernel 1x1")
        groups = _integer(op.groups, 1, MAX_CHANNELS, self.where, "groups")
        if groups > 1 and not form.groups:
            types = f"{self.source.dtype} and {op.weight_dtype} weights"
            self.fail(f"has {groups} groups, expected 1 with {types}")
        if self.source.shape[2] % groups or self.results[0].shape[2] % groups:
            self.fail(
                f"its {self.source.shape[2]} and {self.results[0].shape[2]} channels do not divide into "
                f"{groups} groups"
            )

    # -- values ---------------------------------------------------------------------------------------

    def values(self, flat: Flat) -> None:
        channels = self.results[0].shape[2]
        for name, array in flat.constants.items():
            self.array(array, *self.expected(name, flat, channels), name)
        if isinstance(self.op, Conv2d):
            self.weights(self.op)

    def expected(self, name: str, flat: Flat, channels: int) -> tuple[Any, tuple[int, ...]]:
        """Return the dtype and the shape that a constant must have."""
        if isinstance(self.op, Conv2d) and name == "weight":
            inputs = self.source.shape[2] // self.op.groups
            dtype, last = {
                "f32": (np.float32, inputs),
                "i8": (np.int8, inputs),
                "w1": (np.uint64, words_for(inputs)),
            }[self.op.weight_dtype]
            return dtype, (channels, *self.op.kernel, last)
        if name == "table":
            return np.int8, (channels, 256) if self.op.kind == "quantize_input" else (256,)
        dtypes: dict[str, Any] = {"flip": np.bool_, "multiplier": np.int32}
        if flat.epilogue == "integer":
            dtypes["bias"] = np.int64
        if flat.epilogue == "threshold":
            dtypes["threshold"] = np.int32
        return dtypes.get(name, np.float32), (channels,)

    def array(self, values: object, dtype: Any, shape: tuple[int, ...], what: str) -> None:
        if not isinstance(values, np.ndarray) or values.dtype != dtype or values.shape != shape:
            got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else repr(values)[:40]
            self.fail(f"{what} is {got}, expected {np.dtype(dtype)} {shape}")
        if values.dtype == np.float32 and not np.isfinite(values).all():
            self.fail(f"{what} holds a value that is not finite")

    def weights(self, op: Conv2d) -> None:
        if op.weight_dtype == "i8" and op.weight.min() == -128:
            self.fail("an int8 weight is -128, expected -127..127")
        unused = -self.source.shape[2] % WORD_BITS
        if op.weight_dtype == "w1" and unused and (op.weight[..., -1] >> np.uint64(WORD_BITS - unused)).any():
            self.fail("unused bits of the 1-bit weights are not 0")

    def same_scale(self) -> None:
        kept = {(t.scale, t.zero_point) for t in self.results}
        kept |= {(self.tensors[n].scale, self.tensors[n].zero_point) for n in op_inputs(self.op)}
        if self.source.dtype == "i8" and len(kept) != 1:
            self.fail(f"the scale or the zero point changes under {self.op.kind}")

    def residual(self) -> None:
        epilogue = getattr(self.op, "epilogue", None)
        number = getattr(epilogue, "residual", None)
        if number is None:
            if self.row.residual == "must":
                self.fail("adds no residual")
            if getattr(self.op, "in_place", False):
                self.fail("is in place, but adds no residual")
            return
        if self.row.residual == "none":
            self.fail(f"{self.op.kind} adds no residual, but tensor {number} is given")
        dtype, shape = EPILOGUES[epilogue.kind].residual, self.results[0].shape  # type: ignore[union-attr]
        added = self.tensors[number]
        if added.dtype != dtype or added.shape != shape:
            self.fail(f"adds {added.dtype} {added.shape}, expected {dtype} {shape}")

    # -- bounds ---------------------------------------------------------------------------------------

    def accumulator(self) -> int:
        """Return the largest |acc| of an integer accumulator, 0 for a float one."""
        op, source = self.op, self.source
        if isinstance(op, Conv2d):
            bound = accumulator_bound(op, self.tensors, self.bounds.get(op.input, 0))
            limit = INTEGER_LIMIT if source.dtype == "i32" else ACCUMULATOR_LIMIT
            if bound >= limit:
                self.fail(f"its accumulator can reach {bound}, expected less than {limit}")
            return bound
        if isinstance(op, GlobalAvgPool) and source.dtype == "i8":
            bound = source.shape[0] * source.shape[1] * 255
            if bound >= ACCUMULATOR_LIMIT:
                self.fail(f"its sum can reach {bound}, expected less than 2^31")
            self.bounds[op.output] = bound
        if source.dtype != "i8":
            return 0
        return 255 * 255 if isinstance(op, Mul) else 255

    def integer(self, epilogue: IntegerEpilogue, bound: int) -> None:
        if integer_bound(epilogue, bound) >= INTEGER_LIMIT:
            self.fail("the integer epilogue can reach 2^62")
