"""One operation on the native engine, given and taken as numpy arrays, and the same in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitskip import _native
from bitskip.backends.native import isas
from bitskip.bits import pack_signs

U8, F32, I8, BITS, I32 = range(5)
BYTES = {U8: 1, F32: 4, I8: 1, I32: 4}
NUMPY = {U8: np.uint8, F32: np.float32, I8: np.int8, I32: np.int32}


def tensor_bytes(dtype: int, shape: tuple[int, int, int]) -> int:
    height, width, channels = shape
    return height * width * (-(-channels // 64) * 8 if dtype == BITS else channels * BYTES[dtype])


@dataclass
class SingleOp:
    """Tensors laid end to end, so that the last one given ends where the guarded arena ends."""

    description: dict[str, Any]
    arena: int = 0
    kernel: str = ""  # that the last run took
    inputs: list[tuple[int, Any]] = field(default_factory=list)
    outputs: dict[str, tuple[int, int, tuple[int, int, int]]] = field(default_factory=dict)

    def place(self, key: str, dtype: int, shape: tuple[int, int, int], zero_point: int = 0) -> int:
        offset = -(-self.arena // 8) * 8
        self.description[key] = (dtype, *shape, zero_point, offset)
        self.arena = offset + tensor_bytes(dtype, shape)
        return offset

    def give(self, key: str, dtype: int, array: Any, channels: int, zero_point: int = 0) -> None:
        shape = (array.shape[0], array.shape[1], channels)
        offset = self.place(key, dtype, shape, zero_point)
        self.inputs.append((offset, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))

    def take(self, key: str, dtype: int, shape: tuple[int, int, int], zero_point: int = 0) -> None:
        self.outputs[key] = (self.place(key, dtype, shape, zero_point), dtype, shape)

    def run(self, isa: str, parts: int = 1) -> dict[str, Any]:
        engine = _native.Engine([self.description], self.arena, isas()[isa], 1, True)
        (self.kernel,) = engine.kernels
        rubbish = np.full(self.arena, 0xA5, np.uint8)
        engine.write(0, rubbish)
        for offset, data in self.inputs:
            engine.write(offset, data)
        for part in range(parts):
            engine.run_op(0, part, parts)
        result = {}
        for key, (offset, dtype, shape) in self.outputs.items():
            raw = np.frombuffer(engine.read(offset, tensor_bytes(dtype, shape)), np.uint8)
            if dtype == BITS:
                result[key] = raw.view(np.uint64).reshape(shape[0], shape[1], -1)
            else:
                result[key] = raw.view(NUMPY[dtype]).reshape(shape)
        return result


def conv_sum(x: Any, w: Any, stride: tuple[int, int], padding: tuple[int, int], pad: float) -> Any:
    """Direct convolution: x (H, W, I), w (O, KH, KW, I), in float64 (exact for every integer met here)."""
    (ph, pw), (sh, sw) = padding, stride
    x = np.pad(x.astype(np.float64), ((ph, ph), (pw, pw), (0, 0)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], (0, 1))[
        ::sh, ::sw
    ]  # (OH, OW, I, KH, KW)
    columns = windows.transpose(0, 1, 3, 4, 2).reshape(*windows.shape[:2], -1)
    return columns @ w.astype(np.float64).reshape(len(w), -1).T


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.where(rng.random(shape) < 0.5, np.float32(-1), np.float32(1))


def packed_weights(w: Any) -> Any:
    return pack_signs(w)
