"""How the weights of a convolution stand in the file: as bits, int8 or float32.

1-bit weights are a stream of bits (O, I, KH, KW), I of a byte's bit 0 first, padded to whole bytes. `Gather`
takes each byte's eight bits out of a table of 256 rows, `Reshape` gives the kernel its shape and `Where` its
two values. All read constants alone, so an engine computes them once, when it loads the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitskip.backends.onnx.writer import Array, Writer
from bitskip.bits import unpack_signs
from bitskip.program import Conv2d

WEIGHTS = ("bits", "int8", "fp32")


def integer_weight(op: Conv2d, channels: int) -> Array:
    """Return the weights (O, I, KH, KW): int8, or float32 for real ones."""
    weight: Any = unpack_signs(op.weight, channels).astype(np.int8) if op.weight_dtype == "w1" else op.weight
    return np.ascontiguousarray(weight.transpose(0, 3, 1, 2))


def quantized(w: Writer, weight: Array, scale: Array, stored: str, unit: Array | None = None) -> str:
    """Return the dequantized weights, unit * weight * scale.

    Weights other than signs stand as uint8 with zero point 128: two products of a uint8 activation and an
    int8 weight may leave int16, in which x86 processors without VNNI add them up, and saturate silently.

    Args:
        w: takes the nodes.
        weight: int8 (O, I, KH, KW); +1 and -1 alone where `stored` is `bits`.
        scale: float32 (O,).
        stored: `bits` or `int8`.
        unit: what a filter's signs are multiplied by, uint8 (O,), or 0 for none; None for 1.
    """
    signs = bool((np.abs(weight) == 1).all())
    column = None if unit is None else unit.reshape(-1, 1, 1, 1)
    scales = w.constant(scale, "weight_scale")
    if not signs:
        q = w.constant((weight.astype(np.int16) + 128).astype(np.uint8), "weight")
        zeros = w.constant(np.full(len(weight), 128, np.uint8), "weight_zero")
        return w.node("DequantizeLinear", [q, scales, zeros], "weight_real", axis=0)
    if stored == "bits":
        q = signs_of_bits(w, weight, np.ones((1, 1, 1, 1), np.int8) if column is None else column)
    else:
        q = w.constant((weight * (1 if column is None else column)).astype(np.int8), "weight")
    return w.node("DequantizeLinear", [q, scales], "weight_real", axis=0)


def real(w: Writer, weight: Array, stored: str) -> str:
    """Return float32 weights (O, I, KH, KW); with `bits`, the magnitude of each filter's weights is one."""
    if stored != "bits":
        return w.constant(weight.astype(np.float32), "weight")
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float32)
    return quantized(w, np.where(weight < 0, -1, 1).astype(np.int8), scale, "bits")


def signs_of_bits(w: Writer, weight: Array, unit: Array) -> str:
    """Return int8 signs (O, I, KH, KW) times `unit` (O, 1, 1, 1), stored as bits.

    Engines fold no arithmetic on int8 constants, but they fold `Where`.
    """
    types = w.onnx.TensorProto
    flat = np.packbits(weight.reshape(-1) < 0, bitorder="little")
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    table = bits.astype(np.bool_)
    scope, w.scope = w.scope, ""
    signs = w.constant(table, "signs")  # (256, 8), of all layers
    w.scope = scope
    rows = w.node("Cast", [w.constant(flat, "bits")], "bytes", to=types.INT32)
    taken = w.node("Gather", [signs, rows], "signs", axis=0)  # (bytes, 8)
    if weight.size % 8:
        taken = w.node("Reshape", [taken, w.constant(np.array([-1]), "all")], "stream")
        ends = [w.constant(np.array([value]), what) for value, what in ((0, "start"), (weight.size, "end"))]
        taken = w.node("Slice", [taken, *ends], "used")
    negative = w.node("Reshape", [taken, w.constant(np.array(weight.shape), "shape")], "negative")
    ends = [w.constant((sign * unit.astype(np.int8)).astype(np.int8), "unit") for sign in (-1, 1)]
    return w.node("Where", [negative, *ends], "weight")
