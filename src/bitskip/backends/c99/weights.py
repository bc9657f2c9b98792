"""Weights in the order in which the kernels read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitskip.program import Array


def up4(count: int) -> int:
    """Return `count` rounded up to a multiple of 4."""
    return -(-count // 4) * 4


def bit_stream(bits: Array) -> npt.NDArray[np.uint32]:
    """Return bool (O, n) as words (O, ceil(n / 32)), the first bit lowest."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // 32) * 32), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def nibbles(signs: Array) -> npt.NDArray[np.uint32]:
    """Return signs (O, K) as words (ceil(K / 32), O), bit 1 meaning +1."""
    return np.ascontiguousarray(bit_stream(signs > 0).T)


def int8_words(weight: Array, swapped: bool) -> npt.NDArray[np.uint32]:
    """Return int8 (O, KH, KW, I) as words (ceil(O / 2), ceil(K / 4), 2): fours of two channels in turn.

    Zeros stand after the last input and channel. `swapped`: each four in the order 0, 2, 1, 3, so that the
    bytes 0 and 2 of a word are neighbours in K.
    """
    flat = weight.reshape(len(weight), -1)
    padded = np.zeros((len(flat) + len(flat) % 2, up4(flat.shape[1])), np.int8)
    padded[: len(flat), : flat.shape[1]] = flat
    fours = padded.reshape(len(padded) // 2, 2, -1, 4).transpose(0, 2, 1, 3)
    if swapped:
        fours = fours[..., [0, 2, 1, 3]]
    return np.ascontiguousarray(fours).view("<u4").astype(np.uint32)


def half_words(weight: Array, channels: int) -> npt.NDArray[np.uint32]:
    """Return uint64 words (O, KH, KW, W) as 32-bit words (O, KH * KW * ceil(C / 32))."""
    halves = np.ascontiguousarray(weight.astype("<u8")).view("<u4")
    used = halves[..., : -(-channels // 32)]
    return np.ascontiguousarray(used).reshape(len(weight), -1).astype(np.uint32)
