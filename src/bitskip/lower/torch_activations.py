"""torch's activations as recorded ops, each with torch's own arguments, beside the tables of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.lower.folding import array
from bitskip.lower.recorded import Recorder, Traced
from bitskip.program import Activation

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "silu": F.silu,
}


def activate(record: Recorder, x: Traced, kind: str) -> Traced:
    """Record an activation without parameters."""
    return record.activate(x, Activation(kind), _PLAIN[kind])


def _plain(kind: str) -> Callable[..., Traced]:
    def handler(record: Recorder, x: Traced, inplace: bool = False) -> Traced:
        return activate(record, x, kind)

    return handler


def prelu(record: Recorder, x: Traced, weight: Tensor) -> Traced:
    """`F.prelu` with one slope, or one a channel."""
    if weight.numel() > 1:
        record.need_channels(x)
    slope = array(weight.reshape(-1).expand(x.picture[2]))
    return record.activate(x, Activation("prelu", slope), lambda values: F.prelu(values, weight))


def _leaky_relu(record: Recorder, x: Traced, negative_slope: float = 0.01, inplace: bool = False) -> Traced:
    slope = array(torch.full((x.picture[2],), float(negative_slope)))
    return record.activate(x, Activation("prelu", slope), lambda values: F.leaky_relu(values, negative_slope))


def _clamp(record: Recorder, x: Traced, min: Any = None, max: Any = None) -> Traced:
    kind = {(0, None): "relu", (0, 6): "relu6"}.get((min, max))
    if kind is None:
        record.refuse_kind(f"clamps to {min}..{max}, expected 0..None (ReLU) or 0..6 (ReLU6)")
    return activate(record, x, kind)


def _hardtanh(
    record: Recorder, x: Traced, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Traced:
    return _clamp(record, x, min_val, max_val)


ACTIVATION_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), _plain("relu")),
    F.relu6: _plain("relu6"),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_), _plain("sigmoid")),
    F.hardsigmoid: _plain("hard_sigmoid"),
    F.hardswish: _plain("hard_swish"),
    F.silu: _plain("silu"),
    **dict.fromkeys((F.prelu, torch.prelu), prelu),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky_relu),
    **dict.fromkeys((torch.clamp, torch.clamp_min, torch.clamp_), _clamp),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
}

ACTIVATION_METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("relu", "relu_"), _plain("relu")),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _plain("sigmoid")),
    **dict.fromkeys(("clamp", "clamp_", "clamp_min", "clamp_min_"), _clamp),
}
