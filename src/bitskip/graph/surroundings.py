"""What stands around a model and its forward may write to: its classes, and the globals of their files.

A forward that keeps a grid of its first call in a class attribute, a global, a default argument or a closure
keeps the reader's meta tensor or torch.fx proxy there, and every model of that class is broken. Only such
values are taken out again; whatever else changed, changed by somebody's will.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "torchvision", "builtins", "numpy", "bitskip", *sys.stdlib_module_names} - {"__main__"}
_DEPTH = 3  # of containers in containers
_MOST = 10_000  # a container with more members is somebody's data, not a cache of grids


@contextmanager
def kept_clean(model: nn.Module) -> Iterator[None]:
    """Take the traces of a reading out of the classes and globals around `model`."""
    before: list[tuple[Any, dict[str, Any]]] = []
    containers: dict[int, tuple[Any, Any]] = {}
    for place in _places(model):
        values = dict(_namespace(place))
        before.append((place, values))
        for value in values.values():
            _remember(value, containers)
    for value in _captured(model):
        _remember(value, containers)
    try:
        yield
    finally:
        for container, members in containers.values():
            if _is_trace(container):
                container.clear()
                container.extend(members) if isinstance(container, list) else container.update(members)
        for place, values in before:
            _clean(place, values)


def _clean(place: Any, values: dict[str, Any]) -> None:
    for name, value in list(_namespace(place).items()):
        if value is values.get(name) or not _is_trace(value):
            continue
        with suppress(AttributeError, TypeError):
            if isinstance(place, dict):
                place.pop(name) if name not in values else place.__setitem__(name, values[name])
            elif name in values:
                setattr(place, name, values[name])
            else:
                delattr(place, name)


def _is_trace(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is one that only a reading makes, or holds one: a tensor without values, a proxy."""
    if isinstance(value, Tensor):
        return value.is_meta
    if isinstance(value, torch.fx.Proxy | torch.fx.Node):
        return True
    if depth and isinstance(value, dict):
        return any(_is_trace(member, depth - 1) for member in (*value, *value.values()))
    if depth and isinstance(value, list | tuple | set):
        return any(_is_trace(member, depth - 1) for member in value)
    return False


def _remember(value: Any, containers: dict[int, tuple[Any, Any]], depth: int = _DEPTH) -> None:
    if not depth or not isinstance(value, dict | list | set) or id(value) in containers:
        return
    if len(value) > _MOST or _is_trace(value):
        return
    containers[id(value)] = value, value.copy()
    for member in value.values() if isinstance(value, dict) else value:
        _remember(member, containers, depth - 1)


def _classes(model: nn.Module) -> Iterator[type]:
    found = {base for module in model.modules() for base in type(module).__mro__}
    yield from (base for base in found if base.__module__.partition(".")[0] not in _LIBRARIES)


def _functions(model: nn.Module) -> Iterator[types.FunctionType]:
    """Yield the functions of the model's classes, and those that the files of these classes hold."""
    for base in _classes(model):
        for value in vars(base).values():
            inner = getattr(value, "__wrapped__", getattr(value, "__func__", value))  # decorated, static
            if isinstance(inner, types.FunctionType):
                yield inner
        for value in list(vars(sys.modules.get(base.__module__, base)).values()):
            if isinstance(value, types.FunctionType) and value.__module__ is not None:
                if value.__module__.partition(".")[0] not in _LIBRARIES:
                    yield value


def _places(model: nn.Module) -> Iterator[Any]:
    """Yield the classes, and the globals of their functions, each once."""
    yield from _classes(model)
    yield from {id(f.__globals__): f.__globals__ for f in _functions(model)}.values()


def _captured(model: nn.Module) -> Iterator[Any]:
    """Yield what functions hold themselves: default arguments and closures."""
    for function in _functions(model):
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                yield cell.cell_contents


def _namespace(place: Any) -> MutableMapping[str, Any]:
    return place if isinstance(place, dict) else vars(place)
