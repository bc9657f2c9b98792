"""Working copies: what reads a model reads a twin of it, so that the user's own is left as it was.

A forward may do anything to its module: keep a grid of its first call, count its calls, draw random numbers.
Read on a copy, on torch's meta device or in torch.fx's proxies, none of that reaches the model itself.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitskip.graph.surroundings import kept_clean

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside `DataParallel`, `DistributedDataParallel` and what `torch.compile` returns."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules:
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def working_copy(model: nn.Module, *, on_meta: bool = False) -> Iterator[nn.Module]:
    """Give a twin of `model` in evaluation mode, without wrappers, that shares no tensor with it.

    A model that cannot be copied (it holds a lock, say) is given itself, and put back afterwards.

    Args:
        model: left as it is.
        on_meta: whether the twin's tensors have no values.

    Raises:
        TypeError: if it is wanted on the meta device and cannot be copied.
    """
    model = unwrap(model)
    with kept_clean(model):
        try:
            twin = opened_copy(model, on_meta=on_meta)
        except Exception as error:  # whatever a stranger's attribute raises
            if on_meta:
                raise TypeError(f"{type(model).__name__} cannot be copied: {error}") from error
            with as_it_was(model):
                yield model.eval()
            return
        yield twin.eval()


def opened_copy(model: nn.Module, *, on_meta: bool = False) -> nn.Module:
    """Return a copy without wrappers, in the modes of the model; raises what its attributes raise.

    Args:
        model: left as it is.
        on_meta: whether the copy's tensors have no values.
    """
    model = unwrap(model)
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors_of(module):
            if id(tensor) not in memo and type(tensor) in (Tensor, nn.Parameter):
                values = tensor.detach()
                values = values.to("meta") if on_meta else values.clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(values, tensor.requires_grad) if is_parameter else values
    for module in reversed(list(model.modules())):  # inner wrappers first
        inner = unwrap(module)
        if inner is not module:
            memo[id(module)] = copy.deepcopy(inner, memo)
    return copy.deepcopy(model, memo)


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    for value in vars(module).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            members = value.values() if isinstance(value, dict) else value
            yield from (member for member in members if isinstance(member, Tensor))


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back every module's attributes, containers in them, training modes and the values of buffers."""
    before = {module: _held(vars(module)) for module in model.modules()}
    values = {id(buffer): (buffer, buffer.detach().clone()) for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, (attributes, containers) in before.items():
            vars(module).clear()
            vars(module).update(attributes)
            for container, members in containers:
                container.clear()
                container.extend(members) if isinstance(container, list) else container.update(members)
        with torch.inference_mode(False), torch.no_grad():
            for buffer, kept in values.values():
                if not buffer.is_meta and not torch.equal(buffer, kept):
                    buffer.copy_(kept)


def _held(attributes: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    containers = [value for value in attributes.values() if isinstance(value, dict | list | set)]
    return dict(attributes), [(value, copy.copy(value)) for value in containers]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run without gradients, outside inference mode, without warnings; random generators are put back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (whatever a forward draws from)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.random.fork_rng(devices),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
