"""The one validation pass over a Program: what it lets through, every runtime may execute without checks.

All arithmetic is on Python integers, which do not overflow. Every failure is a FileFormatError that names
the op or the tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bitskip.memory import Lifetime, lifetimes
from bitskip.program.check_op import OpCheck, fail, whole
from bitskip.program.memory import program_schedule
from bitskip.program.ops import (
    Op,
    Output,
    Tensor,
    op_inputs,
    op_outputs,
    op_residual,
)
from bitskip.program.schema import DTYPES, EPILOGUES, LIMITS, OPS, row_of

if TYPE_CHECKING:
    from bitskip.program.program import Program

MAX_OPS, MAX_TENSORS, MAX_OUTPUTS = LIMITS["MAX_OPS"], LIMITS["MAX_TENSORS"], LIMITS["MAX_OUTPUTS"]
MAX_SIDE, MAX_CHANNELS = LIMITS["MAX_SIDE"], LIMITS["MAX_CHANNELS"]
MAX_ARENA = LIMITS["MAX_BYTES"]
_ALIGNMENT = {"bits": 8}


def check_program(program: Program) -> None:
    """Raise FileFormatError unless every op, shape, dtype, bound and offset of `program` holds together."""
    _check_name(program.name, "program")
    if not 1 <= len(program.tensors) <= MAX_TENSORS or not 1 <= len(program.ops) <= MAX_OPS:
        fail(
            "program",
            f"has {len(program.tensors)} tensors and {len(program.ops)} ops, "
            f"expected 1..{MAX_TENSORS} and 1..{MAX_OPS}",
        )
    whole(program.arena_bytes, 0, MAX_ARENA, "program", "arena_bytes")
    inputs = _check_inputs(program.tensors)
    for number, tensor in enumerate(program.tensors):
        _check_tensor(number, tensor, program.arena_bytes, inputs)
    if sum(tensor.size for tensor in program.tensors[:inputs]) > MAX_ARENA:
        fail("program", "its inputs together take 2^31 bytes or more")
    _check_order(program, inputs)
    bounds: dict[int, int] = {}  # largest |value| of each i32 tensor
    for op in program.ops:
        OpCheck(program.tensors, op, bounds).check()
    _check_aliasing(program, inputs)
    _check_labels(program, inputs)


def _check_inputs(tensors: tuple[Tensor, ...]) -> int:
    """Return how many inputs there are: the first tensors, u8, named apart if there are several."""
    count = next((n for n, t in enumerate(tensors) if getattr(t, "dtype", "") != "u8"), len(tensors))
    if not 1 <= count <= LIMITS["MAX_PICTURES"]:
        fail("program", f"its first {count} tensors are u8 inputs, expected 1..{LIMITS['MAX_PICTURES']}")
    names = [tensor.name for tensor in tensors[:count]]
    if count > 1 and (len(set(names)) != count or "" in names):
        fail(
            "program",
            f"its inputs are named {', '.join(map(repr, names))}, expected a name of its own for each",
        )
    return count


def _check_tensor(number: int, tensor: Tensor, arena: int, inputs: int) -> None:
    where = f"tensor {number}"
    _check_name(getattr(tensor, "name", None), where)
    if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES:
        fail(where, f"dtype is {getattr(tensor, 'dtype', tensor)!r}, expected one of {', '.join(DTYPES)}")
    if not isinstance(tensor.shape, tuple) or len(tensor.shape) != 3:
        fail(where, f"shape is {tensor.shape!r}, expected (height, width, channels)")
    for axis, (size, most) in enumerate(zip(tensor.shape, (MAX_SIDE, MAX_SIDE, MAX_CHANNELS), strict=True)):
        whole(size, 1, most, where, f"shape[{axis}]")
    whole(tensor.zero_point, -128, 127, where, "zero_point")
    scale = tensor.scale
    if (
        not isinstance(scale, float)
        or not math.isfinite(scale)
        or scale <= 0
        or float(_as_float32(scale)) != scale
    ):
        fail(where, f"scale is {scale!r}, expected a positive float32")
    if tensor.dtype == "i8" and not 2.0**-100 <= scale <= 2.0**100:
        fail(where, f"scale is {scale!r}, expected 2^-100..2^100")
    if number >= inputs and tensor.dtype == "u8":
        fail(where, "dtype is u8; the first tensors, and no others, are u8 inputs")
    if number < inputs:
        if tensor.offset != -1 or tensor.size > MAX_ARENA:
            fail(where, "an input belongs to the caller: its offset must be -1, its size below 2^31")
        return
    alignment = _ALIGNMENT.get(tensor.dtype, 64)
    whole(tensor.offset, 0, MAX_ARENA, where, "offset")
    if tensor.offset % alignment:
        fail(where, f"offset {tensor.offset} is not a multiple of {alignment}")
    if tensor.buffer.end > arena:
        fail(where, f"ends at byte {tensor.buffer.end} of an arena of {arena}")


def _check_name(name: object, where: str) -> None:
    """Names stand in the file as lines of UTF-8."""
    most = LIMITS["MAX_NAME"]
    try:
        sound = isinstance(name, str) and "\n" not in name and len(name.encode()) <= most
    except UnicodeEncodeError:  # half of a surrogate pair
        sound = False
    if not sound:
        fail(where, f"name is {name!r:.60}, expected a string of at most {most} bytes of UTF-8 on one line")


def _check_reads(op: Op, where: str) -> None:
    """Check how many tensors an op reads, and that its epilogue is one."""
    row = OPS[op.kind]
    if hasattr(op, "epilogue") and type(op.epilogue) not in [known.cls for known in EPILOGUES.values()]:
        fail(where, f"epilogue is {type(op.epilogue).__name__}, expected a float, threshold or integer one")
    least, most = row.inputs
    inputs = getattr(op, "inputs", (0,) * least)
    if not (isinstance(inputs, tuple) and least <= len(inputs) <= most):
        fail(where, f"reads {inputs!r:.60}, expected {least} to {most} tensors")


def _as_float32(value: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)


def _check_order(program: Program, inputs: int) -> None:
    """Check that each tensor is written once, before it is read."""
    count = len(program.tensors)
    written = [-1] * inputs + [-2] * (count - inputs)
    for at, op in enumerate(program.ops):
        if row_of(op) is None:
            fail(f"op {at}", f"is a {type(op).__name__}, expected one of {', '.join(OPS)}")
        where = f"op '{op.name}'"
        _check_name(op.name, f"op {at}")
        outputs = op_outputs(op)
        if not isinstance(outputs, tuple) or not 1 <= len(outputs) <= 2:
            fail(where, f"outputs are {outputs!r}, expected one or two tensors")
        _check_reads(op, where)
        for number in op_inputs(op):
            whole(number, 0, count - 1, where, "an input")
            if written[number] == -2:
                fail(where, f"reads tensor {number} before it is written")
        for number in outputs:
            whole(number, inputs, count - 1, where, "an output")
            if written[number] != -2:
                fail(where, f"writes tensor {number} a second time")
            written[number] = at
    if -2 in written:
        fail(f"tensor {written.index(-2)}", "is never written")
    _check_outputs(program, inputs)


def _check_outputs(program: Program, inputs: int) -> None:
    if not isinstance(program.outputs, tuple) or not 1 <= len(program.outputs) <= MAX_OUTPUTS:
        fail("program", f"outputs are {program.outputs!r:.60}, expected 1..{MAX_OUTPUTS} of them")
    for output in program.outputs:
        if not isinstance(output, Output):
            fail("program", f"output {output!r:.60} is not an Output")
        _check_name(output.name, "an output")
        whole(output.tensor, inputs, len(program.tensors) - 1, "program", f"output '{output.name}'")
        tensor = program.tensors[output.tensor]
        if tensor.dtype != "f32":
            fail("program", f"output '{output.name}' is {tensor.dtype} {tensor.shape}, expected f32")
    names, numbers = zip(*program.outputs, strict=True)
    if len(set(names)) != len(names) or len(set(numbers)) != len(numbers):
        fail("program", "two outputs have the same name or the same tensor")


def _check_aliasing(program: Program, inputs: int) -> None:
    """Check that tensors alive at once do not overlap, but for declared in-place adds."""
    count = len(program.tensors)
    lives = lifetimes(program_schedule(program.tensors, program.ops, (o.tensor for o in program.outputs)))
    unread = Lifetime(-1, -1)  # an input that no op reads
    spans = [lives.get(number, unread) for number in range(count)]
    start = np.array([t.offset for t in program.tensors])
    stop = np.array([t.buffer.end for t in program.tensors])
    born, dead = np.array([span.born for span in spans]), np.array([span.dies for span in spans])
    in_place = {(op_residual(op), at) for at, op in enumerate(program.ops) if getattr(op, "in_place", False)}
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
                fail(f"tensor {second}", f"overlaps tensor {first} in the arena while both are alive")


def _check_labels(program: Program, inputs: int) -> None:
    channels = sum(tensor.shape[2] for tensor in program.tensors[:inputs])
    for what, values in (("mean", program.mean), ("std", program.std)):
        if len(values) not in (0, channels) or not all(
            isinstance(v, float) and math.isfinite(v) for v in values
        ):
            fail("program", f"{what} is {values!r}, expected {channels} finite numbers, or none")
    if len(program.mean) != len(program.std) or any(v <= 0 for v in program.std):
        fail("program", "mean and std must both be given, and std be positive")
    names = program.class_names
    if not isinstance(names, tuple) or len(names) > MAX_CHANNELS:
        fail("program", f"class names are not a tuple of at most {MAX_CHANNELS}")
    for name in names:
        _check_name(name, "a class")
    if program.is_classifier and len(names) not in (0, program.classes):
        fail("program", f"has {len(names)} class names for {program.classes} classes")
    for what, value in (("activations", program.activations), ("dense", program.dense)):
        if value not in ("fp32", "int8"):
            fail("program", f"{what} is {value!r}, expected fp32 or int8")
    whole(program.calibration_images, 0, 1 << 40, "program", "calibration_images")
