"""A Program as standard ONNX: `bitskip export --to onnx` (docs/onnx.md).

Integer layers become QDQ that engines fuse into their int8 kernels; 1-bit weights stay one bit on disk.
"""

from __future__ import annotations

from bitskip.backends.onnx.target import TARGET

__all__ = ["TARGET"]
