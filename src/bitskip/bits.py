"""The one definition of sign, bit order and padding of 1-bit tensors (numpy).

Conventions, everywhere in bitskip:

- `sign(0) = +1`, and so is the sign of -0.0.
- Packed bit 1 means -1, bit 0 means +1, so a product of signs is an exclusive or.
- Bits run along the last axis (channels), least significant bit first, in little-endian 64-bit words;
  the unused bits of the last word are 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WORD_BITS = 64


def sign(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return +1.0 where `values >= 0`, else -1.0, as float32 of the same shape."""
    return np.where(np.asarray(values) >= 0, np.float32(1), np.float32(-1))


def words_for(channels: int) -> int:
    """Number of 64-bit words that hold `channels` bits."""
    return -(-channels // WORD_BITS)


def pack_signs(values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Pack the signs along the last axis: shape (..., C) to uint64 of shape (..., ceil(C / 64))."""
    negative = ~(np.asarray(values) >= 0)
    channels = negative.shape[-1]
    words = words_for(channels)
    padded = np.zeros((*negative.shape[:-1], words * WORD_BITS), dtype=np.uint8)
    padded[..., :channels] = negative
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack_signs(words: npt.NDArray[np.uint64], channels: int) -> npt.NDArray[np.float32]:
    """Undo `pack_signs`: uint64 of shape (..., W) to float32 +/-1 of shape (..., channels)."""
    if words.shape[-1] != words_for(channels):
        raise ValueError(
            f"expected {words_for(channels)} words for {channels} channels, got {words.shape[-1]}"
        )
    as_bytes = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    negative = np.unpackbits(as_bytes, axis=-1, count=channels, bitorder="little")
    return np.where(negative, np.float32(-1), np.float32(1))
