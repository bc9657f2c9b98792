"""`*.bitskip`: a Program as flat tables and constants that C reads where they lie; docs/program.md, "File".

Little-endian throughout. A header of 64 bytes; the constants, those of 64 bytes and more from a multiple of
64; a record a tensor; a record an op (`bitskip.program.schema`); the numbers of the outputs; names, a line
each; JSON for what only Python reads. 1-bit weights are one stream of bits (O, KH, KW, I), I fastest, least
significant bit first, so what is counted as 1 bit takes 1 bit. No code, no pickles.

There is one valid form of every table: what is read is laid out again and compared.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitskip.errors import FileFormatError
from bitskip.memory import Lifetime, lifetimes
from bitskip.program.constants import ConstantReader, alignment_of, stored, stored_size
from bitskip.program.memory import program_schedule
from bitskip.program.ops import Array, Op, Output, Tensor
from bitskip.program.program import Program
from bitskip.program.record import flatten, from_columns, is_small, to_columns, unflatten
from bitskip.program.schema import COLUMNS, CONSTANTS, DTYPES, LIMITS, RECORD, WIDE

FORMAT_VERSION = 2
MAGIC = b"BITSKIP\0"
# magic, version, CRC-32 of what follows it, bytes of the file, tensors, ops, outputs, class names, bytes of
# the arena, of the constants, of the names, of the JSON, inputs beyond the first, and 8 bytes of 0
HEADER = struct.Struct("<8sII10I8x")
_CHECKED = 16  # first byte that the checksum covers
_OUTPUT = struct.Struct("<I")
# dtype, zero point, first and last op that the tensor is alive in, height, width, channels, offset, scale;
# -1 (as uint16) is before the first op, the number of ops is after the last
TENSOR = struct.Struct("<BbHHHIIIif")
_MAX_JSON = 1 << 26
_DTYPE_NAMES = {code: name for name, code in DTYPES.items()}
_JSON_KEYS = ("mean", "std", "spec", "activations", "dense", "calibration_images", "extra")


# -- layout -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where one constant of an op lies: bytes from the file's start."""

    name: str
    offset: int
    size: int


def _lay_out(ops: tuple[Op, ...], tensors: tuple[Tensor, ...]) -> tuple[list[Any], list[list[_Place]], int]:
    """Return each op's record, the places of its constants, and where the constants end."""
    records, places = [], []
    at = HEADER.size
    for op in ops:
        flat = flatten(op)
        columns = to_columns(flat, op.kind)
        here = []
        for name in CONSTANTS:
            array = flat.constants.get(name)
            if array is None:
                continue
            if array.dtype == np.int64:
                shift = is_small(array)
                columns["bias_shift"] = WIDE if shift is None else shift
            size = stored_size(array, tensors[op.input].shape[2], columns)
            at += -at % alignment_of(size)
            here.append(_Place(name, at, size))
            columns[name] = at
            at += size
        values: list[Any] = []
        for column in COLUMNS:
            value = columns.get(column.name, (column.unused,) * column.count)
            values += value if isinstance(value, tuple) else [value]
        records.append(tuple(values))
        places.append(here)
    return records, places, at + -at % 8


def _tensor_rows(program: Program) -> bytes:
    lives = lifetimes(program_schedule(program.tensors, program.ops, (o.tensor for o in program.outputs)))
    unread = Lifetime(-1, -1)  # an input that no op reads
    return b"".join(
        TENSOR.pack(
            DTYPES[t.dtype],
            t.zero_point if t.dtype == "i8" else 0,
            lives.get(n, unread).born & 0xFFFF,
            lives.get(n, unread).dies & 0xFFFF,
            0,
            *t.shape,
            t.offset,
            t.scale if t.dtype == "i8" else 1.0,
        )
        for n, t in enumerate(program.tensors)
    )


def _names(program: Program) -> bytes:
    names = [program.name, *(output.name for output in program.outputs), *program.class_names]
    names += [tensor.name for tensor in program.tensors]
    names += [op.name for op in program.ops]
    return "".join(name + "\n" for name in names).encode()


# -- writing ------------------------------------------------------------------------------------------


def encode(program: Program) -> bytes:
    """Return `program` as the content of a file.

    Raises:
        FileFormatError: if that is larger than a file may be.
    """
    records, places, end = _lay_out(program.ops, program.tensors)
    constants = bytearray(end - HEADER.size)
    for op, here in zip(program.ops, places, strict=True):
        arrays, channels = flatten(op).constants, program.tensors[op.input].shape[2]
        for place in here:
            first = place.offset - HEADER.size
            constants[first : first + place.size] = stored(arrays[place.name], channels)
    names = _names(program)
    values = {key: getattr(program, key) for key in _JSON_KEYS}
    values |= {"spec": None if program.spec is None else dict(program.spec), "extra": dict(program.extra)}
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
    tables = b"".join([_tensor_rows(program), *(RECORD.pack(*record) for record in records)])
    tables += b"".join(_OUTPUT.pack(output.tensor) for output in program.outputs)
    counts = (
        len(program.tensors),
        len(program.ops),
        len(program.outputs),
        len(program.class_names),
        program.arena_bytes,
        len(constants),
        len(names),
        len(text),
        len(program.inputs) - 1,
    )
    body = bytes(constants) + tables + names + text
    if HEADER.size + len(body) > LIMITS["MAX_BYTES"]:
        raise FileFormatError(f"{program.name} takes {len(body)} bytes, expected less than 2^31")
    return signed(HEADER.pack(MAGIC, FORMAT_VERSION, 0, HEADER.size + len(body), *counts) + body)


def signed(content: bytes) -> bytes:
    """Return the content of a file with the checksum that belongs to it."""
    return content[: _CHECKED - 4] + struct.pack("<I", zlib.crc32(content[_CHECKED:])) + content[_CHECKED:]


def iter_constants(program: Program) -> Iterator[Array]:
    """Yield every constant array of `program` in the order in which the file holds them."""
    for op in program.ops:
        constants = flatten(op).constants
        yield from (constants[name] for name in CONSTANTS if name in constants)


def op_bytes(program: Program) -> list[int]:
    """Return the bytes that the constants of each op take in the file, alignment included."""
    _, places, _ = _lay_out(program.ops, program.tensors)
    at, found = HEADER.size, []
    for here in places:
        end = here[-1].offset + here[-1].size if here else at
        found.append(end - at)
        at = end
    return found


def stored_bytes(program: Program) -> int:
    """Return the bytes that all constants of `program` take in its file, alignment included."""
    return _lay_out(program.ops, program.tensors)[2] - HEADER.size


# -- reading ------------------------------------------------------------------------------------------


def decode(content: bytes, source: str = "packed model") -> Program:
    """Return the program that a file's content holds.

    Raises:
        FileFormatError: if anything about it is wrong: length, header, version, checksum, tables, values.
    """
    try:
        return _program(memoryview(content))
    except FileFormatError as error:
        raise FileFormatError(f"{source} is not a sound .bitskip file: {error}") from None


@dataclass(frozen=True)
class Sections:
    """The parts of a file, and its header's counts."""

    tensor_count: int
    op_count: int
    output_count: int
    class_count: int
    arena_bytes: int
    input_count: int
    constants: memoryview
    tensors: memoryview
    ops: memoryview
    outputs: memoryview
    names: memoryview
    json: memoryview


def split(content: memoryview) -> Sections:
    """Return the parts of a file.

    Raises:
        FileFormatError: unless the header is sound, the checksum right and every byte part of something.
    """
    if bytes(content[8:24]) == b'{"__metadata__":':
        raise FileFormatError("it was packed in format version 1, this bitskip reads 2; pack the run again")
    if len(content) < HEADER.size or bytes(content[:8]) != MAGIC:
        raise FileFormatError(f"its {len(content)} bytes do not begin as a file packed by bitskip")
    _, version, checksum, size, *counts = HEADER.unpack_from(content)
    if version != FORMAT_VERSION:
        raise FileFormatError(f"its format version is {version}, this bitskip reads {FORMAT_VERSION}")
    if size != len(content) or size > LIMITS["MAX_BYTES"]:
        raise FileFormatError(f"its header claims {size} bytes of {len(content)}; it is truncated or damaged")
    if checksum != zlib.crc32(content[_CHECKED:]):
        raise FileFormatError("its checksum does not match; it is truncated or damaged")
    tensors, ops, outputs, classes, arena, *lengths, more_inputs = counts
    for what, count in (("TENSORS", tensors), ("OPS", ops), ("OUTPUTS", outputs)):
        if not 1 <= count <= LIMITS[f"MAX_{what}"]:
            raise FileFormatError(f"it has {count} {what.lower()}, expected 1..{LIMITS[f'MAX_{what}']}")
    if any(content[HEADER.size - 8 : HEADER.size]) or lengths[0] % 8:
        raise FileFormatError("its header holds more than a .bitskip header does")
    parts = [
        lengths[0],
        tensors * TENSOR.size,
        ops * RECORD.size,
        outputs * _OUTPUT.size,
        *lengths[1:],
    ]
    if HEADER.size + sum(parts) != size:
        raise FileFormatError(f"its parts take {HEADER.size + sum(parts)} bytes of {size}")
    views, at = [], HEADER.size
    for length in parts:
        views.append(content[at : at + length])
        at += length
    return Sections(tensors, ops, outputs, classes, arena, 1 + more_inputs, *views)


def _program(content: memoryview) -> Program:
    parts = split(content)
    lines = _lines(parts)
    values = _json(parts.json)
    tensors = []
    at_tensors = 1 + parts.output_count + parts.class_count
    for number, row in enumerate(TENSOR.iter_unpack(parts.tensors)):
        dtype, zero_point, _, _, _, *shape, offset, scale = row
        if dtype not in _DTYPE_NAMES:
            raise FileFormatError(f"tensor {number}: dtype is {dtype}, which is unknown")
        name = lines[at_tensors + number]
        tensors.append(Tensor(_DTYPE_NAMES[dtype], tuple(shape), offset, scale, zero_point, name))
    reader = ConstantReader(content, HEADER.size, HEADER.size + len(parts.constants))
    ops = []
    for number, record in enumerate(RECORD.iter_unpack(parts.ops)):
        columns = _columns(record)
        where = f"op '{lines[at_tensors + parts.tensor_count + number]}'"
        kind, flat = from_columns(columns, where)
        reader.fill(flat, columns, kind, tensors, where)
        ops.append(unflatten(kind, lines[at_tensors + parts.tensor_count + number], flat, where))
    program = Program(
        name=lines[0],
        tensors=tuple(tensors),
        ops=tuple(ops),
        outputs=tuple(
            Output(name, number)
            for name, (number,) in zip(lines[1:], _OUTPUT.iter_unpack(parts.outputs), strict=False)
        ),
        arena_bytes=parts.arena_bytes,
        class_names=tuple(lines[1 + parts.output_count : at_tensors]),
        **values,
    )
    _compare(program, parts)
    return program


def _compare(program: Program, parts: Sections) -> None:
    """Refuse tables that `encode` would not have written for `program`."""
    if parts.input_count != len(program.inputs):
        raise FileFormatError(
            f"its header has {parts.input_count} inputs, and {len(program.inputs)} of its tensors are u8"
        )
    records, places, end = _lay_out(program.ops, program.tensors)
    for number, record in enumerate(records):
        if RECORD.pack(*record) != parts.ops[number * RECORD.size : (number + 1) * RECORD.size]:
            raise FileFormatError(f"op '{program.ops[number].name}': its record holds more than it uses")
    rows = _tensor_rows(program)
    if rows != parts.tensors:
        wrong = next(at for at, byte in enumerate(rows) if byte != parts.tensors[at]) // TENSOR.size
        raise FileFormatError(f"tensor {wrong}: its record does not say how it is used")
    if end != HEADER.size + len(parts.constants):
        raise FileFormatError(f"its constants take {end - HEADER.size} bytes of {len(parts.constants)}")
    at = 0
    for place in (place for here in places for place in here):
        if any(parts.constants[at : place.offset - HEADER.size]):
            raise FileFormatError("its constants are not followed by zeros")
        at = place.offset + place.size - HEADER.size
    if any(parts.constants[at:]):
        raise FileFormatError("its constants are not followed by zeros")


def _lines(parts: Sections) -> list[str]:
    try:
        text = bytes(parts.names).decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"its names are not UTF-8 ({error})") from None
    *lines, rest = text.split("\n")
    expected = 1 + parts.output_count + parts.class_count + parts.tensor_count + parts.op_count
    if rest or len(lines) != expected:
        raise FileFormatError(f"it has {len(lines)} lines of names, expected {expected}")
    return lines


def _json(text: memoryview) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    if len(text) > _MAX_JSON:
        raise FileFormatError(f"its JSON takes {len(text)} bytes, expected at most {_MAX_JSON}")
    try:
        values = json.loads(bytes(text).decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"its JSON is not valid ({error})") from None
    if not isinstance(values, dict) or values.keys() != set(_JSON_KEYS):
        got = ", ".join(map(str, values))[:200] if isinstance(values, dict) else repr(values)[:40]
        raise FileFormatError(f"its JSON holds {got}; expected the keys {', '.join(_JSON_KEYS)}")
    kinds = {
        "mean": list,
        "std": list,
        "activations": str,
        "dense": str,
        "calibration_images": int,
        "extra": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise FileFormatError(f"its JSON holds {key} {values[key]!r:.40}, which has the wrong type")
    if not isinstance(values["spec"], dict | None):
        raise FileFormatError(f"its JSON holds spec {values['spec']!r:.40}, which has the wrong type")
    return values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])}


def _columns(record: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    for column in COLUMNS:
        found[column.name] = record[at] if column.count == 1 else record[at : at + column.count]
        at += column.count
    return found
