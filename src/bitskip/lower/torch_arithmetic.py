"""torch's arithmetic as recorded ops: with constants a channel, sums and products of maps, concatenations."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitskip.lower.recorded import BATCH, RecordedActivation, Recorder, Traced
from bitskip.lower.torch_activations import activate


def _terms(record: Recorder, x: Traced, constant: Any) -> Tensor:
    """Return a constant operand as one value a channel."""
    if isinstance(constant, int | float):
        return torch.full((x.picture[2],), float(constant))
    if not isinstance(constant, Tensor):
        record.refuse(f"has an operand of type {type(constant).__name__}, expected a number or tensor")
    constant = constant.float()
    if constant.numel() == 1:
        single: Tensor = constant.reshape(1).expand(x.picture[2])
        return single
    shape = (1,) * (len(x.shape) - constant.dim()) + tuple(constant.shape)
    channels = (1, x.picture[2], *(1,) * (len(x.shape) - 2))
    if not x.has_channels or shape != channels:
        record.refuse(
            f"combines shape {x.shape[1:]} with a constant of shape {tuple(constant.shape)}, expected one "
            "value a channel"
        )
    values: Tensor = constant.reshape(-1)
    return values


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[..., Traced]:
    def handler(record: Recorder, first: Any, second: Any, *, alpha: float = 1, **named: Any) -> Traced:
        if any(value is not None for value in named.values()):
            record.refuse(f"is called with {', '.join(named)}, expected none")
        if alpha != 1:
            second = MUL(record, second, alpha) if isinstance(second, Traced) else second * alpha
        if isinstance(first, Traced) and isinstance(second, Traced):
            if operation is operator.mul:
                return _product(record, first, second)
            if operation is not operator.add:
                record.refuse_kind("combines two tensors of the network, expected a sum or a product")
            return record.add(first, second)
        if isinstance(first, Traced):
            values = _terms(record, first, second)
            return record.affine(
                first, *_as_terms(operation, values), functools.partial(_right, operation, _column(values))
            )
        values = _terms(record, second, first)
        function = functools.partial(operation, _column(values))
        if operation is operator.sub:
            return record.affine(second, -torch.ones_like(values), values, function)
        if operation is operator.truediv:
            record.refuse_kind("divides by a tensor of the network, expected an addition")
        return record.affine(second, *_as_terms(operation, values), function)

    return handler


def _product(record: Recorder, first: Traced, second: Traced) -> Traced:
    """Return a product with one value a channel, or an activation that is written as a product."""
    for x, gate in ((first, second), (second, first)):
        made = record.made_by(gate)
        if isinstance(made, RecordedActivation) and made.input == x.value and x.shape == gate.shape:
            kind = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}.get(made.activation.kind)
            if kind is not None:
                return activate(record, x, kind)
    for x, factor in ((first, second), (second, first)):
        pixels = (1, 1, x.picture[2])
        ones = (1,) * (len(x.shape) - 2)
        if x.has_channels and factor.picture == pixels and factor.shape == (BATCH, x.picture[2], *ones):
            return record.multiply(x, factor)
    record.refuse_kind(
        f"multiplies {first.shape[1:]} and {second.shape[1:]}, expected one of them with one pixel"
    )


def cat(record: Recorder, tensors: Any, dim: int = 0, **named: Any) -> Traced:
    """`torch.cat` of channels."""
    dim = named.pop("axis", dim)
    parts = list(tensors)
    if named or not parts or not all(isinstance(part, Traced) and part.has_channels for part in parts):
        record.refuse("joins what is not made from the picture, or has no channels; expected maps")
    if dim % len(parts[0].shape) != 1:
        record.refuse(f"joins along dimension {dim}, expected 1, the channels")
    if len({(part.picture[:2], part.shape[2:]) for part in parts}) > 1:
        shapes = ", ".join(str(part.shape[1:]) for part in parts)
        record.refuse(f"joins the channels of {shapes}, expected one height and width")
    return record.concatenate(parts)


def _as_terms(operation: Callable[[Any, Any], Any], values: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and bias of x + values, x - values, x * values or x / values."""
    if operation is operator.add:
        return None, values
    if operation is operator.sub:
        return None, -values
    return (values if operation is operator.mul else 1 / values.double()), None


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _right(operation: Callable[[Any, Any], Any], constant: Tensor, x: Tensor) -> Any:
    return operation(x, constant)


def negated(record: Recorder, x: Traced) -> Traced:
    """Minus x."""
    return MUL(record, x, -1.0)


ADD, SUB, MUL, DIV = map(_arithmetic, (operator.add, operator.sub, operator.mul, operator.truediv))
