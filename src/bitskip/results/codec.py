"""Frozen dataclasses from JSON values and back: the one reader of the files that commands write.

msgspec checks the values against the annotations. Here its findings become sentences that name the file, the
key, what was got and what was expected; a key that no field has is refused, and the nearest one named.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import types
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from bitskip.errors import FileFormatError, nearest

T = TypeVar("T")

_MOST = sys.float_info.max
Text = Annotated[str, Meta(min_length=1, description="a non-empty string")]
Count = Annotated[int, Meta(ge=0, description="a whole number of at least 0")]
Positive = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Amount = Annotated[float, Meta(ge=0, le=_MOST, description="a finite number of at least 0")]
Factor = Annotated[float, Meta(gt=0, le=_MOST, description="a finite number above 0")]

if TYPE_CHECKING:
    Loss = float
else:

    class Loss(float):
        """A number that may not be finite: then it is written as null, and read back as NaN."""


_LOSS = "a number, or null where it was not finite"
_WORDS = {
    "object": "a JSON object", "array": "a list", "str": "a string", "int": "a whole number",
    "float": "a number", "bool": "true or false", "null": "null",
}  # fmt: skip


def decode(kind: type[T], values: object, source: str, tag: tuple[str, int] | None = None) -> T:
    """Return `values` as a `kind`.

    Args:
        kind: a dataclass; its annotations are the format.
        values: what a JSON file holds.
        source: the file's name, for messages.
        tag: the key that says which format it is, and its version.

    Raises:
        FileFormatError: for another version, a missing or unknown key, or a value that does not fit.
    """
    if not isinstance(values, dict):
        raise FileFormatError(f"{source}: expected a JSON object, got {_kind(values)}")
    if tag is not None:
        key, expected = tag
        if key not in values:
            raise FileFormatError(f"{source}: key '{key}' is missing")
        version = values[key]
        if version != expected or isinstance(version, bool):
            raise FileFormatError(
                f'{source}: "{key}" is {version!r}, expected {expected}; is this a file of this version?'
            )
        values = {name: value for name, value in values.items() if name != key}
    try:
        made = msgspec.convert(values, kind, dec_hook=_other)
    except msgspec.ValidationError as error:
        raise FileFormatError(_sentence(str(error), kind, values, source)) from None
    _refuse_unknown(kind, values, source)
    return made


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into JSON values, and what is not finite into None."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _other(kind: Any, value: Any) -> Any:
    if kind is not Loss or isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(_LOSS)
    return Loss(math.nan if value is None else value)


# -- sentences ----------------------------------------------------------------------------------------


def _sentence(message: str, kind: Any, values: Any, source: str) -> str:
    """Say what msgspec found (`Expected ... - at `$.rows[0].seed``) in the words of this house."""
    found, _, path = message.partition(" - at `$")
    steps: list[str | int] = [
        int(index) if index.isdecimal() else name for name, index in re.findall(r"\.(\w+)|\[([^\]]*)\]", path)
    ]
    where, key = source, ""
    for step in steps:
        if isinstance(step, int):
            key += f"[{step}]"
        else:
            where, key = (f"{where}: {key}" if key else where), step
    if "missing required field" in found:
        where = f"{where}: {key}" if key else where
        return f"{where}: key '{found.split('`')[1]}' is missing"
    try:
        for step in steps:
            kind, values = _inside(kind, step), values[step]
    except (KeyError, IndexError, TypeError):  # a free mapping's key: msgspec does not name it
        return f"{where}: {key}: {found}"
    expected = _expected(kind, found)
    if isinstance(steps[-1], int) and expected == _WORDS["object"]:
        return f"{where}: {key}: expected {expected}, got {_kind(values)}"
    shown = repr(values) if len(repr(values)) <= 60 else _kind(values)
    return f"{where}: {key} is {shown}, expected {expected}"


def _expected(kind: Any, found: str) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
    for part in (kind, *members):
        if part is Loss:
            return _LOSS
        for meta in getattr(part, "__metadata__", ()):
            if meta.description:
                return str(meta.description)
    named = re.match(r"Expected `([^`]*)`(.*?)(, got .*)?$", found)
    if named is None:
        return found[:1].lower() + found[1:]
    words = " or ".join(_WORDS.get(word, word) for word in named[1].split(" | "))
    return words + named[2]


def _inside(kind: Any, step: str | int) -> Any:
    """Return the annotation of a field or an item."""
    kind = _bare(kind)
    if dataclasses.is_dataclass(kind):
        return get_type_hints(kind, include_extras=True)[str(step)]
    given = [part for part in get_args(kind) if part is not Ellipsis]
    if isinstance(step, int):
        return given[step if len(given) > step and get_args(kind)[-1] is not Ellipsis else 0]
    return given[-1]


def _bare(kind: Any) -> Any:
    """Return an annotation without what is around it: constraints, and `| None`."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def _refuse_unknown(kind: Any, values: Any, where: str) -> None:
    kind = _bare(kind)
    if isinstance(values, list):
        item = [part for part in get_args(kind) if part is not Ellipsis]
        for at, value in enumerate(values if item else ()):
            _refuse_unknown(item[0], value, f"{where}[{at}]")
    elif isinstance(values, dict) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for key, value in values.items():
            if key not in hints:
                raise FileFormatError(f"{where}: unknown key '{key}'{nearest(key, hints)}")
            _refuse_unknown(hints[key], value, f"{where}: {key}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
