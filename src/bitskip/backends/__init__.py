"""What takes a Program further: one folder (or module) a target, behind one small protocol.

`bitskip export` writes a packed model in another form. A target is a module with one object `TARGET` that
follows `ExportTarget`; one line in `EXPORT_TARGETS` makes it known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from bitskip.errors import RunError, nearest
from bitskip.program import Program

__all__ = ["EXPORT_TARGETS", "ExportTarget", "Exported", "export_target"]

# name -> module with an object TARGET; imported only when it is asked for
EXPORT_TARGETS: dict[str, str] = {}


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    files: tuple[Path, ...]  # the first is the one to open
    lines: tuple[str, ...] = ()  # what a reader should know, a sentence each
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values, for `--json`


class ExportTarget(Protocol):
    """One form that a packed model can be written in."""

    name: str
    summary: str  # one line for `bitskip export --help`
    options: frozenset[str]  # which of the command's options it understands

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return why it cannot be exported, one sentence a reason, each naming the layer; empty if it can."""

    def export(self, program: Program, out: Path, options: Mapping[str, Any]) -> Exported:
        """Write `program` to `out`: whole, or not at all."""


def export_target(name: str) -> ExportTarget:
    """Return the target of that name.

    Raises:
        RunError: if there is none.
    """
    if name not in EXPORT_TARGETS:
        known = ", ".join(EXPORT_TARGETS) or "none"
        raise RunError(f"--to is '{name}', expected one of {known}{nearest(name, EXPORT_TARGETS)}")
    return cast(ExportTarget, import_module(EXPORT_TARGETS[name]).TARGET)
