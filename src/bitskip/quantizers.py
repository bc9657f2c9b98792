"""The table of sign quantizers: a function each, and the only place where one is named.

All return sign(x) with sign(0) = +1; they differ in the gradient dq/dx that training uses in place of the
true one, which is 0 nearly everywhere. A function's docstring states it as a formula and says where it comes
from. Specs take the names from here, `bitskip.nn.SignQuantizer` the gradients. Torch is not imported, since
reading a spec needs none: gradients are written with the methods of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitskip.errors import SpecError, check_one_of

if TYPE_CHECKING:
    from torch import Tensor

    Gradient = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Quantizer:
    """One quantizer.

    Args:
        name: what specs call it.
        gradient: dq/dx of (x, progress), elementwise, in the dtype of `x`. `progress` is a tensor without
            axes, the share of training done in 0..1: gradients that sharpen during training read it.
        learns: whether the gradient is other than 0 anywhere; what does not learn cannot be an input's.
    """

    name: str
    gradient: Gradient
    learns: bool = True


QUANTIZERS: dict[str, Quantizer] = {}


def quantizer(name: str, *, learns: bool = True) -> Callable[[Gradient], Gradient]:
    """Return a decorator that puts a gradient into the table; a second one of a name replaces the first."""

    def add(gradient: Gradient) -> Gradient:
        QUANTIZERS[name] = Quantizer(name, gradient, learns)
        return gradient

    return add


def quantizer_of(name: str) -> Quantizer:
    """Return the row of `name`; raises SpecError for an unknown one."""
    check_one_of(name, QUANTIZERS, "unknown quantizer", SpecError)
    return QUANTIZERS[name]


def input_quantizers() -> tuple[str, ...]:
    """Return the names of those that 1-bit activations may have."""
    return tuple(row.name for row in QUANTIZERS.values() if row.learns)


@quantizer("ste_sign")
def ste_sign(x: Tensor, progress: Tensor) -> Tensor:
    """Clipped straight-through estimator: dq/dx = 1 if |x| <= 1 else 0.

    Courbariaux et al. 2016, "Binarized Neural Networks".
    """
    return (x.abs() <= 1).to(x.dtype)


@quantizer("approx_sign")
def approx_sign(x: Tensor, progress: Tensor) -> Tensor:
    """Piecewise quadratic sign: dq/dx = max(0, 2 - 2|x|).

    Liu et al. 2018, "Bi-Real Net". Meant for inputs of unit scale.
    """
    return (2 - 2 * x.abs()).clamp_min(0)


@quantizer("ede")
def ede(x: Tensor, progress: Tensor) -> Tensor:
    """Error decay estimator: dq/dx = k t (1 - tanh(t x)^2), k = max(1/t, 1).

    t grows log-linearly from 0.1 to 10 with `progress`. Qin et al. 2020, "IR-Net", equations 9 to 11.
    """
    t = 0.1 * 100.0 ** progress.to(x.dtype)
    k = (1 / t).clamp_min(1)
    return k * t * (1 - (t * x).tanh() ** 2)


@quantizer("reste")
def reste(x: Tensor, progress: Tensor) -> Tensor:
    """Rectified straight-through: dq/dx = (1/o) |x|^(1/o - 1) for 0.1 < |x| <= 1.5.

    Constant below 0.1 (its value at 0.1), 0 above 1.5; o grows linearly from 1 to 3 with `progress`.
    Wu et al. 2023, "Estimator Meets Equilibrium Perspective", equation 12.
    """
    inverse = 1 / (1 + 2 * progress.to(x.dtype))
    magnitude = x.abs()
    slope = inverse * magnitude.clamp_min(0.1) ** (inverse - 1)
    return slope.masked_fill(magnitude > 1.5, 0)


@quantizer("none", learns=False)
def none(x: Tensor, progress: Tensor) -> Tensor:
    """No estimator: dq/dx = 0 everywhere, as automatic differentiation gives it."""
    return x.new_zeros(()).expand_as(x)
