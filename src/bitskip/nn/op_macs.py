"""Multiply-accumulates of one torch operator, from the shapes that it is given.

Counted are convolutions and matrix products; one fused multiply-add counts as one, padded taps included.
Elementwise operators, reductions and pools count none, as everywhere in the literature.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["NotCounted", "op_macs"]

# Operators that multiply and accumulate, for which there is no formula here.
_UNKNOWN = re.compile(r"rnn|lstm|gru|fft|cdist|_trilinear|conv_tbc|multi_head_attention|_transformer_")
_MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1}
_CONVOLUTIONS = ("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution")


class NotCounted(Exception):
    """The operator's MACs are unknown (which is not the same as none)."""


def op_macs(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the MACs of calling `func` (an aten overload) with `args`, which gave `out`.

    Raises:
        NotCounted: for an operator that may hold MACs and has no formula here: recurrent layers, Fourier
            transforms, and whatever does not come with torch itself.
    """
    space, _, name = func._schema.name.partition("::")
    name = name.rstrip("_") if not name.startswith("_") else name
    if space not in ("aten", "prim", "prims", "profiler", "c10"):
        raise NotCounted(str(func))
    if name in _CONVOLUTIONS:
        return _convolution(args, out)
    if name in _MATRIX_PRODUCTS:
        at = _MATRIX_PRODUCTS[name]
        left, right = args[at], args[at + 1]
        return int(left.numel() * (right.shape[-1] if right.dim() > 1 else 1))
    if name.startswith("_scaled_dot_product"):
        query, key, value = args[:3]  # (..., L, E), (..., S, E), (..., S, V)
        return int(query.numel() * key.shape[-2] + query.shape[:-1].numel() * key.shape[-2] * value.shape[-1])
    if _UNKNOWN.search(name):
        raise NotCounted(str(func))
    return 0


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    """Each output element of a convolution (each input element of a transposed one) meets weight[0] once.

    A weight has the shape (O, I / groups, kernel...), a transposed one (I, O / groups, kernel...).
    """
    inputs, weight, transposed = args[0], args[1], bool(args[6]) if len(args) > 6 else False
    return int((inputs if transposed else out).numel() * weight[0].numel())
