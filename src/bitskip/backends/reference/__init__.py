"""The numpy executor of a Program: slow, short, and the contract that every other runtime must meet.

It computes what docs/program.md says: integer values exactly; every float operation of an epilogue as one
rounded float32 operation. Only the sums of float accumulators are in an order of their own.

Inside, activations are (N, H, W, C) arrays; `bits` are bool, True meaning -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.backends import Images, Run, each_input
from bitskip.backends.reference.activation import activate
from bitskip.bits import unpack_signs
from bitskip.program import (
    Add,
    Affine,
    Array,
    AvgPool,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    Epilogue,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Lookup,
    MaxPool,
    Mul,
    Op,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
    Tensor,
    ThresholdEpilogue,
    inverse_scale,
    op_inputs,
    op_outputs,
)
from bitskip.program.bounds import accumulator_bound

__all__ = ["Reference", "build", "run_reference", "supports"]

Observer = Callable[[int, Array], None]

_CHUNK = 64  # pictures that `build`'s run takes at a time
_EXACT_IN_FLOAT32 = 1 << 24
_EXACT_IN_FLOAT64 = 1 << 53


def run_reference(
    program: Program, images: Images, *, observe: Observer | None = None
) -> npt.NDArray[np.float32]:
    """Run `program` on a batch.

    Args:
        program: the plan.
        images: uint8 pictures (N, H, W, C), or float32 ones that are normalised already; of a program with
            several inputs a tuple of these, in their order.
        observe: called with each tensor's number and its values (N, H, W, C) when they are written.

    Returns:
        float32 logits (N, classes).
    """
    return Reference(program).run(images, observe)


def supports(program: Program) -> tuple[str, ...]:
    """Return nothing: the reference runs every Program."""
    return ()


def build(program: Program, *, threads: int = 1) -> Run:
    """Return the reference's run of `program`, on pictures in small groups; `threads` is not used."""
    reference = Reference(program)

    def run(images: Images) -> tuple[npt.NDArray[np.float32], ...]:
        given = each_input(images)
        parts = [
            reference.run_all(tuple(array[at : at + _CHUNK] for array in given))
            for at in range(0, len(given[0]), _CHUNK)
        ]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    return run


class Reference:
    """`program` with its weights unpacked, ready to run; see `run_reference`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.weights = {
            number: _unpacked_weight(op, program.tensors[op.input].shape[2] // op.groups)
            for number, op in enumerate(program.ops)
            if isinstance(op, Conv2d)
        }
        self.last_read = {n: at for at, op in enumerate(program.ops) for n in op_inputs(op)}
        self.last_read |= {output.tensor: len(program.ops) for output in program.outputs}

    def run(self, images: Images, observe: Observer | None = None) -> npt.NDArray[np.float32]:
        """Return the first output of a batch, flattened: of a classifier the float32 logits (N, classes)."""
        first = self.run_all(images, observe)[0]
        return first.reshape(len(first), math.prod(first.shape[1:]))

    def run_all(self, images: Images, observe: Observer | None = None) -> tuple[npt.NDArray[np.float32], ...]:
        """Return every output of a batch, float32 (N, H, W, C) each; arguments as in `run_reference`."""
        program = self.program
        values: dict[int, Array] = dict(enumerate(each_input(images)))
        # A float may leave its range in a hostile file; what happens then is defined, so not worth a warning.
        with np.errstate(all="ignore"):
            for at, op in enumerate(program.ops):
                results = self._run_op(at, op, values)
                for number, result in zip(op_outputs(op), results, strict=True):
                    values[number] = result
                    if observe is not None:
                        observe(number, result)
                for number in op_inputs(op):
                    if self.last_read[number] == at:
                        values.pop(number, None)
        return tuple(values[output.tensor] for output in program.outputs)

    def _run_op(self, at: int, op: Op, values: dict[int, Array]) -> list[Array]:
        tensors = self.program.tensors
        x, source = values[op.input], tensors[op.input]
        results = [tensors[number] for number in op_outputs(op)]
        match op:
            case QuantizeInput():
                return [_quantize_input(op, x, results[0])]
            case Conv2d():
                acc = self._accumulate(at, op, x)
                return _finish(op.epilogue, acc, values, tensors, results)
            case Add() | Affine():
                acc = x if source.dtype == "f32" else x.astype(np.int64) - source.zero_point
                return _finish(op.epilogue, acc, values, tensors, results)
            case Binarize():
                if source.dtype == "i8":
                    return [_beyond(x, op.q_threshold, op.flip)]
                return [_negative(x, op.threshold)]
            case MaxPool():
                return [_max_pool(op, x, results[0].shape)]
            case AvgPool():
                return [_avg_pool(op, x, results[0].shape)]
            case GlobalAvgPool():
                return [_global_avg_pool(x, source)]
            case Concat():
                return [np.concatenate([values[number] for number in op.inputs], axis=-1)]
            case Resize():
                return [_resize(x, results[0].shape)]
            case Bilinear():
                return [_bilinear(x, results[0].shape)]
            case Mul():
                return _finish(op.epilogue, _product(op, values, tensors), values, tensors, results)
            case Lookup():
                return [op.table[x.astype(np.int64) + 128]]
            case Quantize():
                return [_to_i8(x, results[0])]
            case Dequantize():
                return [(x.astype(np.float32) - np.float32(source.zero_point)) * np.float32(source.scale)]

    def _accumulate(self, at: int, op: Conv2d, x: Array) -> Array:
        """Return the accumulator (N, OH, OW, O): float32, or int64 with exact values."""
        tensors = self.program.tensors
        source, weight = tensors[op.input], self.weights[at]  # (KH, KW, I, O) float32
        if source.dtype == "i32":
            sums: Array = x.astype(np.int64) @ weight[0, 0].astype(np.int64)
            return sums
        exact: Any = np.float32
        if source.dtype != "f32":
            # Products of integers summed by a float matrix product: exact while every sum is.
            bound = accumulator_bound(op, tensors)
            exact = np.float32 if bound < _EXACT_IN_FLOAT32 else np.float64
            assert bound < _EXACT_IN_FLOAT64
        if source.dtype == "bits":
            x = np.where(x, exact(-1), exact(1))
        elif source.dtype == "i8":
            x = x.astype(exact) - exact(source.zero_point)
        acc = _convolve(x, weight.astype(exact), op, tensors[op.outputs[0]].shape)
        return acc if source.dtype == "f32" else acc.astype(np.int64)


def _unpacked_weight(op: Conv2d, channels: int) -> npt.NDArray[np.float32]:
    """Return the weights as float32 (KH, KW, I / groups, O)."""
    weight = unpack_signs(op.weight, channels) if op.weight_dtype == "w1" else op.weight.astype(np.float32)
    return np.ascontiguousarray(weight.transpose(1, 2, 3, 0))


def _convolve(x: Array, weight: Array, op: Conv2d, shape: tuple[int, int, int]) -> Array:
    """Sum over the taps of the kernel, each a matrix product; `pad_value` stands outside the picture."""
    (pad_y, pad_x), (step_y, step_x) = op.padding, op.stride
    height, width, out_channels = shape
    x = np.pad(
        x, ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=x.dtype.type(op.pad_value)
    )
    acc = np.zeros((len(x) * height * width, out_channels), x.dtype)
    for ky in range(weight.shape[0]):
        for kx in range(weight.shape[1]):
            top, left = ky * op.dilation[0], kx * op.dilation[1]
            rows = slice(top, top + (height - 1) * step_y + 1, step_y)
            columns = slice(left, left + (width - 1) * step_x + 1, step_x)
            tap = x[:, rows, columns]
            if op.groups == 1:
                acc += tap.reshape(-1, tap.shape[-1]) @ weight[ky, kx]
            else:
                acc += _grouped(tap, weight[ky, kx], op.groups)
    return acc.reshape(len(x), height, width, out_channels)


def _grouped(tap: Array, weight: Array, groups: int) -> Array:
    """One matrix product a group: (N, OH, OW, I) by (I / groups, O) to (N * OH * OW, O)."""
    inputs, outputs = weight.shape
    parts = tap.reshape(-1, groups, inputs).transpose(1, 0, 2)  # (G, pixels, I / G)
    by_group = weight.reshape(inputs, groups, outputs // groups).transpose(1, 0, 2)  # (G, I / G, O / G)
    made: Array = (parts @ by_group).transpose(1, 0, 2).reshape(-1, outputs)
    return made


def _product(op: Mul, values: dict[int, Array], tensors: tuple[Tensor, ...]) -> Array:
    x, factor = values[op.input], values[op.factor]  # (N, H, W, C), (N, 1, 1, C)
    if x.dtype == np.float32:
        return x * factor
    shifted = [values[n].astype(np.int64) - tensors[n].zero_point for n in (op.input, op.factor)]
    return shifted[0] * shifted[1]


def _resize(x: Array, shape: tuple[int, int, int]) -> Array:
    (height, width), (rows, columns, _) = x.shape[1:3], shape
    return x[:, np.arange(rows) * height // rows][:, :, np.arange(columns) * width // columns]


def _bilinear(x: Array, shape: tuple[int, int, int]) -> Array:
    """Along the width first, then along the height; every operation is one rounded float32 operation."""

    def between(size: int, count: int) -> tuple[Array, Array, Array, Array]:
        step = np.float32(size) / np.float32(count)
        at = np.fmax(
            (np.arange(count, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5), np.float32(0)
        )
        low = np.minimum(at.astype(np.int64), size - 1)
        share = at - low.astype(np.float32)
        return low, np.minimum(low + 1, size - 1), np.float32(1) - share, share

    left, right, of_left, of_right = between(x.shape[2], shape[1])
    x = x[:, :, left] * of_left[:, None] + x[:, :, right] * of_right[:, None]
    above, below, of_above, of_below = between(x.shape[1], shape[0])
    made: Array = x[:, above] * of_above[:, None, None] + x[:, below] * of_below[:, None, None]
    return made


# -- epilogues ----------------------------------------------------------------------------------------


def _finish(
    epilogue: Epilogue,
    acc: Array,
    values: dict[int, Array],
    tensors: tuple[Tensor, ...],
    results: list[Tensor],
) -> list[Array]:
    """Apply an epilogue to the accumulator (N, H, W, C); return one array an output."""
    if isinstance(epilogue, ThresholdEpilogue):
        return [_beyond(acc, epilogue.threshold, epilogue.flip)]
    if isinstance(epilogue, IntegerEpilogue):
        return [_integer_epilogue(epilogue, acc, values, tensors, results[0])]
    y = float_epilogue(epilogue, acc, None if epilogue.residual is None else values[epilogue.residual])
    return [_written(y, result, epilogue) for result in results]


def _written(y: Array, result: Tensor, epilogue: FloatEpilogue) -> Array:
    if result.dtype == "bits":
        return _negative(y, epilogue.threshold)
    return _to_i8(y, result) if result.dtype == "i8" else y


def float_epilogue(epilogue: FloatEpilogue, acc: Array, residual: Array | None) -> npt.NDArray[np.float32]:
    """Return y, steps 1 to 4 of the float epilogue, each operation rounded to float32."""
    y = acc.astype(np.float32)
    if epilogue.scale is not None:
        y = y * epilogue.scale
    if epilogue.bias is not None:
        y = y + epilogue.bias
    y = activate(epilogue.pre, y)
    if residual is not None:
        y = y + residual
    return activate(epilogue.post, y)


def _beyond(acc: Array, threshold: Any, flip: Any) -> Array:
    negative: Array = ~((acc >= threshold) ^ flip)
    return negative


def _negative(y: Array, threshold: Array | None) -> Array:
    return ~(y >= 0) if threshold is None else ~(y - threshold >= 0)


def _to_i8(y: Array, result: Tensor) -> npt.NDArray[np.int8]:
    q = np.rint(y * inverse_scale(result.scale)) + np.float32(result.zero_point)
    clamped: npt.NDArray[np.int8] = np.fmin(np.fmax(q, np.float32(-128)), np.float32(127)).astype(np.int8)
    return clamped


def _integer_epilogue(
    epilogue: IntegerEpilogue,
    acc: Array,
    values: dict[int, Array],
    tensors: tuple[Tensor, ...],
    result: Tensor,
) -> npt.NDArray[np.int8]:
    t = acc * epilogue.multiplier.astype(np.int64) + epilogue.bias
    if epilogue.pre_relu:
        t = np.maximum(t, 0)
    if epilogue.residual is not None:
        r = values[epilogue.residual].astype(np.int64) - tensors[epilogue.residual].zero_point
        t = t + r * np.int64(epilogue.residual_multiplier)
    if epilogue.post_relu:
        t = np.maximum(t, 0)
    q = ((t + (1 << (epilogue.shift - 1))) >> epilogue.shift) + result.zero_point
    clipped: npt.NDArray[np.int8] = np.clip(q, -128, 127).astype(np.int8)
    return clipped


# -- input and pools ----------------------------------------------------------------------------------


def _quantize_input(op: QuantizeInput, x: Array, result: Tensor) -> Array:
    if x.dtype == np.float32:  # normalised already
        return x if op.table is None else _to_i8(x, result)
    if op.table is not None:
        table: Array = op.table[np.arange(x.shape[-1]), x]
        return table
    normalised: Array = x.astype(np.float32) * np.asarray(op.scale) + np.asarray(op.bias)
    return normalised


def _windows(
    x: Array, op: MaxPool | AvgPool, shape: tuple[int, int, int], outside: float
) -> npt.NDArray[Any]:
    """Return the windows' taps, (KH*KW, N, OH, OW, C); `outside` stands beyond the picture."""
    (pad_y, pad_x), (step_y, step_x) = op.padding, op.stride
    height, width, _ = shape
    after_y = max(0, (height - 1) * step_y + op.kernel[0] - x.shape[1] - pad_y)
    after_x = max(0, (width - 1) * step_x + op.kernel[1] - x.shape[2] - pad_x)
    x = np.pad(x, ((0, 0), (pad_y, after_y), (pad_x, after_x), (0, 0)), constant_values=outside)
    return np.stack(
        [
            x[:, ky : ky + (height - 1) * step_y + 1 : step_y, kx : kx + (width - 1) * step_x + 1 : step_x]
            for ky in range(op.kernel[0])
            for kx in range(op.kernel[1])
        ]
    )


def _max_pool(op: MaxPool, x: Array, shape: tuple[int, int, int]) -> Array:
    lowest = -128 if x.dtype == np.int8 else -np.inf
    largest: Array = _windows(x, op, shape, lowest).max(axis=0)
    return largest


def _avg_pool(op: AvgPool, x: Array, shape: tuple[int, int, int]) -> Array:
    total = _windows(x, op, shape, 0).sum(axis=0, dtype=np.float32)
    count = np.full(shape[:2], op.kernel[0] * op.kernel[1], np.float32)
    if not op.count_padding:
        inside = _windows(np.ones((1, *x.shape[1:3], 1), np.float32), op, shape, 0).sum(axis=0)
        count = inside[0, :, :, 0]
    mean: Array = total * (np.float32(1) / count)[:, :, None]
    return mean


def _global_avg_pool(x: Array, source: Tensor) -> Array:
    height, width, _ = source.shape
    if source.dtype == "i8":
        total: Array = (x.astype(np.int64) - source.zero_point).sum(axis=(1, 2), keepdims=True)
        return total.astype(np.int32)
    share = np.float32(1) / np.float32(height * width)
    mean: Array = x.sum(axis=(1, 2), keepdims=True, dtype=np.float32) * share
    return mean
