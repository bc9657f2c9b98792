"""Constants as they lie in a file: their sizes and places, writing and reading them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bitskip.bits import WORD_BITS, words_for
from bitskip.errors import FileFormatError
from bitskip.program.ops import Array, Tensor
from bitskip.program.record import Flat, is_small
from bitskip.program.schema import CONSTANTS, LIMITS, WIDE


def alignment_of(size: int) -> int:
    """Return the multiple at which a constant of `size` bytes begins."""
    return 64 if size >= 64 else 8


def stored_size(array: Array, channels: int, columns: dict[str, Any]) -> int:
    """Return the bytes of a constant; `channels` are those of the op's input."""
    if array.dtype == np.uint64:
        return -(-math.prod(array.shape[:-1]) * channels // 8)
    if array.dtype == np.bool_:
        return -(-array.size // 8)
    if array.dtype == np.int64 and columns["bias_shift"] != WIDE:
        return 4 * array.size
    return array.nbytes


def stored(array: Array, channels: int) -> bytes:
    """Return the bytes of a constant."""
    if array.dtype == np.uint64:
        as_bytes = np.ascontiguousarray(array, dtype="<u8").view(np.uint8)
        bits = np.unpackbits(as_bytes, axis=-1, count=channels, bitorder="little")
        return np.packbits(bits.ravel(), bitorder="little").tobytes()
    if array.dtype == np.bool_:
        return np.packbits(array.ravel(), bitorder="little").tobytes()
    if array.dtype == np.int64:
        shift = is_small(array)
        if shift is not None:
            return (array >> shift).astype("<i4").tobytes()
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


class ConstantReader:
    """Reads constants where the records say that they lie; sizes follow from the tensors."""

    def __init__(self, content: memoryview, begin: int, end: int) -> None:
        self.content, self.begin, self.end = content, begin, end

    def fill(self, flat: Flat, columns: dict[str, Any], kind: str, tensors: list[Tensor], where: str) -> None:
        numbers = (*flat.values["inputs"][:1], *flat.values["outputs"][:1])
        if len(numbers) != 2 or max(numbers) >= len(tensors):
            raise FileFormatError(f"{where}: reads and writes {numbers} of {len(tensors)} tensors")
        inputs, outputs = (tensors[number].shape[2] for number in numbers)
        for name in CONSTANTS:
            if columns[name]:
                shape: tuple[int, ...] = (outputs,)
                if name == "weight":
                    groups = columns["groups"] or 1
                    shape = (outputs, *columns["kernel"], inputs // groups)
                elif name == "table":
                    shape = (outputs, 256) if kind == "quantize_input" else (256,)
                dtype = _constant_dtype(name, flat)
                flat.constants[name] = self.read(columns, name, dtype, shape, where)

    def read(
        self, columns: dict[str, Any], name: str, dtype: str, shape: tuple[int, ...], where: str
    ) -> Array:
        offset, count = columns[name], math.prod(shape)
        shift = columns["bias_shift"]
        if dtype == "i8" or dtype == "w1" or dtype == "flag":
            size = count if dtype == "i8" else -(-count // 8)
        else:
            size = 8 * count if dtype == "i64" and shift == WIDE else 4 * count
        if offset < self.begin or offset % alignment_of(size) or size > self.end - offset or not count:
            raise FileFormatError(
                f"{where}: its {name} takes {size} bytes at {offset}, constants end at {self.end}"
            )
        data = self.content[offset : offset + size]
        if dtype in ("w1", "flag"):
            return _bits(data, dtype, shape, count, f"{where}: {name}")
        if dtype == "i64" and shift != WIDE:
            if shift > LIMITS["MAX_BIAS_SHIFT"]:
                raise FileFormatError(f"{where}: bias_shift is {shift}, which takes 32 bits beyond 2^62")
            wide: Array = np.frombuffer(data, "<i4").astype(np.int64).reshape(shape) << shift
            return wide
        code = {"f32": "<f4", "i8": "<i1", "i32": "<i4", "i64": "<i8"}[dtype]
        return np.frombuffer(data, code).astype(code[1:]).reshape(shape)


def _constant_dtype(name: str, flat: Flat) -> str:
    if name == "weight":
        return str(flat.values.get("weight_dtype") or "f32")
    if name in ("table", "multiplier", "flip"):
        return {"table": "i8", "multiplier": "i32", "flip": "flag"}[name]
    if name == "bias" and flat.epilogue == "integer":
        return "i64"
    return "i32" if name == "threshold" and flat.epilogue == "threshold" else "f32"


def _bits(data: memoryview, dtype: str, shape: tuple[int, ...], count: int, where: str) -> Array:
    stream = np.frombuffer(data, np.uint8)
    spare = -count % 8
    if spare and stream[-1] >> (8 - spare):
        raise FileFormatError(f"{where}: has bits set beyond its last one")
    if dtype == "flag":
        return np.unpackbits(stream, count=count, bitorder="little").astype(np.bool_).reshape(shape)
    channels = shape[-1]
    words = words_for(channels)
    if channels % WORD_BITS == 0:
        return stream.view("<u8").astype(np.uint64).reshape(*shape[:-1], words)
    padded = np.zeros((*shape[:-1], words * WORD_BITS), np.uint8)
    padded[..., :channels] = np.unpackbits(stream, count=count, bitorder="little").reshape(*shape)
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)
