"""`*.bitskip`: a Program as a safetensors file, without code or pickles, as small as its parameters.

The container holds two uint8 tensors: `program`, zlib-compressed JSON of everything but the arrays, and
`constants`, the arrays one after the other, each from a multiple of 8 bytes. 1-bit weights are one stream of
bits (O, KH, KW, I), I fastest, least significant bit first, so what is counted as 1 bit takes 1 bit. The
metadata carries the format's name and version and the SHA-256 of both tensors.

In the JSON, `{"$": n}` stands for constant n, whose dtype and shape are in the list `constants`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import struct
import types
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bitskip.bits import WORD_BITS, words_for
from bitskip.errors import FileFormatError
from bitskip.program.ops import (
    OPS,
    Activation,
    Array,
    FloatEpilogue,
    IntegerEpilogue,
    Op,
    Output,
    Tensor,
    ThresholdEpilogue,
)
from bitskip.program.plan import Program

__all__ = ["FORMAT_VERSION", "decode", "encode", "iter_constants", "stored_array_bytes", "stored_bytes"]

FORMAT_VERSION = "1"
_MAX_HEADER = 1 << 16
_MAX_JSON = 1 << 26  # bytes of JSON that a file may unfold to
_ALIGNMENT = 8
MAX_SHIFT = 31  # of int64 constants: 32 bits shifted by it stay within 2^62
_EPILOGUES: dict[str, type[Any]] = {
    "float": FloatEpilogue,
    "threshold": ThresholdEpilogue,
    "integer": IntegerEpilogue,
}
_NUMPY = {"f32": "<f4", "i8": "<i1", "i32": "<i4", "i64": "<i8"}
_DTYPE_NAMES = {np.dtype(code): name for name, code in _NUMPY.items()}


# -- writing ------------------------------------------------------------------------------------------


def encode(program: Program) -> bytes:
    """Return `program` as the content of a file."""
    constants = _Constants()
    values = {
        "name": program.name,
        "tensors": [_tensor_row(tensor) for tensor in program.tensors],
        "ops": _ops(program, constants),
        "output": program.output if program.is_classifier else [list(o) for o in program.outputs],
        "arena_bytes": program.arena_bytes,
        "mean": list(program.mean),
        "std": list(program.std),
        "class_names": list(program.class_names),
        "spec": None if program.spec is None else dict(program.spec),
        "activations": program.activations,
        "dense": program.dense,
        "calibration_images": program.calibration_images,
        "extra": dict(program.extra),
        "constants": constants.rows,
    }
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
    return pack_container(zlib.compress(text, 9), b"".join(constants.parts))


def pack_container(program: bytes, constants: bytes) -> bytes:
    """Return the safetensors file around the compressed program and the constants."""
    digest = hashlib.sha256(program + constants).hexdigest()
    return pack_header(len(program), len(constants), digest) + constants + program


def pack_header(program: int, constants: int, digest: str) -> bytes:
    """Return a file's first bytes, header length included, for tensors of so many bytes."""
    values = {
        "__metadata__": {"format": "bitskip", "version": FORMAT_VERSION, "sha256": digest},
        "constants": {"dtype": "U8", "shape": [constants], "data_offsets": [0, constants]},
        "program": {
            "dtype": "U8",
            "shape": [program],
            "data_offsets": [constants, constants + program],
        },
    }
    header = json.dumps(values, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def _tensor_row(tensor: Tensor) -> list[Any]:
    row: list[Any] = [tensor.name, tensor.dtype, *tensor.shape, tensor.offset]
    return row if tensor.dtype != "i8" else [*row, tensor.scale, tensor.zero_point]


class _Constants:
    """Collects arrays as they are met."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self.parts: list[bytes] = []

    def add(self, values: Array, channels: int) -> dict[str, int]:
        row, content = _stored(values, channels)
        self.rows.append(row)
        self.parts.append(content + b"\0" * (-len(content) % _ALIGNMENT))
        return {"$": len(self.rows) - 1}


def _stored(values: Array, channels: int) -> tuple[list[Any], bytes]:
    """Return the row [dtype, shape] and the bytes of one array; `channels` for 1-bit weights."""
    shape = list(values.shape)
    if values.dtype == np.uint64:
        as_bytes = np.ascontiguousarray(values, dtype="<u8").view(np.uint8)
        bits = np.unpackbits(as_bytes, axis=-1, count=channels, bitorder="little")
        return ["u1", [*shape[:-1], channels]], np.packbits(bits.ravel(), bitorder="little").tobytes()
    if values.dtype == np.bool_:
        return ["flag", shape], np.packbits(values.ravel(), bitorder="little").tobytes()
    if values.dtype == np.int64:
        # The lowering leaves few significant bits: 32 of them and a shift are all that is stored.
        shift = min(_common_zeros(values), MAX_SHIFT)
        small = values >> shift
        if small.size and np.abs(small).max() < 1 << 31:
            return ["i64", shape, shift], small.astype("<i4").tobytes()
    return [_DTYPE_NAMES[values.dtype], shape], np.ascontiguousarray(values).tobytes()


def _common_zeros(values: Array) -> int:
    """Return how many low bits are zero in every value."""
    together = int(np.bitwise_or.reduce(values.ravel())) if values.size else 0
    return (together & -together).bit_length() - 1 if together else 0


def _plain(value: Any, constants: _Constants, channels: int) -> Any:
    """Turn a dataclass into JSON values without the fields that have their default.

    Args:
        value: an op, an epilogue or an activation.
        constants: takes the arrays.
        channels: of the op's input, which 1-bit weights need to lose their padding.
    """
    plain: dict[str, Any] = {"kind": value.kind}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        if f.name == "kind" or item is None or item is f.default:
            continue
        if isinstance(item, np.ndarray):
            plain[f.name] = constants.add(item, channels)
        elif dataclasses.is_dataclass(item):
            plain[f.name] = _plain(item, constants, channels)
        elif isinstance(item, tuple):
            plain[f.name] = list(item)
        elif item != f.default:
            plain[f.name] = item
    return plain


def _ops(program: Program, constants: _Constants) -> list[Any]:
    return [_plain(op, constants, program.tensors[op.input].shape[2]) for op in program.ops]


def iter_constants(program: Program) -> Iterator[Array]:
    """Yield every constant array of `program` in the order in which the file holds them."""

    def arrays(value: Any) -> Iterator[Array]:
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            if isinstance(item, np.ndarray):
                yield item
            elif dataclasses.is_dataclass(item):
                yield from arrays(item)

    for op in program.ops:
        yield from arrays(op)


def stored_array_bytes(program: Program, at: int) -> int:
    """Return the bytes that the constants of op number `at` take in the file, alignment included."""
    constants = _Constants()
    op = program.ops[at]
    _plain(op, constants, program.tensors[op.input].shape[2])
    return sum(map(len, constants.parts))


def stored_bytes(program: Program) -> int:
    """Return the bytes that all constants of `program` take in its file, alignment included."""
    return sum(stored_array_bytes(program, at) for at in range(len(program.ops)))


# -- reading ------------------------------------------------------------------------------------------


def decode(content: bytes, source: str = "packed model") -> Program:
    """Return the program that a file's content holds.

    Raises:
        FileFormatError: if anything about it is wrong: length, header, version, checksum, JSON, values.
    """
    try:
        program, constants = unpack_container(content)
        return _program(_read_json(program), constants)
    except FileFormatError as error:
        raise FileFormatError(f"{source} is not a sound .bitskip file: {error}") from None


def unpack_container(content: bytes) -> tuple[bytes, memoryview]:
    """Return the compressed program and the constants of a file; raises FileFormatError."""
    if len(content) < 8:
        raise FileFormatError(f"it has {len(content)} bytes, expected at least 8")
    (length,) = struct.unpack_from("<Q", content)
    if length > min(_MAX_HEADER, len(content) - 8):
        raise FileFormatError(f"its header claims {length} bytes, and {len(content) - 8} follow")
    header = _parse(content[8 : 8 + length], "header")
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != "bitskip":
        raise FileFormatError("its header does not say that it was packed by bitskip")
    if metadata.get("version") != FORMAT_VERSION:
        raise FileFormatError(
            f"its format version is {metadata.get('version')!r}, this bitskip reads {FORMAT_VERSION!r}"
        )
    body = memoryview(content)[8 + length :]
    try:
        size = header["constants"]["data_offsets"][1]
    except (KeyError, IndexError, TypeError):
        size = None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body):
        raise FileFormatError(f"its constants claim {size!r} bytes of {len(body)}")
    digest = hashlib.sha256(body[size:])
    digest.update(body[:size])
    if metadata.get("sha256") != digest.hexdigest():
        raise FileFormatError("its checksum does not match; it is truncated or damaged")
    expected = pack_header(len(body) - size, size, digest.hexdigest())
    if bytes(content[: 8 + length]) != expected:
        raise FileFormatError("its header holds more than a .bitskip header does")
    return bytes(body[size:]), body[:size]


def _parse(text: bytes, what: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"its {what} is not valid JSON ({error})") from None


def _read_json(compressed: bytes) -> Any:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(compressed, _MAX_JSON)
    except zlib.error as error:
        raise FileFormatError(f"its program cannot be decompressed ({error})") from None
    if not unpacker.eof or unpacker.unused_data:
        raise FileFormatError(f"its program is cut off, trailed by other bytes, or above {_MAX_JSON} bytes")
    return _parse(text, "program")


_TOP: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "name": str,
    "tensors": list,
    "ops": list,
    "output": (int, list),
    "arena_bytes": int,
    "mean": list,
    "std": list,
    "class_names": list,
    "spec": (dict, types.NoneType),
    "activations": str,
    "dense": str,
    "calibration_images": int,
    "extra": dict,
    "constants": list,
}


def _program(values: Any, data: memoryview) -> Program:
    _keys(values, _TOP, "program")
    for key, kind in _TOP.items():
        if not isinstance(values[key], kind):
            raise FileFormatError(f"program: {key} is {values[key]!r:.40}, which has the wrong type")
    reader = _Reader(_read_constants(values["constants"], data))
    fields = {key: values[key] for key in _TOP if key not in ("constants", "tensors", "ops")}
    for key in ("mean", "std", "class_names"):
        fields[key] = tuple(values[key])
    program = Program(
        outputs=_outputs(fields.pop("output")),
        tensors=tuple(_read_tensor(row, number) for number, row in enumerate(values["tensors"])),
        ops=tuple(reader.op(item, at) for at, item in enumerate(values["ops"])),
        **fields,
    )
    if reader.next != len(reader.constants):
        raise FileFormatError(f"it holds {len(reader.constants)} constants and uses {reader.next}")
    return program


def _outputs(value: Any) -> tuple[Output, ...]:
    if isinstance(value, int):
        return (Output("logits", value),)
    if not all(isinstance(row, list) and len(row) == 2 for row in value):
        raise FileFormatError(f"program: output is {value!r:.60}, expected a tensor or rows")
    return tuple(Output(*row) for row in value)


def _keys(values: Any, known: Any, where: str) -> None:
    if not isinstance(values, dict) or values.keys() != set(known):
        got = ", ".join(map(str, values))[:200] if isinstance(values, dict) else repr(values)[:40]
        raise FileFormatError(f"{where}: got {got}; expected the keys {', '.join(known)}")


def _read_tensor(row: Any, number: int) -> Tensor:
    if not isinstance(row, list) or len(row) not in (6, 8):
        raise FileFormatError(f"tensor {number}: is {row!r:.60}, expected a list of 6 or 8 values")
    name, dtype, height, width, channels, offset, *quantization = row
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise FileFormatError(f"tensor {number}: name and dtype must be strings")
    if (dtype == "i8") != bool(quantization):
        raise FileFormatError(f"tensor {number}: i8, and nothing else, has a scale and a zero point")
    if not quantization:
        return Tensor(dtype, (height, width, channels), offset, name=name)
    scale, zero_point = quantization
    return Tensor(dtype, (height, width, channels), offset, scale, zero_point, name)


def _read_constants(rows: list[Any], data: memoryview) -> list[Array]:
    at = 0
    arrays = []
    for number, row in enumerate(rows):
        where = f"constant {number}"
        if not isinstance(row, list) or len(row) not in (2, 3) or not isinstance(row[1], list):
            raise FileFormatError(f"{where}: is {row!r:.60}, expected [dtype, shape]")
        dtype, shape = row[0], row[1]
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1 << 31 for n in shape):
            raise FileFormatError(f"{where}: shape is {shape!r:.60}, expected whole numbers from 1")
        if not 1 <= len(shape) <= 4:
            raise FileFormatError(f"{where}: has {len(shape)} axes, expected 1..4")
        count = functools.reduce(int.__mul__, shape, 1)
        shift = row[2] if len(row) == 3 else None
        if shift is not None and (dtype != "i64" or type(shift) is not int or not 0 <= shift < 63):
            raise FileFormatError(f"{where}: shift {shift!r} of {dtype!r}; only i64 has one, 0..62")
        stored = "i32" if shift is not None else dtype
        if stored in ("u1", "flag"):
            size = -(-count // 8)
        elif isinstance(stored, str) and stored in _NUMPY:
            size = count * np.dtype(_NUMPY[stored]).itemsize
        else:
            raise FileFormatError(f"{where}: dtype is {dtype!r:.40}")
        if size > len(data) - at:
            raise FileFormatError(f"{where}: needs {size} bytes at {at} of {len(data)}")
        arrays.append(_array(stored, shape, count, shift, data[at : at + size], where))
        at += size
        padding = data[at : at + (-size % _ALIGNMENT)]
        if len(padding) != -size % _ALIGNMENT or any(padding):
            raise FileFormatError(f"{where}: is not followed by zeros up to a multiple of {_ALIGNMENT} bytes")
        at += len(padding)
    if at != len(data):
        raise FileFormatError(f"its constants take {at} bytes, and {len(data)} are there")
    return arrays


def _array(
    stored: str, shape: list[int], count: int, shift: int | None, content: memoryview, where: str
) -> Array:
    if stored in ("u1", "flag"):
        stream = np.frombuffer(content, np.uint8)
        spare = -count % 8
        if spare and stream[-1] >> (8 - spare):
            raise FileFormatError(f"{where}: has bits set beyond its last one")
        if stored == "flag":
            return np.unpackbits(stream, count=count, bitorder="little").astype(np.bool_).reshape(shape)
        return _words(stream, shape, count)
    values = np.frombuffer(content, _NUMPY[stored]).astype(_NUMPY[stored][1:]).reshape(shape)
    if shift is None:
        return values
    if shift > MAX_SHIFT:
        raise FileFormatError(f"{where}: shift {shift} takes 32-bit values beyond 2^62")
    return values.astype(np.int64) << shift


def _words(stream: Array, shape: list[int], count: int) -> Array:
    """Return a stream of bits (..., I) as words (..., ceil(I / 64))."""
    channels = shape[-1]
    words = words_for(channels)
    if channels % WORD_BITS == 0:
        return stream.view("<u8").astype(np.uint64).reshape(*shape[:-1], words)
    bits = np.unpackbits(stream, count=count, bitorder="little").reshape(*shape)
    padded = np.zeros((*shape[:-1], words * WORD_BITS), np.uint8)
    padded[..., :channels] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


class _Reader:
    """Builds ops from JSON values; the constants must be named once each, in order."""

    def __init__(self, constants: list[Array]) -> None:
        self.constants = constants
        self.next = 0

    def op(self, values: Any, at: int) -> Op:
        built: Op = self.build(values, OPS, f"op {at}")
        return built

    def build(self, values: Any, kinds: dict[str, type[Any]], where: str) -> Any:
        kind = values.get("kind") if isinstance(values, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise FileFormatError(f"{where}: kind is {kind!r:.40}, expected one of {', '.join(kinds)}")
        known = {f.name: f for f in dataclasses.fields(kinds[kind]) if f.name != "kind"}
        fields: dict[str, Any] = {}
        for name, value in values.items():
            if name == "kind":
                continue
            if name not in known:
                raise FileFormatError(f"{where}: '{kind}' has no field {name!r:.40}")
            fields[name] = self.value(value, str(known[name].type), f"{where}: {name}")
        for name, f in known.items():
            if f.default is dataclasses.MISSING and name not in fields:
                raise FileFormatError(f"{where}: '{kind}' lacks its field '{name}'")
        if kinds[kind] is Activation:
            fields["kind"] = kind
        return kinds[kind](**fields)

    def value(self, value: Any, annotation: str, where: str) -> Any:
        """Return a field's value, of the type that its dataclass declares."""
        if annotation.startswith("Array"):
            return self.constant(value, where)
        if annotation in ("Epilogue", "FloatEpilogue"):
            return self.build(value, _EPILOGUES, where)
        if annotation == "Activation":
            return self.build(value, _ACTIVATIONS, where)
        if annotation.startswith("tuple"):
            if isinstance(value, list) and all(type(n) is int for n in value):
                return tuple(value)
        elif type(value) is _SCALARS[annotation]:
            return value
        raise FileFormatError(f"{where} is {value!r:.40}, expected {annotation}")

    def constant(self, value: Any, where: str) -> Array:
        if value != {"$": self.next} or self.next >= len(self.constants):
            raise FileFormatError(f"{where} is {value!r:.40}, expected constant {self.next}")
        self.next += 1
        return self.constants[self.next - 1]


_SCALARS: dict[str, type[Any]] = {"int": int, "int | None": int, "bool": bool, "str": str}
_ACTIVATIONS: dict[str, type[Any]] = dict.fromkeys(("none", "relu", "prelu", "rprelu"), Activation)
