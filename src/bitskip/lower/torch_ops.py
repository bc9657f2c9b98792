"""torch's functions as recorded ops, each with torch's own arguments, beside the table of their names.

A handler takes the recorder and the call's arguments; `Traced` arguments depend on the picture, all others
are real values already.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.lower.folding import batch_norm_terms
from bitskip.lower.graph import Pair
from bitskip.lower.recorded import BATCH, Recorder, Traced
from bitskip.lower.torch_activations import ACTIVATION_FUNCTIONS, ACTIVATION_METHODS
from bitskip.lower.torch_arithmetic import ADD, DIV, MUL, SUB, cat, negated
from bitskip.program.schema import LIMITS

MAX_KERNEL = LIMITS["MAX_KERNEL"]


def _pair(values: Any) -> Pair:
    numbers = tuple(values) if isinstance(values, Sequence) else (values,) * 2
    return (int(numbers[0]), int(numbers[-1]))


def _shape_after(
    operation: Callable[..., Tensor], x: Traced, *arguments: Any, **named: Any
) -> tuple[int, ...]:
    """Return the shape that torch gives the result, without computing it."""
    return tuple(operation(torch.empty(x.shape, device="meta"), *arguments, **named).shape)


def _need_picture(record: Recorder, x: Any) -> None:
    if not isinstance(x, Traced):
        record.refuse("has a constant input, expected the picture or what is made from it")
    if not x.is_picture:
        record.refuse(f"reads shape {x.shape[1:]}, expected (channels, height, width)")


# -- layers -------------------------------------------------------------------------------------------


def convolve(
    record: Recorder,
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    precision: str = "fp32",
    pad_value: int = 0,
) -> Traced:
    """`F.conv2d`, with its padding symmetric."""
    _need_picture(record, x)
    if not isinstance(weight, Tensor) or isinstance(bias, Traced):
        record.refuse("has weights that depend on the picture")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    if groups != 1 and precision in ("w1", "w1a1"):
        record.refuse_kind(f"has groups={groups} and 1-bit weights, expected groups=1")
    between = tuple(d if k > 1 else 1 for d, k in zip(_pair(dilation), kernel, strict=True))
    dilation = _pair(between)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if isinstance(padding, str):
        if padding == "same" and any(size % 2 == 0 for size in reach):
            record.refuse(f"has padding='same' with an even kernel {kernel}, which pads one side more")
        padding = tuple(size // 2 for size in reach) if padding == "same" else 0
    stride, padding = _pair(stride), _pair(padding)
    if max(kernel) > MAX_KERNEL or any(p >= min(r, MAX_KERNEL) for p, r in zip(padding, reach, strict=True)):
        record.refuse(
            f"has kernel {kernel} with dilation {dilation} and padding {padding}, expected padding below "
            f"dilation * (kernel - 1) + 1 and below {MAX_KERNEL}, and the kernel at most {MAX_KERNEL}"
        )
    result = _shape_after(F.conv2d, x, weight.to("meta"), None, stride, padding, dilation, groups)
    y = record.convolve(x, weight, result, precision, stride, padding, pad_value, groups, dilation)
    return y if bias is None else shift(record, y, bias)


def linear(
    record: Recorder, x: Traced, weight: Tensor, bias: Tensor | None = None, precision: str = "fp32"
) -> Traced:
    """`F.linear` of a vector: a convolution whose kernel is as large as the picture that was flattened."""
    if not isinstance(x, Traced) or not isinstance(weight, Tensor) or isinstance(bias, Traced):
        record.refuse("has weights that depend on the picture")
    height, width, channels = x.picture
    if x.shape != (BATCH, height * width * channels):
        record.refuse(f"reads shape {x.shape[1:]}, expected a vector; flatten the picture before it")
    if max(height, width) > MAX_KERNEL:
        record.refuse(f"reads a picture of {height}x{width}, expected at most {MAX_KERNEL} a side")
    kernels = weight.reshape(len(weight), channels, height, width)
    y = record.convolve(x, kernels, (BATCH, len(weight)), precision)
    return y if bias is None else shift(record, y, bias)


def batch_norm(
    record: Recorder,
    x: Traced,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    """`F.batch_norm` in evaluation."""
    if training or running_mean is None or running_var is None:
        record.refuse("normalises by the statistics of the batch, expected running statistics")
    record.need_channels(x)
    scale, offset = batch_norm_terms(running_mean, running_var, weight, bias, eps)

    def function(values: Tensor) -> Tensor:
        return F.batch_norm(values, running_mean, running_var, weight, bias, False, 0.0, eps)

    return record.affine(x, scale, offset, function)


def shift(record: Recorder, x: Traced, bias: Tensor) -> Traced:
    """Addition of a bias a channel."""
    values = bias.view(1, -1, 1, 1)
    return record.affine(x, None, bias, lambda acc: acc + values)


# -- pools --------------------------------------------------------------------------------------------


def _max_pool(
    record: Recorder,
    x: Traced,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Traced:
    _need_picture(record, x)
    if _pair(dilation) != (1, 1) or return_indices:
        record.refuse(f"has dilation={dilation}, return_indices={return_indices}, expected 1 and False")
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = _pair(stride) if stride else kernel
    result = _shape_after(F.max_pool2d, x, kernel, stride, padding, ceil_mode=ceil_mode)
    return record.pool(x, "max", result, kernel, stride, padding)


def _avg_pool(
    record: Recorder,
    x: Traced,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Traced:
    _need_picture(record, x)
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = _pair(stride) if stride else kernel
    if divisor_override is not None:
        record.refuse(f"has divisor_override={divisor_override}, expected None")
    result = _shape_after(F.avg_pool2d, x, kernel, stride, padding, ceil_mode)
    count_padding = count_include_pad and padding != (0, 0)
    if count_padding and result != _shape_after(F.avg_pool2d, x, kernel, stride, padding, False):
        record.refuse(
            "has ceil_mode with count_include_pad and windows beyond the padding, expected one of the two"
        )
    if kernel == x.shape[2:] and padding == (0, 0):
        return record.pool(x, "global", result)
    return record.pool(x, "avg", result, kernel, stride, padding, count_padding)


def _adaptive(record: Recorder, x: Traced, output_size: Any, average: bool) -> Traced:
    _need_picture(record, x)
    wanted = output_size if isinstance(output_size, Sequence) else (output_size,) * 2
    size = x.shape[2:]
    target = tuple(old if new is None else int(new) for new, old in zip(wanted, size, strict=True))
    result = (*x.shape[:2], *target)
    if average and target == (1, 1):
        return record.pool(x, "global", result)
    if target == size:
        return x
    if any(old % new for new, old in zip(target, size, strict=True)):
        record.refuse(
            f"pools {size[0]}x{size[1]} to {target[0]}x{target[1]}, expected a size that it divides evenly; "
            "choose another input size"
        )
    kernel = (size[0] // target[0], size[1] // target[1])
    return record.pool(x, "avg" if average else "max", result, kernel, kernel)


def _adaptive_avg_pool(record: Recorder, x: Traced, output_size: Any) -> Traced:
    return _adaptive(record, x, output_size, average=True)


def _interpolate(
    record: Recorder,
    x: Traced,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Traced:
    _need_picture(record, x)
    named = {"size": size, "scale_factor": scale_factor, "recompute_scale_factor": recompute_scale_factor}
    if mode == "bilinear" and not antialias and not align_corners:
        return _bilinear(record, x, named)
    if mode != "nearest" or antialias:
        record.refuse(
            f"has mode='{mode}', align_corners={align_corners}, antialias={antialias}, expected the nearest "
            "pixel, or bilinear with both False"
        )
    result = _shape_after(F.interpolate, x, **named)
    for side, (old, new) in enumerate(zip(x.shape[2:], result[2:], strict=True)):
        line = torch.arange(old, dtype=torch.float32).view((1, 1, old, 1) if side == 0 else (1, 1, 1, old))
        line = line.expand(1, 1, *x.shape[2:])
        taken = F.interpolate(line, **named).amax(3 - side).flatten()
        if not torch.equal(taken, (torch.arange(new) * old // new).float()):
            record.refuse(f"goes from {old} to {new} pixels by another rule than the nearest pixel's")
    return record.pool(x, "nearest", result)


def _bilinear(record: Recorder, x: Traced, named: dict[str, Any]) -> Traced:
    """Another size between the four nearest pixels; torch may take its steps from `scale_factor`."""
    result = _shape_after(F.interpolate, x, mode="bilinear", **named)
    factors = named["scale_factor"]
    if factors is not None and not named["recompute_scale_factor"]:
        pairs = factors if isinstance(factors, Sequence) else (factors,) * 2
        for old, new, factor in zip(x.shape[2:], result[2:], pairs, strict=True):
            if old * factor != new:
                record.refuse(f"goes from {old} to {new} pixels in steps of 1 / {factor}; give it a size")
    if x.shape[2:] == result[2:]:
        return x
    # of one pixel every mean is that pixel
    return record.pool(x, "nearest" if tuple(x.shape[2:]) == (1, 1) else "bilinear", result)


def _adaptive_max_pool(record: Recorder, x: Traced, output_size: Any, return_indices: bool = False) -> Traced:
    if return_indices:
        record.refuse("has return_indices=True, expected False")
    return _adaptive(record, x, output_size, average=False)


def _mean(record: Recorder, x: Traced, dim: Any = None, keepdim: bool = False, **named: Any) -> Traced:
    axes = named.pop("axis", dim)
    axes = axes if isinstance(axes, Sequence) else (axes,)
    found = {axis % 4 if isinstance(axis, int) else axis for axis in axes}
    if not x.is_picture or found != {2, 3} or any(value is not None for value in named.values()):
        record.refuse(
            f"takes the mean over {dim} of shape {('N', *x.shape[1:])}, expected over height and width"
        )
    return record.pool(x, "global", (*x.shape[:2], 1, 1) if keepdim else x.shape[:2])


# -- shapes -------------------------------------------------------------------------------------------


def _reshaped(name: str) -> Callable[..., Traced]:
    def handler(record: Recorder, x: Traced, *arguments: Any, **named: Any) -> Traced:
        shape = _shape_after(lambda values: getattr(values, name)(*arguments, **named), x)
        if not shape or shape[0] != BATCH:
            record.refuse(f"turns {('N', *x.shape[1:])} into a shape that mixes the pictures of a batch")
        return Traced(x.value, x.picture, shape)

    return handler


def _same(record: Recorder, x: Traced, *arguments: Any, **named: Any) -> Traced:
    for value in (*arguments, *named.values()):
        if isinstance(value, torch.dtype) and value != torch.float32:
            record.refuse(f"turns values into {value}, expected float32")
    return x


def _dropout(
    record: Recorder, x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Traced:
    if training:
        record.refuse("drops values in evaluation too; pass training=self.training")
    return x


def _dropped_paths(record: Recorder, x: Traced, p: float, mode: str, training: bool = True) -> Traced:
    """`torchvision.ops.stochastic_depth`."""
    return _dropout(record, x, p, training)


def _size(record: Recorder, x: Traced, dim: int | None = None) -> Any:
    return torch.Size(x.shape) if dim is None else x.shape[dim]


def _dim(record: Recorder, x: Traced) -> int:
    return len(x.shape)


_ATTRIBUTES: dict[str, Callable[[Traced], Any]] = {
    "shape": lambda x: torch.Size(x.shape),
    "ndim": lambda x: len(x.shape),
    "dtype": lambda x: torch.float32,
    "device": lambda x: torch.device("cpu"),
    "is_cuda": lambda x: False,
}


def _attribute(record: Recorder, x: Traced, name: str) -> Any:
    if name not in _ATTRIBUTES:
        record.refuse(f"reads .{name} of a tensor, which cannot be packed; use the tensor itself")
    return _ATTRIBUTES[name](x)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), ADD),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), SUB),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), MUL),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), DIV),
    **dict.fromkeys((operator.neg, torch.neg), negated),
    **ACTIVATION_FUNCTIONS,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat),
    "torchvision.ops.stochastic_depth.stochastic_depth": _dropped_paths,  # not loaded for its name
    **dict.fromkeys((F.conv2d, torch.conv2d), convolve),
    F.linear: linear,
    F.batch_norm: batch_norm,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    F.adaptive_max_pool2d: _adaptive_max_pool,
    F.interpolate: _interpolate,
    torch.mean: _mean,
    **{getattr(torch, name): _reshaped(name) for name in ("flatten", "reshape", "squeeze", "unsqueeze")},
    **dict.fromkeys(
        (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout), _dropout
    ),
    getattr: _attribute,
}

METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "add_", "__add__", "__iadd__", "__radd__"), ADD),
    **dict.fromkeys(("sub", "sub_", "__sub__"), SUB),
    **dict.fromkeys(("mul", "mul_", "__mul__", "__rmul__"), MUL),
    **dict.fromkeys(("div", "div_", "__truediv__"), DIV),
    "neg": negated,
    **ACTIVATION_METHODS,
    "mean": _mean,
    **{name: _reshaped(name) for name in ("flatten", "reshape", "view", "squeeze", "unsqueeze")},
    **dict.fromkeys(("contiguous", "float", "to", "clone", "detach"), _same),
    "size": _size,
    "dim": _dim,
}
