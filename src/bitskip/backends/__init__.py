"""What takes a Program further: one folder (or module) a target, behind one small protocol.

A **backend** runs a Program in this process: a module with the two functions of `Backend`, made known by one
line in `BACKENDS`. `bitskip.runtime.Model` takes the first that supports the program.

`bitskip export` writes a packed model in another form. A target is a module with one object `TARGET` that
follows `ExportTarget`; one line in `EXPORT_TARGETS` makes it known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from bitskip.errors import RunError, check_one_of, nearest
from bitskip.program import Program

__all__ = [
    "BACKENDS",
    "EXPORT_TARGETS",
    "Backend",
    "ExportTarget",
    "Exported",
    "Images",
    "Run",
    "backend",
    "each_input",
    "export_target",
]

# name -> module with the functions of `Backend`, fastest first; imported only when it is asked for
BACKENDS: dict[str, str] = {
    "native": "bitskip.backends.native",
    "reference": "bitskip.backends.reference",
}

# name -> module with an object TARGET; imported only when it is asked for
EXPORT_TARGETS: dict[str, str] = {
    "onnx": "bitskip.backends.onnx",
    "qonnx": "bitskip.backends.onnx.qonnx_target",
    "c99": "bitskip.backends.c99",
    "npz": "bitskip.backends.npz",
}


# uint8 (N, H, W, C), of a program with several inputs one of each, in their order
Images = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]
# -> each output of the program, float32 (N, H, W, C)
Run = Callable[[Images], tuple[npt.NDArray[np.float32], ...]]


def each_input(images: Images) -> tuple[npt.NDArray[Any], ...]:
    """Return the batch of every input."""
    return images if isinstance(images, tuple) else (images,)


class Backend(Protocol):
    """One way of running a Program here: a module with these functions."""

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return why it cannot run `program` on this machine, one sentence a reason; empty if it can."""

    def build(self, program: Program, *, threads: int = 1) -> Run:
        """Return what runs batches of pictures; raises RunError if `supports` gave reasons."""


def backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        RunError: if there is none.
    """
    if name not in BACKENDS:
        known = ", ".join(("auto", *BACKENDS))
        raise RunError(f"engine is '{name}', expected one of {known}{nearest(name, BACKENDS)}")
    return cast(Backend, import_module(BACKENDS[name]))


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
    check_one_of(name, EXPORT_TARGETS, "--to is", RunError)
    return cast(ExportTarget, import_module(EXPORT_TARGETS[name]).TARGET)
