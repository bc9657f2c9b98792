"""NetworkSpec to torch: the residual network with exactly the layers that the spec lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.nn.blocks import ResidualBlock, make_activation, make_conv
from bitskip.nn.layers import Int8Linear
from bitskip.spec import BlockSpec, NetworkSpec


class Stem(nn.Module):
    """The first convolution with BN and activation, and the max pool of ImageNet stems."""

    def __init__(self, spec: NetworkSpec, before_binary: bool) -> None:
        super().__init__()
        self.conv = make_conv(spec.stem_layer, spec)
        self.bn = nn.BatchNorm2d(spec.stem_width)
        self.activation = make_activation(spec, spec.stem_width, before_binary)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem == "imagenet" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Turn pictures into the first feature map."""
        out: Tensor = self.pool(self.activation(self.bn(self.conv(x))))
        return out


class ResNet(nn.Module):
    """The network of `spec`; its parameters are those of `spec.iter_layers()`, under the same names.

    Shape: (N, spec.input_channels, spec.input_size, spec.input_size) to logits (N, spec.classes).
    """

    def __init__(self, spec: NetworkSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        blocks = list(spec.iter_blocks())
        self.stem = Stem(spec, _reads_signs(blocks[0]))
        stages: list[list[tuple[str, nn.Module]]] = [[] for _ in spec.widths]
        feeds_binary = [_reads_signs(after) for _, after in pairwise(blocks)] + [False]
        for block, binary in zip(blocks, feeds_binary, strict=True):
            stages[block.stage].append((block.name, ResidualBlock(block, spec, dropout, binary)))
        for number, members in enumerate(stages, 1):
            stage = nn.Sequential()
            for name, module in members:
                stage.add_module(name.split(".")[1], module)
            self.add_module(f"stage{number}", stage)
        self.stage_count = len(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        head = Int8Linear if spec.head_precision == "int8" else nn.Linear
        self.head = head(spec.feature_channels, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of normalised pictures."""
        x = self.stem(x)
        for number in range(1, self.stage_count + 1):
            x = getattr(self, f"stage{number}")(x)
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def _reads_signs(block: BlockSpec) -> bool:
    readers = (block.convs[0], block.projection)
    return any(layer is not None and layer.precision == "w1a1" for layer in readers)


def build(spec: NetworkSpec, dropout: float = 0.0) -> ResNet:
    """Return the torch network of `spec`, freshly initialised from torch's random generator.

    Args:
        spec: the network; its 1-bit layers become `BinaryConv2d`.
        dropout: probability of dropping an activation between a block's convolutions, 0..1.
    """
    return ResNet(spec, dropout)


def follows_its_spec(model: nn.Module) -> bool:
    """Whether `model` is a network of bitskip whose modules are all those that its spec says.

    A rewired one (`bitskip.pruning`) may hold blocks that no spec describes; nor does a spec know of layers
    that were set otherwise, hooked or given another forward.
    """
    if not isinstance(model, ResNet):
        return False
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False
    with torch.device("meta"):
        expected = build(model.spec)
    return _structure(model) == _structure(expected)


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "pad_value")


def _structure(network: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Size]]:
    return (
        {
            name: (type(module), *(getattr(module, key, None) for key in _GEOMETRY))
            for name, module in network.named_modules()
        },
        {name: value.shape for name, value in network.state_dict().items()},
    )
