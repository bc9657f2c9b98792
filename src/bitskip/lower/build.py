"""A trained module to the graph that is lowered, read on a copy of it through torch.fx."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitskip.errors import LoweringError
from bitskip.graph.working import undisturbed, unwrap, working_copy
from bitskip.lower.fx_graph import fx_graph, refuse_unreadable
from bitskip.lower.graph import Graph
from bitskip.nn import Int8Conv2d, Int8Linear, ResNet, follows_its_spec

InputShape = tuple[int, int, int] | Mapping[str, tuple[int, int, int]]


def build_graph(model: nn.Module, input_shape: InputShape | None = None, name: str | None = None) -> Graph:
    """Return the graph of a trained module, with its weights as they are now.

    Args:
        model: a network of `bitskip.nn.build`, or any module that torch.fx can trace.
        input_shape: (C, H, W) of a picture; a network of bitskip knows its own. Of several inputs each one's,
            by the names that the module's `forward` gives them.
        name: of the graph; that of the spec or the module's class if not given.

    Raises:
        LoweringError: for what a Program cannot express, or weights that are not finite.
    """
    model = unwrap(model)
    spec = model.spec if isinstance(model, ResNet) else None
    if spec is not None:
        own = (spec.input_channels, spec.input_size, spec.input_size)
        if input_shape is not None and _shapes(input_shape) != [own]:
            raise LoweringError(
                f"input_shape is {input_shape}, but '{spec.name}' is a network for {own}; leave it out"
            )
        input_shape = own
    if input_shape is None:
        raise LoweringError(
            f"got a {type(model).__name__} without the size of its pictures; give "
            "input_shape=(channels, height, width)"
        )
    for shape in _shapes(input_shape):
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise LoweringError(f"input_shape is {shape}, expected (channels, height, width) in pixels")
    declared = (Int8Conv2d, Int8Linear)
    precisions = {path: "int8" for path, layer in model.named_modules() if isinstance(layer, declared)}
    if spec is None:
        default = type(model).__name__
    elif follows_its_spec(model):
        default = spec.name
    else:
        default, spec = f"{spec.name.removesuffix('-pruned')}-pruned", None
    refuse_unreadable(model)
    for key, values in model.state_dict().items():
        if (
            isinstance(values, Tensor)
            and values.is_floating_point()
            and not bool(torch.isfinite(values).all())
        ):
            raise LoweringError(f"'{key}' holds values that are not finite; the network cannot be packed")
    with undisturbed(), working_copy(model) as twin:
        graph = fx_graph(twin, input_shape, name or default, precisions)
    graph.spec = spec
    return graph


def _shapes(input_shape: InputShape) -> list[tuple[int, ...]]:
    """Return the shape of every input."""
    shapes = input_shape.values() if isinstance(input_shape, Mapping) else (input_shape,)
    return [tuple(shape) for shape in shapes]
