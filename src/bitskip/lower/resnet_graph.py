"""The graph of a network that `bitskip.nn.build` made, read along its spec."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bitskip.lower.folding import (
    Folded,
    array,
    batch_norm_terms,
    binary_weight,
    conv_node,
    module_activation,
    scaling,
)
from bitskip.lower.graph import Graph, PoolNode, Shape
from bitskip.nn import BinaryConv2d, LearnedThreshold, ResNet
from bitskip.nn.blocks import ResidualBlock, Shortcut
from bitskip.spec import BlockSpec, LayerSpec

__all__ = ["resnet_graph"]


def resnet_graph(model: ResNet) -> Graph:
    """Return the graph of a network that follows its spec; call it in evaluation mode, without gradients."""
    return _Builder(model).build()


class _Builder:
    def __init__(self, model: ResNet) -> None:
        self.model, self.spec = model, model.spec
        size = self.spec.input_size
        self.graph = Graph(self.spec.name, self.spec, [], [(size, size, self.spec.input_channels)], {})

    def build(self) -> Graph:
        stem: Any = self.model.stem
        value = self.conv(self.spec.stem_layer, 0, stem.conv, stem.bn, pre=stem.activation)
        if isinstance(stem.pool, nn.MaxPool2d):
            value = self.pool("stem.pool", "max", value, 3, 2, 1)
        for block in self.spec.iter_blocks():
            value = self.block(block, self.model.get_submodule(block.name), value)
        value = self.pool("pool", "global", value)
        self.head(value)
        self.graph.outputs["logits"] = self.graph.nodes[-1].output
        return self.graph

    def value(self, shape: Shape) -> int:
        self.graph.shapes.append(shape)
        return len(self.graph.shapes) - 1

    def block(self, block: BlockSpec, module: nn.Module, x: int) -> int:
        assert isinstance(module, ResidualBlock)
        kept = module.shortcut is not None
        y = x
        for index, layer in enumerate(block.convs, 1):
            last = index == len(block.convs)
            added = kept and (module.style == "per_conv" or last)
            residual = None
            if added:
                # The first convolution of a per_conv block and the last of the others take the block's input.
                of_block = index == 1 or module.style != "per_conv"
                residual = self.shortcut(block, module.shortcut, x) if of_block else y
            activation = getattr(module, f"activation{index}")
            after = added and module.style != "paper"
            y = self.conv(
                layer,
                y,
                getattr(module, f"conv{index}"),
                getattr(module, f"bn{index}"),
                pre=None if after else activation,
                residual=residual,
                post=activation if after else None,
                threshold=getattr(module, f"threshold{index}"),
            )
        return y

    def shortcut(self, block: BlockSpec, module: nn.Module | None, x: int) -> int:
        if not isinstance(module, Shortcut):
            return x
        assert block.projection is not None
        if isinstance(module.pool, nn.AvgPool2d):
            x = self.pool(f"{block.name}.shortcut.pool", "avg", x, block.stride, block.stride)
        return self.conv(
            block.projection, x, module.conv, module.bn, pre=module.activation, threshold=module.threshold
        )

    def pool(self, name: str, kind: str, x: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> int:
        height, width, channels = self.graph.shapes[x]
        if kind == "global":
            shape = (1, 1, channels)
        elif kind == "max":
            shape = (
                (height + 2 * padding - kernel) // stride + 1,
                (width + 2 * padding - kernel) // stride + 1,
                channels,
            )
        else:
            shape = (-(-height // stride), -(-width // stride), channels)
        y = self.value(shape)
        self.graph.nodes.append(PoolNode(name, kind, x, y, (kernel,) * 2, (stride,) * 2, (padding,) * 2))
        return y

    def conv(
        self,
        layer: LayerSpec,
        x: int,
        conv: Any,
        bn: Any,
        *,
        pre: nn.Module | None = None,
        residual: int | None = None,
        post: nn.Module | None = None,
        threshold: nn.Module | None = None,
    ) -> int:
        folded, weight = Folded(), conv.weight
        tail: list[Callable[[Tensor], Tensor]] = []
        if isinstance(conv, BinaryConv2d):
            weight, factor = binary_weight(layer.name, conv), conv.output_scale()
            if factor is not None:
                folded = folded.then(factor, None)
                tail.append(scaling(factor))
        folded = folded.then(
            *batch_norm_terms(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps)
        )
        tail += [copy.deepcopy(module).float().cpu() for module in (bn, pre, post) if module is not None]
        height, width, _ = self.graph.shapes[x]
        room_y, room_x = (side + 2 * layer.padding - layer.kernel for side in (height, width))
        y = self.value((room_y // layer.stride + 1, room_x // layer.stride + 1, layer.out_channels))
        node = conv_node(
            layer.name,
            layer.precision,
            (x, y),
            weight,
            folded,
            stride=(layer.stride,) * 2,
            padding=(layer.padding,) * 2,
            pad_value=conv.pad_value if isinstance(conv, BinaryConv2d) else 0,
            pre=module_activation(pre),
            residual=residual,
            post=module_activation(post),
            threshold=array(threshold.threshold) if isinstance(threshold, LearnedThreshold) else None,
            tail=tail,
        )
        self.graph.nodes.append(node)
        return y

    def head(self, x: int) -> None:
        layer, head = self.spec.head_layer, self.model.head
        y = self.value((1, 1, layer.out_channels))
        folded = Folded().then(None, head.bias)
        self.graph.nodes.append(
            conv_node(layer.name, layer.precision, (x, y), head.weight[:, :, None, None], folded)
        )
