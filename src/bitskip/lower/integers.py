"""Real factors as the integers that int8 layers compute with: weights, and an epilogue's terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitskip.errors import LoweringError
from bitskip.lower.graph import ConvNode

_MAX_SHIFT = 40
_I8_PRODUCT = 255 * 127  # largest |(q - zero_point) * w|
_BIAS_BITS = 30


def int8_weights(node: ConvNode, *, wide: bool) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Return a convolution's int8 weights, and what one unit of them is, per output channel.

    Args:
        node: of real weights.
        wide: its sums are not of 32 bits: it reads the sums of a pool.

    Raises:
        LoweringError: if it sums more products than 32 bits hold.
    """
    taps = int(np.prod(node.weight.shape[1:]))
    if not wide and taps * _I8_PRODUCT >= 2**31:
        raise LoweringError(
            f"layer '{node.name}' sums {taps} products, expected at most {(2**31 - 1) // _I8_PRODUCT} in "
            "int8; pack with --dense fp32"
        )
    largest = np.abs(node.weight).max(axis=(1, 2, 3)).astype(np.float64)
    steps = np.where(largest > 0, largest / 127, 1.0)
    q = np.rint(node.weight / steps[:, None, None, None])
    return np.clip(q, -127, 127).astype(np.int8), steps


def integer_terms(
    name: str, factors: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], ratio: float, bound: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], int, int]:
    """Return multiplier, bias, shift and residual multiplier of an integer epilogue.

    Args:
        name: of the layer.
        factors: the output's units in one unit of the accumulator, per channel.
        offsets: what is added, in units of the output, per channel.
        ratio: the output's units in one unit of the residual.
        bound: largest |accumulator|.
    """
    for shift in range(_MAX_SHIFT, 0, -1):
        m, b = np.rint(factors * 2.0**shift), offsets * 2.0**shift
        r = round(ratio * 2.0**shift)
        largest_m, largest_b = float(np.abs(m).max()), float(np.abs(b).max())
        reach = bound * largest_m + 2 * largest_b + 255 * r + 2.0**shift
        if max(largest_m, r) < 2**31 and reach < 2.0**61:
            break
    else:
        raise LoweringError(f"layer '{name}' has scales too far apart for int8 activations")
    # 30 significant bits of the bias, so that the file stores it in 32.
    step = 2.0 ** max(0, int(np.frexp(largest_b)[1]) - _BIAS_BITS)
    return m.astype(np.int32), (np.rint(b / step) * step).astype(np.int64), shift, r
