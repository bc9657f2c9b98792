"""Every quantizer's gradient is the same through torch.compile: a dead one would let training run on in vain.

torch 2.11 once took the result of an autograd function with two numbers as branches for a constant.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bitskip.nn import SignQuantizer
from bitskip.nn.layers import BinaryConv2d
from bitskip.quantizers import QUANTIZERS


class _All(nn.Module):
    """One small branch a quantizer, of 1-bit weights and of 1-bit activations, side by side."""

    def __init__(self) -> None:
        super().__init__()
        for name in QUANTIZERS:
            self.add_module(f"w_{name}", BinaryConv2d(4, 4, 3, 1, 1, weight_quantizer=name))
            self.add_module(f"i_{name}", nn.Conv2d(4, 4, 1))
            self.add_module(f"q_{name}", SignQuantizer(name))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for name in QUANTIZERS:
            y = getattr(self, f"w_{name}")(x)
            outputs += [y, getattr(self, f"q_{name}")(getattr(self, f"i_{name}")(x))]
        return torch.stack(outputs)


def _gradients(network: nn.Module, forward: object, x: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = forward(x)  # type: ignore[operator]
    (y.float() * torch.randn(y.shape)).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "backend",
    ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],  # it calls a compiler
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_gradients_are_those_of_plain_python(backend: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = _All().train()
    twin = copy.deepcopy(network)
    x = torch.randn(2, 4, 5, 5)
    want = _gradients(network, network, x, dtype)
    got = _gradients(twin, torch.compile(twin, backend=backend), x, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for name, gradient in want.items():
        off = tolerance * float(gradient.abs().max())
        torch.testing.assert_close(got[name], gradient, rtol=tolerance, atol=off)
        alive = "none" not in name
        assert bool(got[name].any()) == alive, f"{name}: gradient {'dead' if alive else 'not zero'}"
