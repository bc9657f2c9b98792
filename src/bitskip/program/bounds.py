"""The largest values that an op's accumulator and its integer epilogue can reach, whatever it reads."""

from __future__ import annotations

from bitskip.program.ops import Conv2d, IntegerEpilogue, Tensor


def accumulator_bound(op: Conv2d, tensors: tuple[Tensor, ...], input_bound: int = 0) -> int:
    """Return the largest |acc| that any input can reach, whatever the weights; 0 for a float accumulator.

    Args:
        op: the convolution.
        tensors: the program's tensors.
        input_bound: largest |value| of an i32 input.
    """
    source = tensors[op.input]
    taps = op.kernel[0] * op.kernel[1] * (source.shape[2] // op.groups)
    if source.dtype == "f32":
        return 0
    weight = 127 if op.weight_dtype == "i8" else 1
    return taps * weight * {"i8": 255, "bits": 1, "i32": input_bound}[source.dtype]


def integer_bound(epilogue: IntegerEpilogue, accumulator: int) -> int:
    """Return the largest |t| of an integer epilogue, rounding term included, for |acc| <= `accumulator`."""
    largest_m = max(abs(int(epilogue.multiplier.min())), abs(int(epilogue.multiplier.max())))
    largest_b = max(abs(int(epilogue.bias.min())), abs(int(epilogue.bias.max())))
    residual = 255 * abs(epilogue.residual_multiplier)
    return accumulator * largest_m + largest_b + residual + (1 << (epilogue.shift - 1))
