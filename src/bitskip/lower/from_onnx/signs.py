"""1-bit activations in ONNX: a comparison with thresholds, numbers for its answers, padding, a convolution.

positive = x >= threshold[c]                           GreaterOrEqual, Xor where a channel is turned
sign = Where(positive, 1, -1), or codes 2 and 0 with zero point 1
y = Conv(Pad(sign, value), weights of one magnitude a filter)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bitskip.lower.from_onnx.values import Attributes, Coded, Reader, Signs, pads, tensor
from bitskip.lower.recorded import RecordedConv, Traced
from bitskip.lower.torch_ops import convolve, shift

READ_SIGNS = ("Conv", "DequantizeLinear", "Identity", "Pad", "Where", "Xor")


def one_magnitude(kernels: Any) -> Any:
    """Return the magnitude of each filter's weights, float32 (O,); None if one has several, or all 0."""
    magnitude = np.abs(kernels).reshape(len(kernels), -1)
    single = bool((magnitude == magnitude[:, :1]).all() and magnitude.any())
    return magnitude[:, 0] if single else None


def signs_of(kernels: Any) -> Any:
    """Return the signs of weights as a float32 tensor; that of 0 is +1."""
    return tensor(np.where(np.asarray(kernels) < 0, -1, 1))


def at_least(reader: Reader, a: Attributes, x: Any, threshold: Any) -> Signs:
    """GreaterOrEqual of a value or of its codes, and one threshold or one a channel."""
    record = reader.record
    if not isinstance(x, Traced | Coded) or isinstance(threshold, Traced | Coded | Signs):
        record.refuse("compares two values of the network, expected a value and thresholds a channel")
    bound = np.asarray(threshold, np.float64)
    value = x.value if isinstance(x, Coded) else x
    if isinstance(x, Coded):
        if x.scale is None or bound.size != 1:
            record.refuse(
                "compares codes of a table or with several codes, expected a QuantizeLinear and one"
            )
        code = float(bound.reshape(-1)[0]) - (128 if x.unsigned else 0)
        if not -128 < code <= 127:
            record.refuse(f"compares codes with {bound.item():g}, which all of them reach or none")
        bound = (np.ceil(bound) - (128 if x.unsigned else 0) - x.zero - 0.5) * x.scale
    channels = value.picture[2]
    if bound.size not in (1, channels) or bound.shape[-3:].count(1) < bound.ndim - 1:
        record.refuse(f"has thresholds of shape {bound.shape}, expected one a channel")
    made = record.made_by(value)
    whole = isinstance(made, RecordedConv) and made.precision == "w1a1"
    whole = whole and bool((bound == np.rint(bound)).all())
    if not bound.any():
        return Signs(value, whole)
    bound = np.broadcast_to(bound.reshape(-1), (channels,))
    return Signs(shift(record, value, tensor(-bound)), whole)


def turned(reader: Reader, a: Attributes, x: Any, flip: Any) -> Signs:
    """Xor of signs and constants, one a channel: not (x >= 0) is -x - 1 >= 0 of whole numbers."""
    record = reader.record
    if not isinstance(x, Signs) or x.ends is not None or isinstance(flip, Traced | Coded | Signs):
        record.refuse("has no counterpart but for signs and constants")
    if not x.whole:
        record.refuse("turns signs of real values, expected those of sums of signs")
    turns = np.asarray(flip, bool).reshape(-1)
    scale = tensor(np.where(turns, -1, 1)).expand(x.value.picture[2])
    offset = tensor(np.where(turns, -1, 0)).expand(x.value.picture[2])
    columns = scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
    y = record.affine(x.value, scale, offset, lambda acc: acc * columns[0] + columns[1])
    return Signs(y, whole=True)


def chosen(reader: Reader, a: Attributes, x: Any, positive: Any, negative: Any) -> Signs:
    """Where of signs: the numbers that stand for true and false."""
    parts = [np.unique(end) for end in (negative, positive) if isinstance(end, np.ndarray | np.generic)]
    if not isinstance(x, Signs) or x.ends is not None or [len(part) for part in parts] != [1, 1]:
        reader.record.refuse("has no counterpart but for signs and two numbers")
    return Signs(x.value, x.whole, (float(parts[0][0]), float(parts[1][0])))


def padded(
    reader: Reader, a: Attributes, x: Any, ends: Any = None, value: Any = None, axes: Any = None
) -> Signs:
    """Pad of signs by a constant, as wide before as after."""
    record = reader.record
    if not isinstance(x, Signs) or x.ends is None or x.padding != (0, 0):
        record.refuse("pads a value by itself, expected signs; let the convolution or pool pad")
    if a.get("mode", b"constant") != b"constant" or axes is not None:
        record.refuse("has another mode than constant, or axes; expected one number around the picture")
    sides = np.asarray(ends).reshape(2, -1)
    if sides.shape != (2, 4) or (sides[0] != sides[1]).any() or sides[:, :2].any() or sides.min() < 0:
        record.refuse(f"has pads={sides.reshape(-1).tolist()}, expected the same before and after a picture")
    outside = 0.0 if value is None or np.size(value) == 0 else float(np.asarray(value).item())
    return Signs(x.value, x.whole, x.ends, (int(sides[0, 2]), int(sides[0, 3])), outside)


def signs_real(reader: Reader, x: Signs, scale: Any, zero: Any) -> Signs:
    """DequantizeLinear of the two codes of signs."""
    if x.ends is None or np.size(scale) != 1:
        reader.record.refuse("has a scale a channel, expected one")
    step, at = float(np.asarray(scale).item()), 0.0 if zero is None else float(np.asarray(zero).item())
    low, high = ((end - at) * step for end in x.ends)
    outside = (x.outside - at) * step if x.padding != (0, 0) else 0.0
    return Signs(x.value, x.whole, (low, high), x.padding, outside)


def signs_conv(reader: Reader, a: Attributes, x: Signs, kernels: Any) -> Traced:
    """Conv of signs: 1-bit weights and activations."""
    record = reader.record
    magnitude = one_magnitude(kernels)
    before, after = pads(reader, a)
    if x.ends != (-1.0, 1.0) or magnitude is None or a.get("group", 1) != 1:
        record.refuse(
            "reads signs but is not a convolution of +1 and -1 by weights of one magnitude a filter, group 1"
        )
    if before != after or (before != (0, 0) and x.padding != (0, 0)):
        record.refuse(f"has pads {before} before and {after} after, expected the same, once")
    if x.outside not in (-1.0, 0.0, 1.0):
        record.refuse(f"reads signs that are padded with {x.outside:g}, expected -1, 0 or 1")
    y = convolve(
        record,
        x.value,
        signs_of(kernels),
        None,
        tuple(a.get("strides", (1, 1))),
        x.padding if x.padding != (0, 0) else before,
        tuple(a.get("dilations", (1, 1))),
        precision="w1a1",
        pad_value=int(x.outside),
    )
    if (magnitude == 1).all():
        return y
    scale = torch.from_numpy(np.ascontiguousarray(magnitude, np.float32))
    column = scale.view(1, -1, 1, 1)
    return record.affine(y, scale, None, lambda acc: acc * column)
