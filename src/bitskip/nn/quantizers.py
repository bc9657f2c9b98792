"""sign(x) as a layer, with sign(0) = +1; its gradient is that of a row in `bitskip.quantizers`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.quantizers import quantizer_of


def sign(x: Tensor) -> Tensor:
    """Return +1 where x >= 0 (so at 0 and -0.0 too), else -1; shape and dtype of `x`.

    Both branches are tensors. With numbers, torch 2.11's compiler takes the result of an autograd function
    for a constant and never calls its backward.
    """
    one = torch.ones_like(x)
    return torch.where(x >= 0, one, -one)


class _SignWithGradient(torch.autograd.Function):
    """sign forward; backward multiplies by the quantizer's own dq/dx, evaluated at the saved input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: SignQuantizer) -> Tensor:
        ctx.save_for_backward(x)
        ctx.quantizer = quantizer
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        return grad * ctx.quantizer.gradient(x), None


class SignQuantizer(nn.Module):
    """q(x) = sign(x), elementwise, with the gradient of quantizer `name`.

    Shape: any; output has the input's shape and dtype, values +1 and -1.

    Raises:
        SpecError: if there is no quantizer of that name.
    """

    progress: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.row = quantizer_of(name)
        # Not persistent: which fraction of training is done belongs to the run, not to the weights.
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def gradient(self, x: Tensor) -> Tensor:
        """Return dq/dx at `x`, elementwise, in the dtype of `x`."""
        return self.row.gradient(x, self.progress)

    def forward(self, x: Tensor) -> Tensor:
        """Return sign(x)."""
        out: Tensor = _SignWithGradient.apply(x, self)
        return out

    def extra_repr(self) -> str:
        """Return the quantizer's name, for printed networks."""
        return self.row.name


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every quantizer in `model` which share of training is done, 0..1."""
    if not (math.isfinite(progress) and 0 <= progress <= 1):
        raise ValueError(f"progress is {progress}, expected 0..1")
    for module in model.modules():
        if isinstance(module, SignQuantizer):
            module.progress.fill_(progress)
