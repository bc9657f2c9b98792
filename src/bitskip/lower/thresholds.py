"""Sign after BN (and scale, activation, learned threshold) as one integer comparison a channel.

The accumulator of signs times signs is an integer in -n..n, n the number of taps. The training graph's own
float operations are evaluated at each of these integers; where the sign changes once, the integer at which
it does is the threshold, so the comparison gives what training gives for every possible input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ALWAYS = -(1 << 31)  # acc >= this holds for every accumulator


@torch.no_grad()
def integer_thresholds(
    graph: Callable[[Tensor], Tensor], channels: int, bound: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None:
    """Return (threshold, flip), each (channels,): the sign is +1 where (acc >= threshold) xor flip.

    Args:
        graph: the float operations between convolution and sign, on (1, channels, 1, W) float32.
        channels: of the accumulator.
        bound: largest |acc|.

    Returns:
        None if some channel's sign changes more than once (an activation that is not monotonic).
    """
    integers = torch.arange(-bound, bound + 1, dtype=torch.float32)
    values = graph(integers.expand(1, channels, 1, -1).contiguous())
    positive = (values >= 0)[0, :, 0, :].numpy()  # (channels, 2 * bound + 1)
    changes = positive[:, 1:] != positive[:, :-1]
    if (changes.sum(axis=1) > 1).any():
        return None
    changed = changes.any(axis=1)
    at = changes.argmax(axis=1) + 1 - bound  # first integer with the second sign
    threshold = np.where(changed, at, _ALWAYS).astype(np.int32)
    flip = np.where(changed, positive[:, 0], ~positive[:, 0])
    return threshold, flip
