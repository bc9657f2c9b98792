"""Activations as docs/program.md says them: each operation is one rounded float32 operation, none is fused.

So are `exp` and what is made of it: any target that does these steps gets these bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.program.ops import Activation

Floats = npt.NDArray[np.float32]

_F = np.float32
_LOG2_E = _F(1 / math.log(2))
_LN2_HIGH = _F(355 / 512)  # few bits: n * it is exact
_LN2_LOW = _F(math.log(2) - 355 / 512)
_TERMS = tuple(_F(1 / math.factorial(k)) for k in range(7, -1, -1))  # exp's Taylor series, highest first
_MOST = _F(87)  # exp of it and of its negative are normal float32


def exponential(x: Floats) -> Floats:
    """Return exp(x), within 2 ulp, of float32 values; beyond -87..87 that of the nearest end, NaN as -87.

    x = n * ln 2 + r with n = rint(x * log2 e); r = (x - n * high) - n * low; the series in r by Horner;
    times 2^n, which is exact.
    """
    x = np.where(x > -_MOST, x, -_MOST)
    x = np.where(x < _MOST, x, _MOST)
    n = np.rint(x * _LOG2_E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total: Floats = np.full_like(r, _TERMS[0])
    for term in _TERMS[1:]:
        total = total * r + term
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    made: Floats = total * power
    return made


def sigmoid(y: Floats) -> Floats:
    """Return 1 / (1 + exp(-y))."""
    made: Floats = _F(1) / (_F(1) + exponential(-y))
    return made


def _relu6(y: Floats) -> Floats:
    z = np.where(y > 0, y, _F(0))
    return np.where(z < 6, z, _F(6))


def activate(activation: Activation, y: Floats) -> Floats:
    """Return the activation of float32 values (N, H, W, C)."""
    made: Any = y
    match activation.kind:
        case "relu":
            made = np.where(y > 0, y, _F(0))
        case "prelu":
            made = np.where(y >= 0, y, y * np.asarray(activation.slope))
        case "rprelu":
            z = y - np.asarray(activation.shift_in)
            made = np.where(z >= 0, z, z * np.asarray(activation.slope)) + np.asarray(activation.shift_out)
        case "relu6":
            made = _relu6(y)
        case "sigmoid":
            made = sigmoid(y)
        case "hard_sigmoid":
            made = _relu6(y + _F(3)) * _F(1 / 6)
        case "hard_swish":
            made = y * _relu6(y + _F(3)) * _F(1 / 6)
        case "silu":
            made = y * sigmoid(y)
    return np.asarray(made, np.float32)
