"""bitskip: small residual CNNs for edge devices, with 1-bit layers and fewer shortcuts.

Importing the package loads neither torch nor anything else that is slow.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
