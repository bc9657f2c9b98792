"""What a Program cannot express is refused by name, with what was expected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from modules import Of, layer
from torch import nn
from torch.ao.quantization import (
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
    quantize_fx,
)
from torch.nn import functional as F
from torch.nn.utils import prune

from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.nn import BinaryConv2d, SignQuantizer, build
from bitskip.spec import named_spec

PACKABLE = r"; a packed model is made of convolutions .*"


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return x + other


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Giving(nn.Sequential):
    """A convolution, and what `function` makes of its map."""

    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__(nn.Conv2d(3, 4, 3))
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self[0](x))


def real_weights() -> nn.Module:
    conv = BinaryConv2d(4, 4, 1)
    conv.real_weights = True
    return layer(conv)


def pruned_weights() -> nn.Module:
    return layer(prune.random_unstructured(nn.Conv2d(4, 4, 1), "weight", 0.5))


def replaced_forward() -> nn.Module:
    conv = nn.Conv2d(4, 4, 1)
    own = conv.forward
    conv.forward = lambda x: own(x) * 3  # type: ignore[method-assign]
    return layer(conv)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "padding": (lambda: layer(nn.Conv2d(4, 4, 3, padding=5, dilation=2)), r"padding \(5, 5\), expected"),
    "reflection": (
        lambda: layer(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        "has padding_mode='reflect', expected 'zeros'",
    ),
    "same": (
        lambda: layer(nn.Conv2d(4, 4, 2, padding="same")),
        r"padding='same' with an even kernel \(2, 2\)",
    ),
    "wide padding": (lambda: layer(nn.Conv2d(4, 4, 1, padding=1)), "expected padding below dilation"),
    "transposed": (
        lambda: layer(nn.ConvTranspose2d(4, 4, 2)),
        r"'1' \(ConvTranspose2d\) has no counterpart" + PACKABLE,
    ),
    "GELU": (lambda: layer(nn.GELU()), r"'1' \(GELU\) has no counterpart" + PACKABLE),
    "clamp": (
        lambda: Of(lambda x: x.clamp(0, 5)),
        r"clamp\(\) in .* clamps to 0\.\.5, expected 0\.\.None \(ReLU\) or 0\.\.6 \(ReLU6\)" + PACKABLE,
    ),
    "product of two maps": (
        lambda: Of(lambda x: x * F.relu(x)),
        r"multiplies \(4, 12, 12\) and \(4, 12, 12\), expected one of them with one pixel" + PACKABLE,
    ),
    "rows joined": (
        lambda: Of(lambda x: torch.cat((x, x), 2)),
        r"cat\(\) in the network's forward joins along dimension 2, expected 1, the channels",
    ),
    "sizes joined": (
        lambda: Of(lambda x: torch.cat((x, F.max_pool2d(x, 2)), 1), 8),
        r"joins the channels of \(4, 12, 12\), \(4, 6, 6\), expected one height and width",
    ),
    "a constant joined": (
        lambda: Of(lambda x: torch.cat((x, torch.zeros(2, 1, 12, 12)), 1), 5),
        "joins what is not made from the picture",
    ),
    "subtraction": (
        lambda: Of(lambda x: x - F.relu(x)),
        r"sub\(\) .* expected a sum or a product" + PACKABLE,
    ),
    "division": (lambda: Of(lambda x: 1 / x), r"truediv\(\) .* divides by a tensor of the network"),
    "sign": (lambda: layer(SignQuantizer("ste_sign")), "has no counterpart"),
    "permutation": (lambda: Of(lambda x: x.permute(0, 1, 3, 2)), r"permute\(\) .* has no counterpart"),
    "broadcast over pixels": (
        lambda: Of(lambda x: x + torch.ones(12)),
        r"constant of shape \(12,\), expected one value a channel",
    ),
    "unequal addition": (
        lambda: Of(lambda x: x + F.adaptive_avg_pool2d(x, 1)),
        r"adds \(4, 12, 12\) and \(4, 1, 1\), expected equal shapes",
    ),
    "half precision": (lambda: Of(lambda x: x.to(torch.float16)), "torch.float16, expected float32"),
    "mixed pictures": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Reshaped(-1, 4)),
        "mixes the pictures of a batch",
    ),
    "max pool with dilation": (lambda: layer(nn.MaxPool2d(2, dilation=2)), "dilation=2, return_indices"),
    "divisor": (lambda: layer(nn.AvgPool2d(2, divisor_override=3)), "divisor_override=3, expected None"),
    "beyond the padding": (
        lambda: layer(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
        "has ceil_mode with count_include_pad and windows beyond the padding",
    ),
    "uneven adaptive": (lambda: layer(nn.AdaptiveAvgPool2d(7)), "12x12 to 7x7, expected .* divides evenly"),
    "mean over width": (lambda: Of(lambda x: x.mean(3, keepdim=True)), "expected over height and width"),
    "batch statistics": (
        lambda: layer(nn.BatchNorm2d(4, track_running_stats=False)),
        "normalises by the statistics of the batch",
    ),
    "norm of a flattened picture": (
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 12 * 12), nn.Linear(3 * 12 * 12, 5)),
        r"from a picture of 12x12 pixels, expected one a channel",
    ),
    "linear on channels last": (lambda: layer(nn.Linear(12, 12)), "expected a vector; flatten the picture"),
    "dropping in evaluation": (lambda: Of(lambda x: F.dropout(x, 0.5)), "drops values in evaluation too"),
    "latent weights": (real_weights, "'1' computes with its latent weights"),
    "hooks": (pruned_weights, r"'1' \(Conv2d\) has forward hooks"),
    "replaced forward": (replaced_forward, r"'1' \(Conv2d\) has had its forward replaced"),
    "nothing": (nn.Identity, "gives its picture as it is"),
    "two inputs": (TwoInputs, "takes an input 'other' that input_shape does not name"),
    "control flow": (Branching, "torch.fx cannot trace its forward"),
    "its picture twice": (Pair, "gives its picture as it is"),
    "the same twice": (lambda: Giving(lambda x: (x, x)), "outputs 0, 1 are the same"),
    "something beside a map": (lambda: Giving(lambda x: (x, 3)), "returns a tuple, expected a tensor"),
    "a flattened map": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), r"the shape \(N, 400\)"),
}


class Reshaped(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.shape)


def float_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()


def observed() -> nn.Module:
    example = (torch.zeros(1, 3, 12, 12),)
    return quantize_fx.prepare_fx(float_network(), get_default_qconfig_mapping("fbgemm"), example)


def converted() -> nn.Module:
    model = observed()
    model(torch.randn(1, 3, 12, 12))
    return quantize_fx.convert_fx(model)


def with_fake_quantization() -> nn.Module:
    model, example = float_network().train(), (torch.zeros(1, 3, 12, 12),)
    return quantize_fx.prepare_qat_fx(model, get_default_qat_qconfig_mapping("fbgemm"), example)


@pytest.mark.filterwarnings("ignore")  # torch deprecates torch.ao
@pytest.mark.parametrize("make", [observed, converted, with_fake_quantization])
def test_networks_that_torch_quantized(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        LoweringError, match="is of torch.ao's quantization, .* pack the network as it was before"
    ):
        lower(make(), input_shape=(3, 12, 12))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(LoweringError, match=message):
        lower(make(), input_shape=(3, 12, 12))


def test_int8_sums_that_could_overflow() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 150 * 150, 5))
    calibration = np.zeros((1, 150, 150, 3), np.uint8)
    with pytest.raises(LoweringError, match="layer '1' sums 67500 products, expected at most 66311 in int8"):
        lower(model, input_shape=(3, 150, 150), activations="int8", dense="int8", calibration=calibration)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5,) * 3, (0.2, 0.0, 0.2)),
        ((0.5,) * 3, (-1.0,) * 3),
        ((float("nan"),) * 3, (1.0,) * 3),
        ((), (1e999,) * 3),
    ],
)
def test_normalisations_that_no_picture_has(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(LoweringError, match="expected finite numbers, and deviations above 0"):
        lower(nn.Sequential(nn.Conv2d(3, 4, 3)), mean, std, input_shape=(3, 12, 12))


def test_input_shapes() -> None:
    with pytest.raises(LoweringError, match=r"give input_shape=\(channels, height, width\)"):
        lower(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    with pytest.raises(LoweringError, match="expected \\(channels, height, width\\) in pixels"):
        lower(nn.Flatten(), input_shape=(3, 0, 8))
    model = build(named_spec("resnet14-full-none-x0.0625"))
    with pytest.raises(LoweringError, match=r"is a network for \(3, 32, 32\); leave it out"):
        lower(model, input_shape=(3, 64, 64))
