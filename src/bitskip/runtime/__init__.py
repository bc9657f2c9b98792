"""Running packed networks with numpy alone: the reference executor, the native engine, and `Model`."""

from __future__ import annotations

from bitskip.runtime.model import Model, Prediction, load
from bitskip.runtime.reference import run_reference

__all__ = ["Model", "Prediction", "load", "run_reference"]
