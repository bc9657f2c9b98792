"""Constants as C: exact, aligned, and short enough to read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_TYPES = {
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint32": "uint32_t",
    "float32": "float",
}
_WIDTH = 118


def identifier(name: str) -> str:
    """Return a layer's name as a part of a C identifier."""
    return re.sub(r"\W+", "_", name).strip("_")


def float_literal(value: float) -> str:
    """Return a float32 as an exact C99 literal."""
    return f"{float(np.float32(value)).hex()}f"


@dataclass
class Constants:
    """The constant arrays of a network, in the order in which they were added."""

    texts: list[str] = field(default_factory=list)
    size: int = 0  # bytes
    _known: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def add(self, name: str, values: npt.NDArray[np.generic], comment: str) -> str:
        """Add an array and return its name; an equal array that is there already is used again."""
        flat = np.ascontiguousarray(values).reshape(-1)
        kind = str(flat.dtype)
        known = self._known.get((kind, flat.tobytes()))
        if known is not None:
            return known
        self._known[kind, flat.tobytes()] = name
        self.size += flat.nbytes
        self.texts.append(
            f"/* {comment} */\nstatic const {_TYPES[kind]} {name}[{flat.size}] = {{\n{_rows(flat)}\n}};\n"
        )
        return name

    def add_rows(
        self, name: str, c_type: str, rows: npt.NDArray[np.int64], row_bytes: int, comment: str
    ) -> str:
        """Add an array of structs of `row_bytes`, one a row of integers (n, fields)."""
        self.size += row_bytes * len(rows)
        body = ",\n".join(f"    {{ {', '.join(map(str, row.tolist()))} }}" for row in rows)
        self.texts.append(f"/* {comment} */\nstatic const {c_type} {name}[{len(rows)}] = {{\n{body}\n}};\n")
        return name


def _rows(values: npt.NDArray[np.generic]) -> str:
    words = [_literal(value) for value in values]
    lines: list[str] = []
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    return "\n".join(lines).rstrip(",")


def _literal(value: np.generic) -> str:
    kind = value.dtype.name
    if kind == "float32":
        return float_literal(float(value.item()))
    number = int(value.item())
    if kind == "uint32":
        return f"0x{number:08x}u"
    if kind == "int64":
        return f"{number}LL"  # |value| < 2^62
    return "-2147483647 - 1" if number == -(2**31) else str(number)
