"""1-bit layers against plain arithmetic on signs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from bitskip.errors import SpecError
from bitskip.nn import BinaryConv2d, BinaryLinear, LearnedThreshold, RPReLU


def _sign(x: torch.Tensor) -> torch.Tensor:
    return (x >= 0).float() * 2 - 1


@pytest.mark.parametrize(
    ("inputs", "scale", "pad_value"),
    [
        (None, "none", 0),
        (None, "channel", 0),
        (None, "learned", 0),
        *itertools.product(["ste_sign"], ["none", "channel"], [-1, 0, 1]),
    ],
)
def test_conv_computes_with_signs(inputs: str | None, scale: str, pad_value: int) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 4, 3, 2, 1, input_quantizer=inputs, weight_scale=scale, pad_value=pad_value)
    x = torch.randn(2, 3, 7, 7)
    seen = x if inputs is None else _sign(x)
    seen = F.pad(seen, (1, 1, 1, 1), value=float(pad_value))
    expected = F.conv2d(seen, _sign(conv.weight.detach()), stride=2)
    if scale != "none":  # learned scales start at the mean magnitude too
        expected = expected * conv.weight.detach().abs().mean((1, 2, 3)).view(1, -1, 1, 1)
    torch.testing.assert_close(conv(x), expected)
    assert conv.precision == ("w1" if inputs is None else "w1a1")


def test_zero_latent_weight_counts_as_plus_one() -> None:
    conv = BinaryConv2d(1, 1, 1)
    torch.nn.init.zeros_(conv.weight)
    assert conv.signs().item() == 1.0
    assert conv(torch.full((1, 1, 1, 1), 2.5)).item() == 2.5


def test_linear_computes_with_signs() -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(5, 3, bias=True, input_quantizer="ste_sign")
    x = torch.randn(4, 5)
    assert layer.bias is not None
    torch.testing.assert_close(layer(x), _sign(x) @ _sign(layer.weight).T + layer.bias)


def test_standardised_signs_are_those_of_the_centred_weights() -> None:
    conv = BinaryConv2d(2, 1, 1)
    conv.weight.data.copy_(torch.tensor([3.0, 5.0]).view(1, 2, 1, 1))
    assert conv.signs().flatten().tolist() == [1, 1]
    conv.standardise = True
    assert conv.signs().flatten().tolist() == [-1, 1]


def test_latent_weights_are_clipped() -> None:
    layer = BinaryLinear(2, 1)
    layer.weight.data.copy_(torch.tensor([[-3.0, 0.5]]))
    layer.clip_latent_(1.0)
    assert layer.weight.tolist() == [[-1.0, 0.5]]


def test_frozen_layer_gives_its_latent_weights_a_gradient_of_zero() -> None:
    conv = BinaryConv2d(2, 2, 3, padding=1)
    conv.frozen = True
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = conv(x)
    assert torch.equal(y, F.conv2d(x, conv.signs(), padding=1))
    y.sum().backward()
    assert conv.weight.grad is not None  # distributed training waits for one
    assert not conv.weight.grad.any()
    assert x.grad is not None


def test_real_weights_step_uses_the_latent_weights() -> None:
    conv = BinaryConv2d(2, 2, 3, padding=1)
    conv.real_weights = True
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, padding=1))


def test_rprelu_and_threshold_follow_their_formulas() -> None:
    act = RPReLU(1)
    act.shift_in.data.fill_(0.5)
    act.shift_out.data.fill_(2.0)
    x = torch.tensor([1.5, -1.5]).view(2, 1, 1, 1)
    torch.testing.assert_close(act(x).flatten(), torch.tensor([1.5 - 0.5 + 2, (-1.5 - 0.5) * 0.25 + 2]))
    assert LearnedThreshold(1, 0.25)(x).flatten().tolist() == [1.25, -1.75]


def test_state_dict_round_trip() -> None:
    first = BinaryConv2d(3, 4, 3, weight_scale="learned")
    second = BinaryConv2d(3, 4, 3, weight_scale="learned")
    second.load_state_dict(first.state_dict())
    assert set(first.state_dict()) == {"weight", "scale"}
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(first(x), second(x))


def test_pad_value_is_checked() -> None:
    with pytest.raises(SpecError, match="expected 0, \\+1 or -1"):
        BinaryConv2d(1, 1, 3, padding=1, input_quantizer="ste_sign", pad_value=2)
    with pytest.raises(SpecError, match="real activations are padded with 0"):
        BinaryConv2d(1, 1, 3, padding=1, pad_value=1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(
    memory_format: torch.memory_format, dtype: torch.dtype
) -> None:
    from bitskip.nn.layers import Dropout

    torch.manual_seed(0)
    x = torch.ones(16, 24, 31, 17, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    layer = Dropout(0.2)
    y = layer(x)
    share = float((y == 0).float().mean())
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1.25))
    assert y.stride() == x.stride()
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    per_place = (y == 0).float().mean(0)
    assert float(per_place.std()) == pytest.approx((0.2 * 0.8 / 16) ** 0.5, rel=0.05)  # independent places
    assert torch.equal(layer.eval()(x), x)
    assert not torch.equal(Dropout(0.5)(x), Dropout(0.5)(x))
