"""A trained network as a graph of folded layers: what is computed, before it is decided in which numbers.

Each node is a convolution with everything that follows it up to the next one (scale, BN, activations, a
residual add), or a pool. Values are numbered; value 0 is the normalised picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitskip.errors import LoweringError
from bitskip.nn import BinaryConv2d, LearnedThreshold, ResNet, RPReLU
from bitskip.nn.blocks import ResidualBlock, Shortcut
from bitskip.program import Activation
from bitskip.spec import BlockSpec, LayerSpec, NetworkSpec

__all__ = ["ConvNode", "Graph", "PoolNode", "build_graph"]

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]  # H, W, C


@dataclass(eq=False)
class ConvNode:
    """acc*scale + bias; pre; + residual; post, of a convolution (or the head, a 1x1 one)."""

    name: str
    precision: str  # fp32, int8, w1 or w1a1, as the spec declares it
    input: int
    output: int
    weight: Floats  # (O, KH, KW, I): +1/-1 for w1 and w1a1
    stride: int
    padding: int
    pad_value: int
    scale: Floats | None  # float32 (O,)
    bias: Floats
    pre: Activation = field(default_factory=Activation)
    residual: int | None = None
    post: Activation = field(default_factory=Activation)
    threshold: Floats | None = None  # of the 1-bit input
    tail: tuple[nn.Module, ...] = ()  # what training computes between convolution and add, for thresholds

    def run_tail(self, acc: Tensor, threshold: Floats | None) -> Tensor:
        """Return what training compares with 0 after this node, in training's own float operations."""
        for module in (*self.tail, *_threshold_module(threshold)):
            acc = module(acc)
        return acc


@dataclass(eq=False)
class PoolNode:
    """`max`, `avg` (torch's ceil_mode, without padding) or `global` average."""

    name: str
    kind: str
    input: int
    output: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0


Node = ConvNode | PoolNode


@dataclass(eq=False)
class Graph:
    """The nodes in the order they run, and the shape of each value."""

    spec: NetworkSpec
    nodes: list[Node]
    shapes: list[Shape]

    @property
    def output(self) -> int:
        """The value that holds the logits."""
        return self.nodes[-1].output


class _Scale(nn.Module):
    """Multiplication by a 1-bit layer's scale, as its forward does it."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(scale.view(1, -1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.factor
        return scaled


def _threshold_module(threshold: Floats | None) -> tuple[nn.Module, ...]:
    if threshold is None:
        return ()
    module = LearnedThreshold(len(threshold))
    module.threshold.data.copy_(torch.from_numpy(threshold))
    return (module,)


def build_graph(model: nn.Module) -> Graph:
    """Return the graph of a network that `bitskip.nn.build` made, with its weights as they are now.

    Raises:
        LoweringError: for another kind of model, or weights that are not finite.
    """
    if not isinstance(model, ResNet):
        raise LoweringError(
            f"got a {type(model).__name__}; only networks that bitskip.nn.build makes can be packed"
        )
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise LoweringError(f"'{name}' holds values that are not finite; the network cannot be packed")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _Builder(model).build()
    finally:
        model.train(was_training)


class _Builder:
    def __init__(self, model: ResNet) -> None:
        self.model, self.spec = model, model.spec
        size = self.spec.input_size
        self.graph = Graph(self.spec, [], [(size, size, self.spec.input_channels)])

    def build(self) -> Graph:
        stem: Any = self.model.stem
        value = self.conv(self.spec.stem_layer, 0, stem.conv, stem.bn, pre=stem.activation)
        if isinstance(stem.pool, nn.MaxPool2d):
            value = self.pool("stem.pool", "max", value, 3, 2, 1)
        for block in self.spec.iter_blocks():
            value = self.block(block, self.model.get_submodule(block.name), value)
        value = self.pool("pool", "global", value)
        self.head(value)
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
        self.graph.nodes.append(PoolNode(name, kind, x, y, kernel, stride, padding))
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
        alpha = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        beta = bn.bias - bn.running_mean * alpha
        scale: Tensor | None = alpha
        tail: list[nn.Module] = [bn]
        if isinstance(conv, BinaryConv2d):
            weight = conv.signs()
            factor = conv.output_scale()
            if factor is not None:
                scale = (alpha.double() * factor.double()).float()
                tail.insert(0, _Scale(factor.detach()))
        else:
            weight = (conv.weight.double() * alpha.double().view(-1, 1, 1, 1)).float()
            scale = None
        tail += [module for module in (pre, post) if module is not None]
        height, width, _ = self.graph.shapes[x]
        room_y, room_x = (side + 2 * layer.padding - layer.kernel for side in (height, width))
        y = self.value((room_y // layer.stride + 1, room_x // layer.stride + 1, layer.out_channels))
        node = ConvNode(
            name=layer.name,
            precision=layer.precision,
            input=x,
            output=y,
            weight=_array(weight.permute(0, 2, 3, 1)),
            stride=layer.stride,
            padding=layer.padding,
            pad_value=conv.pad_value if isinstance(conv, BinaryConv2d) else 0,
            scale=None if scale is None else _array(scale),
            bias=_array(beta),
            pre=_activation(pre),
            residual=residual,
            post=_activation(post),
            threshold=_array(threshold.threshold) if isinstance(threshold, LearnedThreshold) else None,
            tail=tuple(tail),
        )
        self.graph.nodes.append(node)
        return y

    def head(self, x: int) -> None:
        head = self.model.head
        layer = self.spec.head_layer
        self.graph.nodes.append(
            ConvNode(
                name=layer.name,
                precision=layer.precision,
                input=x,
                output=self.value((1, 1, layer.out_channels)),
                weight=_array(head.weight[:, None, None, :]),
                stride=1,
                padding=0,
                pad_value=0,
                scale=None,
                bias=_array(head.bias),
            )
        )


def _array(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.detach().float().cpu().numpy())


def _activation(module: nn.Module | None) -> Activation:
    if module is None or isinstance(module, nn.Identity):
        return Activation()
    if isinstance(module, nn.ReLU):
        return Activation("relu")
    if isinstance(module, RPReLU):
        return Activation("rprelu", _array(module.slope), _array(module.shift_in), _array(module.shift_out))
    raise LoweringError(f"activation {type(module).__name__} cannot be packed")
