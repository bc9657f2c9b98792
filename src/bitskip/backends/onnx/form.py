"""What the export targets of ONNX share: the options they take, and one file written from a ModelProto."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from bitskip.backends import Exported
from bitskip.backends.onnx.convert import Converter
from bitskip.backends.onnx.description import OPSET, strange_tables
from bitskip.errors import RunError
from bitskip.files import write_bytes
from bitskip.program import Program

C = TypeVar("C", bound=Converter)


class OnnxForm(ABC, Generic[C]):
    """One form of ONNX, written by a converter of its own."""

    name: str
    summary: str
    weights: str  # what 1-bit weights stand as, unless asked otherwise
    options = frozenset({"binary-weights", "input", "rounding"})

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return why `program` cannot be written: each op has a counterpart, so there is nothing."""
        return ()

    @abstractmethod
    def convert(self, program: Program, *, weights: str, pictures: str, rounding: str) -> tuple[Any, C]:
        """Return `program` as a ModelProto, and what wrote it."""

    @abstractmethod
    def told(self, program: Program, converter: C) -> tuple[list[str], dict[str, Any]]:
        """Return what a reader should know, a sentence each, and JSON values."""

    def export(self, program: Program, out: Path, options: Mapping[str, Any]) -> Exported:
        """Write one `.onnx` file.

        Raises:
            RunError: if the file cannot be written, onnx is missing or an option is strange.
        """
        pictures = str(options.get("input", "normalised"))
        strange = strange_tables(program) if pictures == "normalised" else []
        if strange:
            raise RunError("; ".join(strange))
        asked = {
            "weights": str(options.get("binary-weights", self.weights)),
            "rounding": str(options.get("rounding", "auto")),
        }
        model, converter = self.convert(program, pictures=pictures, **asked)
        content = model.SerializeToString(deterministic=True)
        write_bytes(out, content)
        lines, facts = self.told(program, converter)
        shared = {"to": self.name, "bytes": len(content), "opset": OPSET, "input": pictures, **asked}
        return Exported((out,), tuple(lines), shared | facts)
