"""What is proven about a program's integers when it is exported, so that its C needs no wider numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitskip.program import (
    Add,
    Affine,
    Array,
    Conv2d,
    FloatEpilogue,
    IntegerEpilogue,
    Mul,
    Program,
    op_outputs,
)
from bitskip.program.bounds import accumulator_bound

_SAFE = (2.0**-100, 2.0**60)  # float32 scales of logits with which every result is 0 or a normal number


def _bound(op: Conv2d | Add | Affine | Mul, program: Program) -> int:
    """Return a bound of |acc|."""
    if isinstance(op, Conv2d):
        return accumulator_bound(op, program.tensors)
    return 255 * 255 if isinstance(op, Mul) else 255


def reach(op: Conv2d | Add | Affine | Mul, epilogue: IntegerEpilogue, program: Program) -> int:
    """Return a bound of |t| after rounding is added."""
    acc = _bound(op, program)
    largest = int(np.abs(epilogue.multiplier.astype(np.int64)).max())
    bias = int(np.abs(epilogue.bias.astype(np.int64)).max())
    return acc * largest + bias + 255 * abs(epilogue.residual_multiplier) + (1 << (epilogue.shift - 1))


def room_above(epilogue: IntegerEpilogue) -> int:
    """Return by how much an epilogue can be scaled so that its shift is at least 32; 0 if it cannot."""
    by = max(0, 32 - epilogue.shift)
    largest = max(abs(epilogue.residual_multiplier), int(np.abs(epilogue.multiplier.astype(np.int64)).max()))
    bias = int(np.abs(epilogue.bias.astype(np.int64)).max())
    return by if largest << by < 2**31 and bias << by < 2**60 else 0  # |acc * multiplier| < 2^62


def shared_bias(bias: Array) -> tuple[npt.NDArray[np.int32], int] | None:
    """Return biases as int32 times a power of two below 2^31, if they all can be written so."""
    values = bias.astype(np.int64)
    nonzero = values[values != 0]
    step = int(np.bitwise_and(nonzero, -nonzero).min()) if len(nonzero) else 1
    step = min(step, 1 << 30)
    shared = values // step
    if np.abs(shared).max() >= 2**31:
        return None
    return shared.astype(np.int32), step


def digits_of(values: Array) -> npt.NDArray[np.int64]:
    """Return (3, n): values in digits of 11 bits, the lowest first; the last has the sign."""
    v = values.astype(np.int64)
    return np.stack([v & 2047, (v >> 11) & 2047, v >> 22])


def digits_fit(program: Program) -> bool:
    """Whether every integer epilogue can be computed in digits of 11 bits without leaving 32 bits."""
    for op in program.ops:
        if not isinstance(op, Conv2d | Add | Affine | Mul) or not isinstance(op.epilogue, IntegerEpilogue):
            continue
        if op.epilogue.shift < 23:
            return False
        acc, e = _bound(op, program), op.epilogue
        if (acc + 256) * 2047 + 4 * 2048 >= 2**31 - (
            acc + 256
        ):  # a lower digit, with what is carried into it
            return False
        high = int(np.abs(digits_of(e.multiplier)[2]).max()), int(np.abs(digits_of(e.bias)[2]).max())
        residual = 255 * (abs(e.residual_multiplier >> 22) + 2)
        after = 257 << (e.shift - 22)  # what rounds, and the zero point of the result
        if acc * high[0] + high[1] + 2 * acc + residual + after >= 2**31:
            return False
    return True


def integer_logits(op: Conv2d, program: Program) -> bool:
    """Whether `op` gives the logits, and they can be computed exactly by integers alone."""
    e = op.epilogue
    if op_outputs(op) != (program.output,) or not isinstance(e, FloatEpilogue) or e.scale is None:
        return False
    if e.residual is not None or e.pre.kind != "none" or e.post.kind != "none":
        return False
    constants = np.concatenate([e.scale] if e.bias is None else [e.scale, e.bias])
    sizes = np.abs(constants[constants != 0])
    return not len(sizes) or bool(sizes.min() >= _SAFE[0] and sizes.max() <= _SAFE[1])
