"""An ONNX file to the graph that is lowered, or to a Program: `bitskip import` (docs/onnx.md)."""

from __future__ import annotations

from bitskip.lower.from_onnx.program import import_onnx

__all__ = ["import_onnx"]
