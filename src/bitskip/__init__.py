"""bitskip: small residual CNNs for edge devices, with 1-bit layers and fewer shortcuts.

`bitskip.load("M.bitskip").predict(images)` runs a packed model. Importing the package loads neither torch nor
anything else that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitskip.program import Program
    from bitskip.runtime import Model, load

__all__ = ["Model", "Program", "__version__", "load"]

__version__ = "0.1.0"

_LAZY = {"Model": "bitskip.runtime", "Program": "bitskip.program", "load": "bitskip.runtime"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'bitskip' has no attribute '{name}'")
