"""The residual block in its three styles, built from a BlockSpec.

- `paper`: conv-BN-ReLU, dropout, conv-BN-ReLU, and the shortcut is added after the ReLUs; a projection
  shortcut is conv1x1-BN-ReLU.
- `standard`: the shortcut is added before the last ReLU (He et al. 2016); a projection is conv1x1-BN.
- `per_conv`: a shortcut around every convolution, then the activation (Bi-Real Net, Liu et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitskip.nn.layers import BinaryConv2d, Dropout, Int8Conv2d, LearnedThreshold, RPReLU
from bitskip.spec import BlockSpec, LayerSpec, NetworkSpec

# E[ReLU(z)] of a standard normal z: with it about half of a batch-normalised ReLU's outputs lie below.
_THRESHOLD_AFTER_RELU = 0.4


def make_conv(layer: LayerSpec, spec: NetworkSpec) -> nn.Module:
    """Return the convolution that `layer` describes, without bias."""
    if layer.precision in ("w1", "w1a1"):
        binary_input = layer.precision == "w1a1"
        return BinaryConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            weight_quantizer=spec.weight_quantizer,
            input_quantizer=spec.input_quantizer if binary_input else None,
            weight_scale=spec.weight_scale,
            pad_value=spec.pad_value if binary_input else 0,
        )
    kind = Int8Conv2d if layer.precision == "int8" else nn.Conv2d
    conv = kind(layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def make_activation(spec: NetworkSpec, channels: int, before_binary: bool) -> nn.Module:
    """Return the activation of `spec`; none where it would make the sign that follows a constant."""
    if spec.activation == "rprelu":
        return RPReLU(channels)
    if before_binary and spec.before_binary == "no_relu":
        return nn.Identity()
    return nn.ReLU(inplace=True)


def _make_threshold(layer: LayerSpec, spec: NetworkSpec) -> nn.Module:
    if layer.precision != "w1a1" or spec.before_binary != "threshold":
        return nn.Identity()
    initial = _THRESHOLD_AFTER_RELU if spec.activation == "relu" else 0.0
    return LearnedThreshold(layer.in_channels, initial)


class Projection(nn.Module):
    """The projection of a shortcut: [average pool,] conv1x1-BN, and ReLU in style `paper`."""

    def __init__(self, block: BlockSpec, spec: NetworkSpec, before_binary: bool) -> None:
        super().__init__()
        layer = block.projection
        if layer is None:
            raise ValueError(f"{block.name} has no projection")
        pooled = spec.projection == "pool_conv" and block.stride > 1
        self.pool = (
            nn.AvgPool2d(block.stride, ceil_mode=True, count_include_pad=False) if pooled else nn.Identity()
        )
        self.threshold = _make_threshold(layer, spec)
        self.conv = make_conv(layer, spec)
        self.bn = nn.BatchNorm2d(layer.out_channels)
        self.activation = (
            make_activation(spec, layer.out_channels, before_binary)
            if spec.style == "paper"
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Project (N, C_in, H, W) to the shape of the block's output."""
        x = self.threshold(self.pool(x))
        if torch.is_autocast_enabled("cpu"):
            # torch 2.13's bfloat16 gradient of a strided 1x1 convolution writes outside its buffers for some
            # shapes in channels_last (8 to 16 channels, 16 pixels, batch 25), so this layer stays in float32.
            with torch.autocast("cpu", enabled=False):
                y = self.conv(x.float())
        else:
            y = self.conv(x)
        out: Tensor = self.activation(self.bn(y))
        return out


class ResidualBlock(nn.Module):
    """One block of `spec`.

    Args:
        block: its convolutions and its shortcut.
        spec: the network it stands in, for style, quantizers and activation.
        dropout: probability of dropping an activation between the convolutions.
        before_binary: whether the block's output feeds a 1-bit input.

    Shape: (N, block.in_channels, H, W) to (N, block.out_channels, H', W').
    """

    def __init__(self, block: BlockSpec, spec: NetworkSpec, dropout: float, before_binary: bool) -> None:
        super().__init__()
        self.style = spec.style
        self.depth = len(block.convs)
        for index, layer in enumerate(block.convs, 1):
            following = block.convs[index].precision == "w1a1" if index < self.depth else before_binary
            self.add_module(f"threshold{index}", _make_threshold(layer, spec))
            self.add_module(f"conv{index}", make_conv(layer, spec))
            self.add_module(f"bn{index}", nn.BatchNorm2d(layer.out_channels))
            self.add_module(f"activation{index}", make_activation(spec, layer.out_channels, following))
        self.dropout = Dropout(dropout)
        self.shortcut: nn.Module | None
        if block.shortcut == "projection":
            self.shortcut = Projection(block, spec, before_binary)
        elif block.shortcut == "identity":
            self.shortcut = nn.Identity()
        else:
            self.shortcut = None

    def _conv(self, index: int, x: Tensor) -> Tensor:
        x = getattr(self, f"threshold{index}")(x)
        out: Tensor = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
        return out

    def _activate(self, index: int, x: Tensor) -> Tensor:
        out: Tensor = getattr(self, f"activation{index}")(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Run the block's convolutions and add its shortcut in the block's style."""
        y = x
        for index in range(1, self.depth + 1):
            last = index == self.depth
            branch = self._conv(index, y)
            if self.style == "per_conv" and self.shortcut is not None:
                branch = branch + (self.shortcut(y) if index == 1 else y)
            elif self.style == "standard" and last and self.shortcut is not None:
                branch = branch + self.shortcut(x)
            y = self._activate(index, branch)
            if not last:
                y = self.dropout(y)
        if self.style == "paper" and self.shortcut is not None:
            y = y + self.shortcut(x)
        return y
