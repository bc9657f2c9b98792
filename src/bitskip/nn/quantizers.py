"""Sign quantizers: the forward is always sign(x) with sign(0) = +1; they differ in the gradient.

Each class states its gradient dq/dx as a formula and where it comes from. Quantizers whose gradient
sharpens during training read `progress`, the share of training done in 0..1 (see `set_progress`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.errors import SpecError, nearest

__all__ = [
    "QUANTIZERS",
    "ApproxSign",
    "Ede",
    "NoGradientSign",
    "ReSte",
    "SignQuantizer",
    "SteSign",
    "make_quantizer",
    "set_progress",
    "sign",
]


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
    """Base: q(x) = sign(x), elementwise; subclasses give dq/dx.

    Shape: any; output has the input's shape and dtype, values +1 and -1.
    """

    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: which fraction of training is done belongs to the run, not to the weights.
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def gradient(self, x: Tensor) -> Tensor:
        """Return dq/dx at `x`, elementwise, in the dtype of `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return sign(x)."""
        out: Tensor = _SignWithGradient.apply(x, self)
        return out


class SteSign(SignQuantizer):
    """Clipped straight-through estimator: dq/dx = 1 if |x| <= 1 else 0.

    Courbariaux et al. 2016, "Binarized Neural Networks".
    """

    def gradient(self, x: Tensor) -> Tensor:
        """Return 1 where |x| <= 1, else 0."""
        return (x.abs() <= 1).to(x.dtype)


class ApproxSign(SignQuantizer):
    """Piecewise quadratic sign: dq/dx = max(0, 2 - 2|x|).

    Liu et al. 2018, "Bi-Real Net". Meant for inputs of unit scale.
    """

    def gradient(self, x: Tensor) -> Tensor:
        """Return max(0, 2 - 2|x|)."""
        return (2 - 2 * x.abs()).clamp_min(0)


class Ede(SignQuantizer):
    """Error decay estimator: dq/dx = k t (1 - tanh(t x)^2), k = max(1/t, 1).

    t grows log-linearly from 0.1 to 10 with `progress`. Qin et al. 2020, "IR-Net", equations 9 to 11.
    """

    def gradient(self, x: Tensor) -> Tensor:
        """Return k t (1 - tanh(t x)^2) at the present t."""
        t = 0.1 * 100.0 ** self.progress.to(x.dtype)
        k = (1 / t).clamp_min(1)
        return k * t * (1 - torch.tanh(t * x) ** 2)


class ReSte(SignQuantizer):
    """Rectified straight-through: dq/dx = (1/o) |x|^(1/o - 1) for 0.1 < |x| <= 1.5.

    Constant below 0.1 (its value at 0.1), 0 above 1.5; o grows linearly from 1 to 3 with `progress`.
    Wu et al. 2023, "Estimator Meets Equilibrium Perspective", equation 12.
    """

    def gradient(self, x: Tensor) -> Tensor:
        """Return the rectified power's derivative at the present o."""
        inverse = 1 / (1 + 2 * self.progress.to(x.dtype))
        magnitude = x.abs()
        slope = inverse * magnitude.clamp_min(0.1) ** (inverse - 1)
        return torch.where(magnitude <= 1.5, slope, torch.zeros_like(slope))


class NoGradientSign(SignQuantizer):
    """Sign without an estimator: dq/dx = 0 everywhere, as automatic differentiation gives it."""

    def gradient(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


QUANTIZERS: dict[str, type[SignQuantizer]] = {
    "ste_sign": SteSign,
    "approx_sign": ApproxSign,
    "ede": Ede,
    "reste": ReSte,
    "none": NoGradientSign,
}


def make_quantizer(name: str) -> SignQuantizer:
    """Return a new quantizer by its name; raises SpecError for an unknown one."""
    if name not in QUANTIZERS:
        raise SpecError(
            f"unknown quantizer '{name}', expected one of {', '.join(QUANTIZERS)}{nearest(name, QUANTIZERS)}"
        )
    return QUANTIZERS[name]()


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell every quantizer in `model` which share of training is done, 0..1."""
    if not (math.isfinite(progress) and 0 <= progress <= 1):
        raise ValueError(f"progress is {progress}, expected 0..1")
    for module in model.modules():
        if isinstance(module, SignQuantizer):
            module.progress.fill_(progress)
