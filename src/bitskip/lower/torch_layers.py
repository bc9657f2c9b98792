"""What torch's and bitskip's layers are as recorded ops: each is read with its own settings and weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.lower.folding import binary_weight, module_activation, scaling
from bitskip.lower.recorded import Recorder, Traced
from bitskip.lower.torch_activations import activate, prelu
from bitskip.lower.torch_ops import FUNCTIONS, METHODS, batch_norm, convolve, linear
from bitskip.nn import BinaryConv2d, BinaryLayer, BinaryLinear, LearnedThreshold, RPReLU
from bitskip.nn.layers import Dropout

Handler = Callable[[Recorder, Any, Traced], Traced]


def layer_handler(layer: nn.Module) -> Handler | None:
    """Return what reads `layer`, or None if it is no known layer; a forward of its own makes it none."""
    if "forward" in vars(layer):
        return None
    for kind, handler in _LAYERS.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            same = getattr(type(layer), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
            return handler if same else None
    return None


def _conv(record: Recorder, layer: nn.Conv2d, x: Traced) -> Traced:
    if layer.padding_mode != "zeros":
        record.refuse(f"has padding_mode='{layer.padding_mode}', expected 'zeros'")
    return convolve(
        record,
        x,
        _real(layer.weight),
        _optional(layer.bias),
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        record.precision,
    )


def _binary_conv(record: Recorder, layer: BinaryConv2d, x: Traced) -> Traced:
    y = convolve(
        record,
        x,
        _real(binary_weight(record.name, layer)),
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        precision=layer.precision,
        pad_value=layer.pad_value,
    )
    return _scaled(record, layer, y)


def _linear(record: Recorder, layer: nn.Linear, x: Traced) -> Traced:
    return linear(record, x, _real(layer.weight), _optional(layer.bias), record.precision)


def _binary_linear(record: Recorder, layer: BinaryLinear, x: Traced) -> Traced:
    y = linear(record, x, _real(binary_weight(record.name, layer)), None, layer.precision)
    y = _scaled(record, layer, y)
    return y if layer.bias is None else FUNCTIONS[torch.add](record, y, _real(layer.bias))


def _scaled(record: Recorder, layer: BinaryLayer, y: Traced) -> Traced:
    factor = layer.output_scale()
    if factor is None:
        return y
    return record.affine(y, _real(factor), None, scaling(_real(factor)))


def _batch_norm(record: Recorder, layer: Any, x: Traced) -> Traced:
    return batch_norm(
        record,
        x,
        _optional(layer.running_mean),
        _optional(layer.running_var),
        _optional(layer.weight),
        _optional(layer.bias),
        eps=layer.eps,
    )


def _threshold(record: Recorder, layer: LearnedThreshold, x: Traced) -> Traced:
    values = _real(layer.threshold).view(-1, *(1,) * (len(x.shape) - 2))
    y: Traced = FUNCTIONS[torch.sub](record, x, values)
    return y


def _rprelu(record: Recorder, layer: RPReLU, x: Traced) -> Traced:
    if not x.is_picture:
        record.refuse(f"reads shape {x.shape[1:]}, expected (channels, height, width)")
    return record.activate(x, module_activation(layer), copy.deepcopy(layer).float().cpu())


def _identity(record: Recorder, layer: nn.Module, x: Traced) -> Traced:
    return x


def _real(values: Tensor) -> Tensor:
    return values.detach().float().cpu()


def _optional(values: Tensor | None) -> Tensor | None:
    return None if values is None else _real(values)


_LAYERS: dict[type[nn.Module], Handler] = {
    nn.Conv2d: _conv,
    BinaryConv2d: _binary_conv,
    nn.Linear: _linear,
    BinaryLinear: _binary_linear,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    nn.ReLU6: lambda record, layer, x: activate(record, x, "relu6"),  # before nn.Hardtanh, which it is
    nn.Hardtanh: lambda record, layer, x: FUNCTIONS[F.hardtanh](record, x, layer.min_val, layer.max_val),
    nn.ReLU: lambda record, layer, x: activate(record, x, "relu"),
    nn.Sigmoid: lambda record, layer, x: activate(record, x, "sigmoid"),
    nn.Hardsigmoid: lambda record, layer, x: activate(record, x, "hard_sigmoid"),
    nn.Hardswish: lambda record, layer, x: activate(record, x, "hard_swish"),
    nn.SiLU: lambda record, layer, x: activate(record, x, "silu"),
    nn.PReLU: lambda record, layer, x: prelu(record, x, _real(layer.weight)),
    nn.LeakyReLU: lambda record, layer, x: FUNCTIONS[F.leaky_relu](record, x, layer.negative_slope),
    RPReLU: _rprelu,
    LearnedThreshold: _threshold,
    nn.MaxPool2d: lambda record, layer, x: FUNCTIONS[F.max_pool2d](
        record,
        x,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.ceil_mode,
        layer.return_indices,
    ),
    nn.AvgPool2d: lambda record, layer, x: FUNCTIONS[F.avg_pool2d](
        record,
        x,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda record, layer, x: FUNCTIONS[F.adaptive_avg_pool2d](
        record, x, layer.output_size
    ),
    nn.AdaptiveMaxPool2d: lambda record, layer, x: FUNCTIONS[F.adaptive_max_pool2d](
        record, x, layer.output_size, layer.return_indices
    ),
    nn.Flatten: lambda record, layer, x: METHODS["flatten"](record, x, layer.start_dim, layer.end_dim),
    nn.Identity: _identity,
    **dict.fromkeys(
        (
            Dropout,
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
            nn.Dropout3d,
            nn.AlphaDropout,
            nn.FeatureAlphaDropout,
        ),
        _identity,
    ),
}
