"""Networks from a user's own Python file: `FILE.py:CALLABLE`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from bitskip.errors import SpecError, in_one_line, nearest

_CLASSES = ("num_classes", "classes", "n_classes")


def build_from_file(path: Path, name: str, classes: int | None = None) -> nn.Module:
    """Run a Python file and return the module that its callable `name` returns.

    The file runs as any program does: name only files that you trust. Modules beside it can be imported.

    Args:
        path: the file.
        name: a class or function that returns an `nn.Module`, or an `nn.Module` itself.
        classes: given to its argument `num_classes`, `classes` or `n_classes`; None for its default.

    Raises:
        SpecError: if the file fails, has no such name, or yields no module; or its callable takes no number
            of classes.
    """
    where = f"{path}:{name}"
    namespace = _run(path)
    if name not in namespace:
        known = [key for key, value in namespace.items() if callable(value) and not key.startswith("_")]
        raise SpecError(f"{path} does not define '{name}'{nearest(name, known)}")
    value = namespace[name]
    if isinstance(value, nn.Module):
        if classes is not None:
            raise SpecError(f"{where} is a module already, so it takes no number of classes")
        return value
    if not callable(value):
        raise SpecError(f"{where} is a {type(value).__name__}, expected a callable that returns an nn.Module")
    options = {}
    if classes is not None:
        keyword = _keyword(value)
        if keyword is None:
            raise SpecError(f"{where} takes no argument {', '.join(_CLASSES)}, so --classes does not apply")
        options[keyword] = classes
    try:
        model = value(**options)
    except Exception as error:  # the user's own code
        raise SpecError(f"{where} failed: {type(error).__name__}: {in_one_line(error)}") from None
    if not isinstance(model, nn.Module):
        raise SpecError(f"{where} returned a {type(model).__name__}, expected an nn.Module")
    return model


def picture_shape(model: nn.Module, where: str, input_size: int | None) -> tuple[int, int, int]:
    """Return (C, H, W) of the pictures that a user's module takes.

    The size is `input_size`, or the module's own attribute `input_size`; channels are those of its first
    convolution.

    Raises:
        SpecError: if nothing says the size.
    """
    own: Any = getattr(model, "input_size", None)
    size = input_size or (own if isinstance(own, int) else None)
    if size is None or size < 1:
        raise SpecError(f"{where} does not say the size of its pictures; give --input-size PIXELS")
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return (3 if first is None else first.in_channels, size, size)


def _run(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"_bitskip_source_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[spec.name] = module  # dataclasses and pickles look for it there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise SpecError(f"{path} failed: {type(error).__name__}: {in_one_line(error)}") from None
    finally:
        sys.path.remove(folder)
    return vars(module)


def _keyword(value: Any) -> str | None:
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in _CLASSES if name in parameters), None)
