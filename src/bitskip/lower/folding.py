"""What both front ends share: batch norms and scales into weights, activations, the making of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitskip.errors import LoweringError
from bitskip.lower.graph import ConvNode, Floats, Pair
from bitskip.nn import BinaryLayer, RPReLU
from bitskip.program import Activation


def array(values: Tensor) -> Floats:
    """Return `values` as a contiguous float32 array."""
    return np.ascontiguousarray(values.detach().float().cpu().numpy())


def batch_norm_terms(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (scale, bias) of a batch norm in evaluation, in its own dtype."""
    scale = torch.rsqrt(variance + eps) if weight is None else weight / torch.sqrt(variance + eps)
    return scale, -mean * scale if bias is None else bias - mean * scale


@dataclass(frozen=True)
class Folded:
    """x*scale + bias per channel, composed in float64; None is 1 and 0."""

    scale: Tensor | None = None
    bias: Tensor | None = None

    def then(self, scale: Tensor | None, bias: Tensor | None) -> Folded:
        """Return what results if another scale and bias follow."""
        new_scale, new_bias = self.scale, self.bias
        if scale is not None:
            scale = scale.detach().double()
            new_scale = scale if new_scale is None else new_scale * scale
            new_bias = None if new_bias is None else new_bias * scale
        if bias is not None:
            bias = bias.detach().double()
            new_bias = bias if new_bias is None else new_bias + bias
        return Folded(new_scale, new_bias)

    @property
    def scale_array(self) -> Floats | None:
        """The scale as float32."""
        return None if self.scale is None else array(self.scale)

    @property
    def bias_array(self) -> Floats | None:
        """The bias as float32."""
        return None if self.bias is None else array(self.bias)


def scaling(factor: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the multiplication by a 1-bit layer's scale, as its forward does it."""
    factor = factor.detach().float().cpu().view(1, -1, 1, 1)
    return lambda x: x * factor


def binary_weight(name: str, layer: BinaryLayer) -> Tensor:
    """Return the +1/-1 weights that a 1-bit layer computes with.

    Raises:
        LoweringError: if it still computes with its latent weights.
    """
    if layer.real_weights:
        raise LoweringError(
            f"layer '{name}' computes with its latent weights (real_weights), expected their signs; "
            "train its second step first"
        )
    return layer.signs()


def conv_node(
    name: str,
    precision: str,
    values: tuple[int, int],
    weight: Tensor,
    folded: Folded,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    pad_value: int = 0,
    tail: Sequence[Callable[[Tensor], Tensor]] = (),
    **further: Any,
) -> ConvNode:
    """Return a convolution's node; what scales it goes into real weights, beside 1-bit ones.

    Args:
        name: of the layer.
        precision: `fp32`, `int8`, `w1` or `w1a1`.
        values: numbers of its input and output.
        weight: (O, I / groups, KH, KW), +1/-1 for `w1` and `w1a1`.
        folded: what scales and shifts the accumulator.
        stride: along height and width.
        padding: likewise.
        pad_value: what a padded tap of a 1-bit input reads.
        tail: see `ConvNode`; so are `further` fields.
    """
    scale = folded.scale_array
    if precision in ("fp32", "int8") and folded.scale is not None:
        weight, scale = (weight.double() * folded.scale.view(-1, 1, 1, 1)).float(), None
    return ConvNode(
        name=name,
        precision=precision,
        input=values[0],
        output=values[1],
        weight=array(weight.permute(0, 2, 3, 1)),
        stride=stride,
        padding=padding,
        pad_value=pad_value,
        scale=scale,
        bias=folded.bias_array,
        tail=tuple(tail),
        **further,
    )


def module_activation(module: nn.Module | None) -> Activation:
    """Return the Program's activation that `module` is.

    Raises:
        LoweringError: if a Program has none such.
    """
    if module is None or isinstance(module, nn.Identity):
        return Activation()
    if isinstance(module, nn.ReLU):
        return Activation("relu")
    if isinstance(module, RPReLU):
        return Activation("rprelu", array(module.slope), array(module.shift_in), array(module.shift_out))
    raise LoweringError(f"activation {type(module).__name__} cannot be packed")
