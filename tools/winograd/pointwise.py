"""RPReLU and the clipped straight-through sign in float32 on CPUs, by `pointwise.c`, each in one pass.

They are what a network with 1-bit activations does between its convolutions, and took as long as those. A
call that does not fit (another type or memory format) goes to bitskip's own.
"""

from __future__ import annotations

from ctypes import c_long
from typing import Any

import torch
from compiled import library, pointers
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitskip.nn import SignQuantizer
from bitskip.nn.layers import RPReLU

bitskip_rprelu = RPReLU.forward
bitskip_sign = SignQuantizer.forward
_count = [0]
_lib = library("pointwise.c", contract="off")


def _pixels(x: Tensor) -> tuple[c_long, int]:
    """Return pictures x height x width, and the channels."""
    return c_long(x.numel() // x.shape[1]), x.shape[1]


class _RPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor:
        ctx.save_for_backward(x, shift_in, slope)
        y = torch.empty_like(x)
        _lib.rprelu_forward(*pointers(x, shift_in, slope, shift_out, y), *_pixels(x), torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, shift_in, slope = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, gradients = torch.empty_like(x), torch.empty(3, x.shape[1])
        arguments = pointers(x, dy, shift_in, slope, dx, gradients)
        if _lib.rprelu_backward(*arguments, *_pixels(x), torch.get_num_threads()):
            raise MemoryError(f"the gradient of an RPReLU of {tuple(x.shape)} ran out of memory")
        return dx, *gradients.unbind()


class _SteSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        _lib.sign_forward(*pointers(x, y), c_long(x.numel()), torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        dy = torch.empty_like(x).copy_(dy) if dy.stride() != x.stride() else dy
        dx = torch.empty_like(x)
        _lib.sign_backward(*pointers(x, dy, dx), c_long(x.numel()), torch.get_num_threads())
        return dx


def _fits(x: Tensor, *channelwise: Tensor) -> bool:
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (x, *channelwise))


def rprelu(module: RPReLU, x: Tensor) -> Tensor:
    """Do what `RPReLU.forward` does."""
    parameters = (module.shift_in, module.slope, module.shift_out)
    if not (_fits(x, *parameters) and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return bitskip_rprelu(module, x)
    _count[0] += 1
    y: Tensor = _RPReLU.apply(x, *parameters)
    return y


def sign(module: SignQuantizer, x: Tensor) -> Tensor:
    """Do what `SignQuantizer.forward` does."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    if not (module.row.name == "ste_sign" and _fits(x) and dense):
        return bitskip_sign(module, x)
    y: Tensor = _SteSign.apply(x)
    return y


def install() -> None:
    """Have every RPReLU and clipped sign of this process computed by the above."""
    RPReLU.forward = rprelu
    SignQuantizer.forward = sign


def used() -> bool:
    """Whether any RPReLU so far has fitted: its parameters' gradients round differently, signs do not."""
    return _count[0] > 0
