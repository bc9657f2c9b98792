"""1-bit convolution and linear layers, and the small layers that stand around them.

A 1-bit layer keeps real `latent` weights in `weight` and computes with their signs. Weights and inputs
have quantizers of their own; an input quantizer of None means real activations (precision `w1`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.errors import SpecError
from bitskip.nn.quantizers import SignQuantizer, sign
from bitskip.spec import WEIGHT_SCALES


class Int8Conv2d(nn.Conv2d):
    """A convolution that is declared int8: real while it trains, int8 when the network is lowered."""

    precision = "int8"
    input_form = "codes"  # its input is stored as int8


class Int8Linear(nn.Linear):
    """A linear layer that is declared int8; see `Int8Conv2d`."""

    precision = "int8"
    input_form = "codes"


class BinaryLayer(nn.Module):
    """What the 1-bit layers share: quantizers, scale, latent weights.

    `standardise` subtracts each output channel's mean from its latent weights and divides by their
    standard deviation before the sign (IR-Net, Qin et al. 2020), which balances +1 and -1. `frozen` keeps
    the signs as they are, without gradient. `real_weights` computes with the latent weights themselves, for
    the first of two training steps (Martinez et al. 2020, "Training Binary Neural Networks with
    Real-to-Binary Convolutions").
    """

    weight: nn.Parameter
    weight_quantizer: SignQuantizer
    input_quantizer: SignQuantizer | None
    weight_scale: str
    scale: nn.Parameter | None
    standardise: bool
    frozen: bool
    real_weights: bool

    def _init_binary(self, weight_quantizer: str, input_quantizer: str | None, weight_scale: str) -> None:
        if weight_scale not in WEIGHT_SCALES:
            raise SpecError(f"weight_scale is '{weight_scale}', expected one of {', '.join(WEIGHT_SCALES)}")
        self.weight_quantizer = SignQuantizer(weight_quantizer)
        self.input_quantizer = None if input_quantizer is None else SignQuantizer(input_quantizer)
        self.weight_scale = weight_scale
        self.standardise = False
        self.frozen = False
        self.real_weights = False
        if weight_scale == "learned":
            self.scale = nn.Parameter(self._mean_magnitude().detach())
        else:
            self.register_parameter("scale", None)

    @property
    def precision(self) -> str:
        """`w1` (real activations) or `w1a1`."""
        return "w1" if self.input_quantizer is None else "w1a1"

    @property
    def input_form(self) -> str:
        """How the input is stored: `signs`, or `own` as it is. Graphs take a layer that says so as one op."""
        return "own" if self.input_quantizer is None else "signs"

    def _mean_magnitude(self) -> Tensor:
        return self.weight.abs().flatten(1).mean(1)

    def latent(self) -> Tensor:
        """Return the values whose signs are used: the weights, standardised if asked for."""
        if not self.standardise:
            return self.weight
        flat = self.weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        return (centred / (flat.std(1, keepdim=True) + 1e-8)).view_as(self.weight)

    def signs(self) -> Tensor:
        """Return the +1/-1 weights the layer computes with, float, shape of `weight`, no gradient."""
        return sign(self.latent().detach())

    def output_scale(self) -> Tensor | None:
        """Return the factor of each output channel, shape (out,), or None for 1."""
        if self.weight_scale == "channel":
            return self._mean_magnitude()
        return self.scale

    @torch.no_grad()
    def clip_latent_(self, bound: float = 1.0) -> None:
        """Clip the latent weights to +/-bound: beyond 1 the clipped estimator would never move them."""
        self.weight.clamp_(-bound, bound)

    def _binary_weight(self) -> Tensor:
        if self.real_weights:
            return self.latent()
        if self.frozen:
            # Still a part of the graph, so that distributed training finds a gradient for every parameter.
            return self.signs() + 0 * self.weight
        quantized: Tensor = self.weight_quantizer(self.latent())
        return quantized


class BinaryConv2d(BinaryLayer):
    """2-D convolution with 1-bit weights and, with an input quantizer, 1-bit activations.

    y = scale * conv(pad(q_in(x), pad_value), sign(weight)); no bias, since a batch norm follows.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: height = width of the kernel, in pixels.
        stride: step, in pixels.
        padding: pixels on each side.
        dilation: pixels from tap to tap.
        weight_quantizer: name of the weights' gradient estimator.
        input_quantizer: name of the activations' estimator, or None for real activations.
        weight_scale: `none`, `channel` (mean |latent|, XNOR-Net) or `learned`.
        pad_value: what lies outside the picture after quantization: 0, +1 or -1. With 0 a padded tap
            adds nothing, as in full precision.

    Shape: (N, in_channels, H, W) to (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        dilation: int = 1,
        weight_quantizer: str = "ste_sign",
        input_quantizer: str | None = None,
        weight_scale: str = "none",
        pad_value: int = 0,
    ) -> None:
        super().__init__()
        if pad_value not in (-1, 0, 1):
            raise SpecError(f"pad_value is {pad_value}, expected 0, +1 or -1")
        if pad_value != 0 and input_quantizer is None:
            raise SpecError(f"pad_value is {pad_value}, but real activations are padded with 0")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.pad_value = dilation, pad_value
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self._init_binary(weight_quantizer, input_quantizer, weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` with the signs of the latent weights."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        padding = self.padding
        if self.pad_value != 0 and padding > 0:
            x = F.pad(x, (padding,) * 4, value=float(self.pad_value))
            padding = 0
        y = F.conv2d(x, self._binary_weight(), None, self.stride, padding, self.dilation)
        scale = self.output_scale()
        return y if scale is None else y * scale.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, precision={self.precision}, "
            f"pad_value={self.pad_value}"
        )


class BinaryLinear(BinaryLayer):
    """Linear layer with 1-bit weights: y = scale * q_in(x) @ sign(weight)^T, plus a real bias if asked for.

    Shape: (..., in_features) to (..., out_features). Arguments as in `BinaryConv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        weight_quantizer: str = "ste_sign",
        input_quantizer: str | None = None,
        weight_scale: str = "none",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._init_binary(weight_quantizer, input_quantizer, weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `x` by the signs of the latent weights."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = F.linear(x, self._binary_weight())
        scale = self.output_scale()
        y = y if scale is None else y * scale
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        return f"{self.in_features}, {self.out_features}, precision={self.precision}"


class LearnedThreshold(nn.Module):
    """x - threshold per channel, before a 1-bit input (RSign of ReActNet, Liu et al. 2020, equation 6).

    Shape: (N, channels, H, W), unchanged.
    """

    def __init__(self, channels: int, initial: float = 0.0) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((channels,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        """Subtract each channel's threshold."""
        return x - self.threshold.view(1, -1, 1, 1)


class Dropout(nn.Dropout):
    """`nn.Dropout` that draws 16 random bits an element on CPUs, where torch draws 64, one after the other.

    The probability is rounded to a 65,536th. Torch's own took a quarter of a training step on two cores.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability p and scale the rest by 1 / (1 - p), when training."""
        dense = input.is_contiguous() or input.is_contiguous(memory_format=torch.channels_last)
        on_cpu = input.device.type == "cpu" and not torch.compiler.is_compiling()
        if not self.training or self.p == 0 or not (on_cpu and dense):
            return super().forward(input)
        count = input.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[:count] >= round(self.p * 65536) - 32768
        mask = kept.to(input.dtype).mul_(1 / (1 - self.p))
        return input * mask.as_strided(input.shape, input.stride())  # in the memory order of `input`


class RPReLU(nn.Module):
    """PReLU with learned shifts: z = x - shift_in; (z if z >= 0 else slope z) + shift_out, per channel.

    ReActNet, Liu et al. 2020, equation 7. Shape: (N, channels, H, W), unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shift, bend, shift."""
        z = x - self.shift_in.view(1, -1, 1, 1)
        z = F.prelu(z, self.slope.to(z.dtype))
        return z + self.shift_out.view(1, -1, 1, 1)


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """Return the 1-bit layers of `model` by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BinaryLayer)}
