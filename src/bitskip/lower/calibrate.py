"""Ranges for int8 activations, from training pictures run through the network in float32.

Each value's range is the share of its largest one that loses least: the mean squared error of quantizing a
sample of the values, over a grid of shares (as the min-MSE calibrators of post-training quantization do).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from bitskip.backends import Images, each_input
from bitskip.backends.reference import Reference
from bitskip.lower.forms import Quantization
from bitskip.program import Program

_BATCH = 64
_SAMPLES = 200_000  # values kept of each tensor
_SHARES = np.linspace(0.3, 1.0, 36)


def find_quantizations(
    program: Program,
    tensors: Mapping[int, int],
    images: Images,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, Quantization]:
    """Return how each value is best held as int8.

    Args:
        program: the network in float32.
        tensors: value to the number of the f32 tensor that holds it in `program`.
        images: uint8 (N, H, W, C), the calibration pictures; of several inputs a tuple of these.
        progress: called with the pictures done and in all.
    """
    generator = np.random.default_rng(0)
    given = each_input(images)
    count = len(given[0])
    per_image = max(1, _SAMPLES // max(1, count))
    low = dict.fromkeys(tensors, 0.0)
    high = dict.fromkeys(tensors, 0.0)
    samples: dict[int, list[npt.NDArray[np.float32]]] = {value: [] for value in tensors}
    by_tensor = {number: value for value, number in tensors.items()}

    def observe(number: int, values: npt.NDArray[np.float32]) -> None:
        value = by_tensor.get(number)
        if value is None:
            return
        low[value] = min(low[value], float(values.min()))
        high[value] = max(high[value], float(values.max()))
        flat = values.reshape(len(values), -1)
        taken = min(per_image, flat.shape[1])
        columns = generator.integers(0, flat.shape[1], size=(len(flat), taken))
        samples[value].append(np.take_along_axis(flat, columns, axis=1).ravel())

    reference = Reference(program)
    for start in range(0, count, _BATCH):
        reference.run(tuple(array[start : start + _BATCH] for array in given), observe)
        progress(min(start + _BATCH, count), count)
    return {value: _best(low[value], high[value], np.concatenate(samples[value])) for value in tensors}


def _best(low: float, high: float, sample: npt.NDArray[np.float32]) -> Quantization:
    if low == high:
        return Quantization.of_range(low, high)
    candidates = [Quantization.of_range(low * share, high * share) for share in _SHARES]

    def loss(candidate: Quantization) -> float:
        q = candidate.quantize(sample).astype(np.float32) - np.float32(candidate.zero_point)
        return float(np.square(q * np.float32(candidate.scale) - sample).mean())

    return min(candidates, key=loss)
