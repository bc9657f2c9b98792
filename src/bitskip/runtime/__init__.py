"""Running packed networks with numpy alone: `Model` over the backends, accuracy, and what a file holds."""

from __future__ import annotations

from bitskip.backends.reference import run_reference
from bitskip.runtime.model import Model, Prediction, load

__all__ = ["Model", "Prediction", "load", "run_reference"]
