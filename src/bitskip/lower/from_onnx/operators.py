"""ONNX operators as recorded ops: one function an operator, given the node's attributes and its values.

A value is `Traced` if it depends on the picture, `Coded` if it was quantized, else a numpy constant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bitskip.lower.folding import array
from bitskip.lower.forms import Quantization
from bitskip.lower.from_onnx.signs import (
    at_least,
    chosen,
    one_magnitude,
    padded,
    signs_conv,
    signs_of,
    signs_real,
    turned,
)
from bitskip.lower.from_onnx.values import Attributes, Coded, Reader, Signs, pads, tensor
from bitskip.lower.graph import AddNode, ConcatNode, MulNode, PoolNode, node_inputs
from bitskip.lower.recorded import (
    BATCH,
    RecordedActivation,
    RecordedAffine,
    Traced,
)
from bitskip.lower.torch_activations import activate, prelu
from bitskip.lower.torch_ops import FUNCTIONS, METHODS, batch_norm, convolve, linear
from bitskip.program import Activation

Handler = Callable[..., Any]


def _conv(reader: Reader, a: Attributes, x: Traced | Signs, weight: Any, bias: Any = None) -> Traced:
    if np.ndim(weight) != 4 or isinstance(weight, Traced):
        reader.record.refuse(f"has weights of {np.ndim(weight)} dimensions, expected (O, I, KH, KW)")
    kernels = np.asarray(weight, np.float32)
    if isinstance(x, Signs):
        y = signs_conv(reader, a, x, kernels)
    else:
        y = _real_conv(reader, a, x, kernels)
    return y if bias is None else _binary(operator.add)(reader, {}, y, np.asarray(bias).reshape(-1, 1, 1))


def _real_conv(reader: Reader, a: Attributes, x: Traced, kernels: Any) -> Traced:
    before, after = pads(reader, a)
    if before != after:
        reader.record.refuse(f"has pads {before} before and {after} after, expected the same")
    # Weights of one magnitude a filter are signs and a scale: what bitskip stores as 1 bit.
    magnitude = one_magnitude(kernels) if a.get("group", 1) == 1 and kernels[0].size > 1 else None
    how = {
        "stride": tuple(a.get("strides", (1, 1))),
        "padding": before,
        "dilation": tuple(a.get("dilations", (1, 1))),
        "groups": a.get("group", 1),
    }
    if magnitude is None:
        return convolve(reader.record, x, tensor(kernels), None, precision="fp32", **how)
    y = convolve(reader.record, x, signs_of(kernels), None, precision="w1", **how)
    if (magnitude == 1).all():
        return y
    scale = tensor(magnitude)
    column = scale.view(1, -1, 1, 1)
    return reader.record.affine(y, scale, None, lambda acc: acc * column)


def _gemm(reader: Reader, a: Attributes, x: Traced, weight: Any, bias: Any = None) -> Traced:
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        reader.record.refuse("has transA, alpha or beta, expected x * weight + bias")
    weight = np.asarray(weight, np.float32)
    kernel = weight if a.get("transB", 0) else weight.T
    y = linear(reader.record, x, tensor(kernel))
    return y if bias is None else _binary(operator.add)(reader, {}, y, np.asarray(bias).reshape(-1))


def _matmul(reader: Reader, a: Attributes, x: Traced, weight: Any) -> Traced:
    return _gemm(reader, {}, x, weight)


def _batch_norm(
    reader: Reader, a: Attributes, x: Traced, scale: Any, bias: Any, mean: Any, variance: Any
) -> Traced:
    mean, variance, scale, bias = (tensor(values) for values in (mean, variance, scale, bias))
    return batch_norm(reader.record, x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _clip(reader: Reader, a: Attributes, x: Any, low: Any = None, high: Any = None) -> Any:
    if isinstance(x, Coded):
        return _clipped_codes(reader, x, low, high)

    def number(value: Any) -> float | None:
        return None if value is None else float(np.asarray(value))

    y: Traced = FUNCTIONS[torch.clamp](reader.record, x, number(low), number(high))
    return y


def _need_no_picture(reader: Reader, x: Coded) -> None:
    """Refuse a table of a picture's codes: those are of the picture's own range, whatever the file's."""
    if all(op.output != x.value.value for op in reader.record.ops):
        reader.record.refuse("changes the codes of the picture, expected all 256 of them as they are")


def _clipped_codes(reader: Reader, x: Coded, low: Any, high: Any) -> Coded:
    """Fewer codes than 256, as Brevitas writes them (QCDQ)."""
    codes = np.arange(-128, 128)
    for end, bound in ((low, np.maximum), (high, np.minimum)):
        if end is not None:
            shift = 128 if np.asarray(end).dtype == np.uint8 else 0
            codes = bound(codes, int(np.asarray(end).reshape(-1)[0]) - shift)
    if np.array_equal(codes, np.arange(-128, 128)):
        return x
    _need_no_picture(reader, x)
    if x.scale is None:
        reader.record.refuse("clips codes whose scale nothing says; expected them behind a QuantizeLinear")
    reader.quantizations.setdefault(x.value.value, Quantization(x.scale, x.zero))
    return Coded(reader.record.look_up(x.value, codes.astype(np.int8)), x.scale, x.zero, x.unsigned)


def _plain(kind: str) -> Handler:
    def handler(reader: Reader, a: Attributes, x: Traced) -> Traced:
        return activate(reader.record, x, kind)

    return handler


def _hard_sigmoid(reader: Reader, a: Attributes, x: Traced) -> Traced:
    alpha, beta = a.get("alpha", 0.2), a.get("beta", 0.5)
    if abs(alpha - 1 / 6) > 1e-6 or beta != 0.5:
        reader.record.refuse(f"has alpha={alpha:g} and beta={beta:g}, expected 1/6 and 0.5")
    return activate(reader.record, x, "hard_sigmoid")


def _swish(reader: Reader, a: Attributes, x: Traced) -> Traced:
    if a.get("alpha", 1.0) != 1.0:
        reader.record.refuse(f"has alpha={a['alpha']:g}, expected 1")
    return activate(reader.record, x, "silu")


def _concat(reader: Reader, a: Attributes, *parts: Any) -> Traced:
    y: Traced = FUNCTIONS[torch.cat](reader.record, parts, a["axis"])
    return y


_NEAREST = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}


def _resize(
    reader: Reader, a: Attributes, x: Traced, roi: Any = None, scales: Any = None, sizes: Any = None
) -> Traced:
    record = reader.record
    mode = a.get("mode", b"nearest").decode()
    how = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = a.get("nearest_mode", b"round_prefer_floor").decode()
    axes = list(a.get("axes", [0, 1, 2, 3]))
    if mode not in ("nearest", "linear") or axes not in ([0, 1, 2, 3], [2, 3]) or not x.is_picture:
        record.refuse(
            f"has mode={mode}, expected the nearest pixel or linear, of a picture's height and width"
        )
    if sizes is not None:
        result = [int(size) for size in np.asarray(sizes)[-2:]]
        factors = [new / old for new, old in zip(result, x.picture, strict=False)]
    else:
        factors = [float(scale) for scale in np.asarray(scales)[-2:]]
        result = [int(old * scale) for old, scale in zip(x.picture, factors, strict=False)]
    if mode == "linear":
        if how not in ("half_pixel", "pytorch_half_pixel") or a.get("antialias", 0):
            record.refuse(f"is linear by {how}, expected half_pixel without antialias")
        return FUNCTIONS[F.interpolate](record, x, tuple(result), mode="bilinear")  # type: ignore[no-any-return]
    whole = all(factor == int(factor) for factor in factors)
    # Whole factors: a pixel's middle lies in the same pixel, by either rule.
    if (how, rounding) not in _NEAREST or (how != "asymmetric" and not whole):
        record.refuse(f"takes the nearest pixel by {how} and {rounding}, expected asymmetric and floor")
    for old, new, factor in zip(x.picture, result, factors, strict=False):
        taken = np.minimum(np.floor(np.arange(new, dtype=np.float32) / np.float32(factor)), old - 1)
        if not np.array_equal(taken, np.arange(new) * old // new):
            record.refuse(f"goes from {old} to {new} pixels by another rule than the nearest pixel's")
    return record.pool(x, "nearest", (*x.shape[:2], *result))


def _prelu(reader: Reader, a: Attributes, x: Traced, slope: Any) -> Traced:
    return prelu(reader.record, x, tensor(slope).reshape(-1))


def _leaky_relu(reader: Reader, a: Attributes, x: Traced) -> Traced:
    y: Traced = FUNCTIONS[F.leaky_relu](reader.record, x, a.get("alpha", 0.01))
    return y


def _binary(operation: Any) -> Handler:
    def handler(reader: Reader, a: Attributes, first: Any, second: Any) -> Traced:
        operands = [value if isinstance(value, Traced) else tensor(value) for value in (first, second)]
        y: Traced = FUNCTIONS[operation](reader.record, *operands)
        return y

    return handler


def _add(reader: Reader, a: Attributes, first: Any, second: Any) -> Any:
    """A sum; constants around a PReLU are its shifts (RPReLU)."""
    x, constant = (first, second) if isinstance(first, Traced) else (second, first)
    record = reader.record
    if not isinstance(x, Traced) or isinstance(constant, Traced | Coded | Signs):
        return _binary(operator.add)(reader, a, first, second)
    curved = record.made_by(x)
    if not isinstance(curved, RecordedActivation) or curved.activation.kind != "prelu":
        return _binary(operator.add)(reader, a, first, second)
    before = next((op for op in record.ops if op.output == curved.input), None)
    if not isinstance(before, RecordedAffine) or before.scale is not None or before.bias is None:
        return _binary(operator.add)(reader, a, first, second)
    channels = x.picture[2]
    back = tensor(constant).reshape(-1).expand(channels)
    moved, column, inner = before.function, back.reshape(1, -1, 1, 1), curved.function
    shape = Activation("rprelu", curved.activation.slope, array(-before.bias), array(back))
    source = Traced(before.input, x.picture, x.shape)
    return record.activate(source, shape, lambda values: inner(moved(values)) + column)


def _mul(reader: Reader, a: Attributes, first: Any, second: Any) -> Any:
    """A product; `export` gives int8 residuals factors a few units in the last place beside 1."""
    if isinstance(first, Traced) and not isinstance(second, Traced) and np.size(second) == 1:
        factor = float(np.asarray(second).item())
        if first.value in reader.quantizations and abs(factor - 1) < 2.0**-18:
            return first
    return _binary(operator.mul)(reader, a, first, second)


def _pool(kind: str) -> Handler:
    def handler(reader: Reader, a: Attributes, x: Traced) -> Traced:
        record = reader.record
        if not x.is_picture or tuple(a.get("dilations", (1, 1))) != (1, 1):
            record.refuse("is not a pool of a picture without dilation")
        before, after = pads(reader, a)
        kernel = tuple(a["kernel_shape"])
        stride = tuple(a.get("strides", (1, 1)))
        counted = bool(a.get("count_include_pad", 0)) and before != (0, 0)
        size = []
        for axis in range(2):
            room = x.picture[axis] + before[axis] + after[axis] - kernel[axis]
            count = (-(-room // stride[axis]) if a.get("ceil_mode", 0) else room // stride[axis]) + 1
            if a.get("ceil_mode", 0) and (count - 1) * stride[axis] >= x.picture[axis] + before[axis]:
                count -= 1
            size.append(count)
        result = (*x.shape[:2], *size)
        if kind == "avg" and kernel == x.shape[2:] and before == after == (0, 0):
            return record.pool(x, "global", result)
        return record.pool(x, kind, result, kernel, stride, before, counted)

    return handler


def _global_pool(reader: Reader, a: Attributes, x: Traced) -> Traced:
    if not x.is_picture:
        reader.record.refuse(f"reads shape {x.shape[1:]}, expected (channels, height, width)")
    return reader.record.pool(x, "global", (*x.shape[:2], 1, 1))


def _reduce_mean(reader: Reader, a: Attributes, x: Traced, axes: Any = None) -> Traced:
    found = a.get("axes") if axes is None else np.asarray(axes).tolist()
    y: Traced = FUNCTIONS[torch.mean](reader.record, x, tuple(found or ()), bool(a.get("keepdims", 1)))
    return y


def _reshape(reader: Reader, a: Attributes, x: Traced, shape: Any) -> Traced:
    wanted = [int(value) for value in np.asarray(shape)]
    wanted = [x.shape[at] if value == 0 else value for at, value in enumerate(wanted)]
    if wanted[0] in (1, -1, BATCH) and -1 not in wanted[1:]:
        wanted[0] = BATCH  # a file for one picture says 1
    elif wanted[0] == 1:
        wanted[0] = BATCH
    y: Traced = METHODS["reshape"](reader.record, x, *wanted)
    return y


def _flatten(reader: Reader, a: Attributes, x: Traced) -> Traced:
    if a.get("axis", 1) != 1:
        reader.record.refuse(f"has axis={a['axis']}, expected 1")
    y: Traced = METHODS["flatten"](reader.record, x, 1)
    return y


def _squeeze(name: str) -> Handler:
    def handler(reader: Reader, a: Attributes, x: Traced, axes: Any = None) -> Traced:
        found = a.get("axes") if axes is None else np.asarray(axes).tolist()
        y = x
        for axis in sorted(found or (), reverse=name == "squeeze"):
            y = METHODS[name](reader.record, y, int(axis))
        return y

    return handler


def _same(reader: Reader, a: Attributes, x: Traced, *further: Any) -> Traced:
    return x


def _shape(reader: Reader, a: Attributes, x: Traced) -> Any:
    return np.array(x.shape, np.int64)


def _quantize(reader: Reader, a: Attributes, x: Traced, scale: Any, zero: Any = None) -> Coded:
    code = np.zeros((), np.uint8) if zero is None else np.asarray(zero)
    if code.size != 1 or np.size(scale) != 1 or code.dtype not in (np.uint8, np.int8):
        reader.record.refuse(
            "quantizes activations a channel or not to 8 bits, expected one scale and 8 bits"
        )
    shift = 128 if code.dtype == np.uint8 else 0
    at = int(code.reshape(-1)[0]) - shift
    pictured = all(op.output != x.value for op in reader.record.ops)
    if at == -128 and not pictured and not _never_negative(reader, x.value):
        x = activate(reader.record, x, "relu")  # codes end where 0 is
    return Coded(x, float(np.float32(np.asarray(scale).reshape(-1)[0])), at, shift == 128)


def _never_negative(reader: Reader, value: int) -> bool:
    """Whether codes that end at 0 hold all that `value` can be."""
    held = reader.quantizations.get(value)
    if held is not None and held.zero_point == -128:
        return True
    match next((op for op in reader.record.ops if op.output == value), None):
        case RecordedActivation(activation=activation):
            return activation.kind in ("relu", "relu6", "sigmoid", "hard_sigmoid")
        case (ConcatNode() | AddNode() | MulNode() | PoolNode()) as node:
            return all(_never_negative(reader, part) for part in node_inputs(node))
    return False


def _dequantize(reader: Reader, a: Attributes, x: Any, scale: Any, zero: Any = None) -> Traced | Signs:
    if isinstance(x, Signs):
        return signs_real(reader, x, scale, zero)
    if not isinstance(x, Coded):
        reader.record.refuse("reads what no QuantizeLinear gave")
    if np.size(scale) != 1:
        reader.record.refuse("has a scale a channel, expected one")
    at = x.zero
    if x.scale is None:
        code = np.zeros((), np.uint8) if zero is None else np.asarray(zero)
        at = int(code.reshape(-1)[0]) - (128 if code.dtype == np.uint8 else 0)
    step = float(np.float32(np.asarray(scale).reshape(-1)[0]))
    reader.quantizations.setdefault(x.value.value, Quantization(step, at))
    return x.value


def _cast(reader: Reader, a: Attributes, x: Any) -> Any:
    """Codes as indices of a table, or real values that stay real."""
    import onnx

    kinds = onnx.TensorProto
    expected = (kinds.INT32, kinds.INT64) if isinstance(x, Coded) else (kinds.FLOAT,)
    if a["to"] not in expected:
        reader.record.refuse(
            f"casts to {kinds.DataType.Name(a['to'])}, expected codes to INT32 or values to FLOAT"
        )
    return x


def _gather(reader: Reader, a: Attributes, data: Any, index: Any) -> Any:
    """A table of 256 uint8 codes, or the nearest pixels along the height or the width."""
    axis = a.get("axis", 0)
    if isinstance(index, Coded):
        table = np.asarray(data)
        if table.shape != (256,) or table.dtype != np.uint8 or axis != 0:
            reader.record.refuse(f"takes a table of {table.dtype} {table.shape}, expected uint8 (256,)")
        if index.scale is None and index.value.value not in reader.quantizations:
            reader.record.refuse(
                "reads codes whose scale nothing says; expected them behind a QuantizeLinear"
            )
        _need_no_picture(reader, index)
        if index.scale is not None:
            reader.quantizations.setdefault(index.value.value, Quantization(index.scale, index.zero))
        return Coded(reader.record.look_up(index.value, (table.astype(np.int16) - 128).astype(np.int8)))
    pixels = np.asarray(index)
    if isinstance(data, Traced) and data.is_picture and axis in (2, 3) and pixels.ndim == 1:
        size = data.picture[axis - 2]
        if np.array_equal(pixels, np.arange(len(pixels)) * size // len(pixels)):
            shape = [*data.shape]
            shape[axis] = len(pixels)
            return reader.record.pool(data, "nearest", tuple(shape))
    return reader.record.refuse(
        "takes values by their place, expected a table of 256 codes or nearest pixels"
    )


OPERATORS: dict[str, Handler] = {
    "Add": _add,
    "AveragePool": _pool("avg"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _binary(operator.truediv),
    "Dropout": _same,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GreaterOrEqual": at_least,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain("hard_swish"),
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": _pool("max"),
    "Mul": _mul,
    "PRelu": _prelu,
    "Pad": padded,
    "QuantizeLinear": _quantize,
    "ReduceMean": _reduce_mean,
    "Relu": _plain("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _plain("sigmoid"),
    "Squeeze": _squeeze("squeeze"),
    "Sub": _binary(operator.sub),
    "Swish": _swish,
    "Unsqueeze": _squeeze("unsqueeze"),
    "Where": chosen,
    "Xor": turned,
}
