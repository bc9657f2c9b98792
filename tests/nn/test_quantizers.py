"""One contract for all quantizers: forward, gradient against its formula, bf16, channels_last, state_dict."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitskip.bits import unpack_signs
from bitskip.cost import cost_of
from bitskip.errors import SpecError
from bitskip.lower import lower
from bitskip.nn import BinaryConv2d, SignQuantizer, build, set_progress
from bitskip.program import Conv2d
from bitskip.program.file import decode, encode
from bitskip.quantizers import QUANTIZERS, input_quantizers, quantizer
from bitskip.spec import NetworkSpec, named_spec


def _ede(x: float, progress: float) -> float:
    t = 0.1 * (10 / 0.1) ** progress
    return max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


def _reste(x: float, progress: float) -> float:
    o = 1 + (3 - 1) * progress
    if abs(x) > 1.5:
        return 0.0
    return (1 / o) * max(abs(x), 0.1) ** (1 / o - 1)


# The formulas of each method's paper, written a second time and one number at a time.
FORMULAS: dict[str, Callable[[float, float], float]] = {
    "ste_sign": lambda x, progress: 1.0 if abs(x) <= 1 else 0.0,
    "approx_sign": lambda x, progress: max(0.0, 2 - 2 * abs(x)),
    "ede": _ede,
    "reste": _reste,
    "none": lambda x, progress: 0.0,
}
POINTS = [-2.0, -1.5, -1.2, -1.0, -0.6, -0.1, -0.04, 0.0, 0.03, 0.1, 0.5, 1.0, 1.3, 1.5, 1.7]


def test_every_quantizer_has_a_formula_here() -> None:
    assert tuple(QUANTIZERS) == tuple(FORMULAS)
    assert input_quantizers() == tuple(name for name in FORMULAS if name != "none")


@pytest.mark.parametrize("name", FORMULAS)
class TestQuantizerContract:
    def test_forward_is_sign_with_zero_positive(self, name: str) -> None:
        x = torch.tensor([-3.0, -1e-30, -0.0, 0.0, 1e-30, 2.0])
        assert SignQuantizer(name)(x).tolist() == [-1, -1, 1, 1, 1, 1]

    @pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
    def test_gradient_follows_its_formula(self, name: str, progress: float) -> None:
        quantizer = SignQuantizer(name)
        set_progress(quantizer, progress)
        x = torch.tensor(POINTS, requires_grad=True)
        upstream = torch.linspace(0.5, 2, len(POINTS))
        (quantizer(x) * upstream).sum().backward()
        expected = [FORMULAS[name](p, progress) * u for p, u in zip(POINTS, upstream.tolist(), strict=True)]
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.tensor(expected), rtol=1e-5, atol=1e-6)

    def test_bfloat16_keeps_dtype_and_values(self, name: str) -> None:
        x = torch.tensor(POINTS, dtype=torch.bfloat16, requires_grad=True)
        y = SignQuantizer(name)(x)
        y.sum().backward()
        assert y.dtype == torch.bfloat16
        assert y.tolist() == [1.0 if p >= 0 else -1.0 for p in POINTS]
        assert x.grad is not None
        assert x.grad.dtype == torch.bfloat16

    def test_channels_last_stays_channels_last(self, name: str) -> None:
        x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
        y = SignQuantizer(name)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape

    def test_state_dict_holds_no_training_progress(self, name: str) -> None:
        quantizer = SignQuantizer(name)
        set_progress(quantizer, 0.7)
        assert quantizer.state_dict() == {}
        fresh = SignQuantizer(name)
        fresh.load_state_dict(quantizer.state_dict())
        assert float(fresh.progress) == 0.0


def test_unknown_quantizer_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'ste_sign'"):
        SignQuantizer("ste_sing")


def test_progress_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0..1"):
        set_progress(nn.Identity(), 1.5)


def test_a_function_in_the_table_is_all_that_a_quantizer_needs() -> None:
    """Named in a spec, trained a step, counted, read back from JSON and packed."""
    with patch.dict(QUANTIZERS):

        @quantizer("triangle")
        def triangle(x: Tensor, progress: Tensor) -> Tensor:
            return (1 - x.abs()).clamp_min(0)

        spec = NetworkSpec.from_dict(
            {
                **named_spec("resnet14-w1a1-all-x0.1").to_dict(),
                "weight_quantizer": "triangle",
                "input_quantizer": "triangle",
            }
        )
        model = build(spec)
        layer = model.get_submodule("stage2.block1.conv1")
        assert isinstance(layer, BinaryConv2d)
        before = layer.weight.detach().clone()
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        assert layer.weight.grad is not None
        assert bool((layer.weight.grad[before.abs() < 1] != 0).any())
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(layer.weight, before)
        assert cost_of(spec) == cost_of(named_spec("resnet14-w1a1-all-x0.1"))
        content = encode(lower(model.eval()))
    with pytest.raises(SpecError, match="weight_quantizer is 'triangle', expected one of ste_sign"):
        NetworkSpec.from_json(spec.to_json())
    # What is packed are signs: the file opens where nobody knows the quantizer.
    program = decode(content)
    (packed,) = (op for op in program.ops if isinstance(op, Conv2d) and op.name == "stage2.block1.conv1")
    np.testing.assert_array_equal(
        unpack_signs(packed.weight, layer.in_channels),
        np.where(layer.weight.detach().numpy() >= 0, 1, -1).transpose(0, 2, 3, 1),
    )
