"""torch's 3x3 convolutions of stride 1, in float32 on CPUs, by `winograd.c`: forward and both gradients.

For whoever trains on a processor without bfloat16: oneDNN has no Winograd there, and its filter gradient
is slow. A call that does not fit (another kernel, stride, padding, type or memory format) goes to torch.
"""

from __future__ import annotations

from typing import Any

import torch
from compiled import library, pointers
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

torch_conv2d = F.conv2d


def _call(name: str, first: Tensor, second: Tensor, out: Tensor, inputs: int, outputs: int) -> None:
    n, _, height, width = first.shape
    sizes = (n, height, width, inputs, outputs)
    if getattr(_lib, name)(*pointers(first, second, out), *sizes, torch.get_num_threads()):
        raise MemoryError(f"{name} of {tuple(first.shape)} and {tuple(second.shape)} ran out of memory")


def _convolution(x: Tensor, w: Tensor) -> Tensor:
    y = torch.empty((x.shape[0], w.shape[0], *x.shape[2:]), memory_format=torch.channels_last)
    _call("winograd_convolution", x, w.contiguous(), y, w.shape[1], w.shape[0])
    return y


class Convolution3x3(torch.autograd.Function):
    """y (N, O, H, W) of x (N, I, H, W) and w (O, I, 3, 3): float32, channels_last, stride 1, padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, w)
        return _convolution(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        """Return the gradients of x and w."""
        x, w = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _convolution(dy, w.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            dw = torch.empty(w.shape)
            _call("winograd_filter_gradient", x, dy, dw, w.shape[1], w.shape[0])
        return dx, dw


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Do what `torch.nn.functional.conv2d` does."""
    outputs, inputs = weight.shape[:2]
    fits = (
        bias is None
        and groups == 1
        and weight.shape[2:] == (3, 3)
        and all(value in (1, (1, 1), [1, 1]) for value in (stride, padding, dilation))
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and input.device.type == weight.device.type == "cpu"
        and inputs >= 16  # with fewer there is too little to save
        and inputs % 16 == 0 == outputs % 16
        and input.dim() == 4
        and input.shape[1] == inputs
        and input.numel() > 0
        and input.is_contiguous(memory_format=torch.channels_last)
    )
    if not fits:
        return torch_conv2d(input, weight, bias, stride, padding, dilation, groups)
    _count[0] += 1
    y: Tensor = Convolution3x3.apply(input, weight)
    return y


def install() -> None:
    """Have every module of this process that calls `torch.nn.functional.conv2d` use the one above."""
    F.conv2d = conv2d


def used() -> bool:
    """Whether any call so far has fitted."""
    return _count[0] > 0


_count = [0]
_lib = library("winograd.c", contract="fast")
