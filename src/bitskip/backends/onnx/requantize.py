"""Integer epilogues as the scales and int32 biases of QDQ.

An engine's fused convolution computes q = clamp(rint((acc + bias) * s_x * s_w[c] / s_y) + z_y). A Program's
integer epilogue computes q = clamp(((acc * m[c] + b[c] + 2^(s-1)) >> s) + z_y). They agree, but for ties and
the rounding of the bias to a whole step of the accumulator, with

    s_w[c] = |m[c]| / 2^s * s_y / (s_x * unit)
    bias[c] = rint(b[c] / |m[c]| * unit)

where a negative m[c] turns the weights' signs. A sign stands as -unit or unit, each filter with a unit of
its own from 32 to 64. An accumulator is whole, so a filter has few values near a tie: the unit and bias are
taken which keep furthest from moving one of them over it (`room`), and most filters then round as the program
does for every sum there is. Where there are more sums than that, the bias is the nearest. Two products of an
activation (255) and 64 add up to less than 2^15, which is what the int8 kernels of x86 processors without
VNNI can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitskip.program import Activation, Epilogue, FloatEpilogue, IntegerEpilogue, Tensor, inverse_scale

SIGN_UNITS = np.arange(64, 31, -1, dtype=np.uint8)  # 2 * 255 * 64 < 2^15; a smaller one has a multiple here
_BIAS_LIMIT = 1 << 30
_NOTHING = 2.0**-10  # of a step
_SUMS = 1 << 16  # of a filter that are looked at; with more of them some lie next to every tie

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Linear:
    """What an epilogue does to an accumulator, in steps of the i8 output: acc * factor + offset."""

    factor: Doubles  # (C,)
    offset: Doubles  # (C,)


@dataclass(frozen=True, eq=False)
class Requantized:
    """The same as QDQ."""

    negate: npt.NDArray[np.bool_]  # (C,), filters whose weights change their sign
    unit: npt.NDArray[np.uint8]  # (C,), what a weight of 1 is stored as; 0 for a filter that gives its bias
    weight_scale: npt.NDArray[np.float32]  # (C,)
    bias: npt.NDArray[np.int32]  # (C,)
    bias_scale: npt.NDArray[np.float32]  # (C,)


def _plain(activation: Activation) -> bool:
    return activation.kind in ("none", "relu")


def linear(epilogue: Epilogue, channels: int, outputs: list[Tensor]) -> Linear | None:
    """Return an epilogue's linear part, or None if it is none that QDQ has: one i8 output, ReLU at most."""
    if len(outputs) != 1 or outputs[0].dtype != "i8":
        return None
    if isinstance(epilogue, IntegerEpilogue):
        unit = 2.0**-epilogue.shift
        return Linear(epilogue.multiplier * unit, epilogue.bias * unit)
    if not isinstance(epilogue, FloatEpilogue) or epilogue.residual is not None:
        return None
    if not (_plain(epilogue.pre) and _plain(epilogue.post)):
        return None
    step = float(inverse_scale(outputs[0].scale))
    scale = np.ones(channels) if epilogue.scale is None else epilogue.scale.astype(np.float64)
    bias = np.zeros(channels) if epilogue.bias is None else epilogue.bias.astype(np.float64)
    return Linear(scale * step, bias * step)


def requantize(
    part: Linear, source: Tensor, result: Tensor, bound: int, *, signs: bool
) -> Requantized | None:
    """Return scales and biases, or None if a bias does not fit into int32.

    Args:
        part: of the epilogue.
        source: the i8 tensor that is read.
        result: the i8 tensor that is written.
        bound: largest |acc|.
        signs: whether the weights are +1 and -1, and so may take a unit.
    """
    magnitude = np.abs(part.factor)
    # A filter that is multiplied by 0, or almost, gives its offset: no sum of it reaches 2^-10 of a step.
    constant = magnitude * bound < _NOTHING
    magnitude = np.where(constant, _NOTHING, magnitude)
    offset = part.offset / magnitude  # in accumulator steps
    units = SIGN_UNITS if signs else np.ones(1, np.uint8)
    units = np.repeat(units, 2)
    steps = np.floor(offset[:, None] * units)  # (C, candidates)
    steps[:, 1::2] += 1
    moved = (steps / units - offset[:, None]) * magnitude[:, None]  # output steps
    below, above = room(Linear(magnitude, part.offset), bound, result.zero_point)
    chosen = np.argmax(np.minimum(moved + below[:, None], above[:, None] - moved), axis=1)
    unit = np.where(constant, np.uint8(0), units[chosen])
    bias = np.where(constant, np.rint(offset), np.take_along_axis(steps, chosen[:, None], axis=1)[:, 0])
    if (np.abs(bias) + bound * float(unit.max()) >= _BIAS_LIMIT).any():
        return None
    scale = (magnitude * result.scale / (source.scale * np.maximum(unit, 1))).astype(np.float32)
    return Requantized(
        part.factor < 0,
        unit,
        scale,
        bias.astype(np.int32),
        (scale * np.float32(source.scale)).astype(np.float32),
    )


def room(part: Linear, bound: int, zero_point: int) -> tuple[Doubles, Doubles]:
    """Return how many steps each filter's results may fall, and rise, before one of them rounds otherwise.

    Args:
        part: its factors above 0.
        bound: largest |acc|.
        zero_point: of the result; sums that 8 bits cut off do not count.

    Returns:
        Float64 (C,) each; 0 for a filter of too many sums to look at.
    """
    below, above = np.zeros(len(part.factor)), np.zeros(len(part.factor))
    for channel, (factor, offset) in enumerate(zip(part.factor, part.offset, strict=True)):
        ends = (np.array([-129, 128]) - zero_point - offset) / factor
        first, last = np.clip(np.floor(ends), -bound, bound)
        if last - first >= _SUMS:
            continue
        y = np.arange(first, last + 1) * factor + offset + 0.5
        beyond = y - np.floor(y)  # the step below, which a fall would reach
        below[channel], above[channel] = beyond.min(), 1 - beyond.max()
    return below, above


def residual_factor(exact: float, zero_point: int, step: float = 1.0) -> np.float32:
    """Return the float32 nearest to `exact` * `step` that rounds a residual alone as a Program does.

    Where a ReLU left 0 of a convolution, its sum with a residual is (q - zero_point) * exact output steps.
    `exact` is a ratio of two scales, often one of small whole numbers, so many values lie halfway between two
    steps. float32 rounds them to even; a Program by what its multiplier is beyond the ratio, and up if it
    is nothing. A few units in the last place decide for all 256 values.

    Args:
        exact: output steps that a step of the residual is; a double holds its products with 8 bits.
        zero_point: of the residual.
        step: what an output step is in the values that the graph adds.
    """
    q = np.arange(-128, 128) - zero_point
    wanted = np.floor(q * exact + 0.5)
    size, inverse = np.float32(step), np.float32(1) / np.float32(step)
    nearest = np.float32(exact * step)
    for units in sorted(range(-6, 7), key=abs):
        factor = np.float32(nearest * (1 + units * 2.0**-23))
        y = q.astype(np.float32) * factor
        if (np.rint(y / size) == wanted).all() and (np.rint(y * inverse) == wanted).all():
            return factor
    return nearest
