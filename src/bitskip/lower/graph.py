"""A trained network as a graph of folded layers: what is computed, before it is decided in which numbers.

A node is a convolution with everything that follows it up to the next one (scale, BN, activations, a
residual add), or what stands alone: a pool, an affine map with its activation, an addition, a product with
one value a channel, a concatenation. Values are numbered; the first are the normalised inputs, most often one
picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bitskip.program import Activation
from bitskip.spec import NetworkSpec

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]  # H, W, C
Pair = tuple[int, int]  # along the height, along the width


@dataclass(eq=False)
class ConvNode:
    """acc*scale + bias; pre; + residual; post, of a convolution (a linear layer is as large as its input)."""

    name: str
    precision: str  # fp32, int8, w1 or w1a1, as it is declared
    input: int
    output: int
    weight: Floats  # (O, KH, KW, I / groups): +1/-1 for w1 and w1a1
    stride: Pair
    padding: Pair
    pad_value: int
    scale: Floats | None  # float32 (O,)
    bias: Floats | None  # float32 (O,)
    pre: Activation = field(default_factory=Activation)
    residual: int | None = None
    post: Activation = field(default_factory=Activation)
    threshold: Floats | None = None  # of the 1-bit input
    groups: int = 1
    dilation: Pair = (1, 1)
    tail: tuple[Callable[[Tensor], Tensor], ...] = ()  # what training computes after it, for thresholds

    def run_tail(self, acc: Tensor, threshold: Tensor | None) -> Tensor:
        """Return what training compares with 0 after this node, in training's own float operations."""
        for step in self.tail:
            acc = step(acc)
        return acc if threshold is None else acc - threshold.view(1, -1, 1, 1)


@dataclass(eq=False)
class AffineNode:
    """x*scale + bias; pre: a batch norm or an activation that no convolution takes."""

    name: str
    input: int
    output: int
    scale: Floats | None  # float32 (C,)
    bias: Floats | None
    pre: Activation = field(default_factory=Activation)


@dataclass(eq=False)
class AddNode:
    """x + residual; post: an addition that no convolution takes."""

    name: str
    input: int
    residual: int
    output: int
    post: Activation = field(default_factory=Activation)


@dataclass(eq=False)
class PoolNode:
    """`max`, `avg` or `global` average, or another size by the `nearest` pixel or `bilinear`ly.

    Windows are cut off at the edge, so torch's ceil_mode is a size.
    """

    name: str
    kind: str
    input: int
    output: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    count_padding: bool = False  # avg: padding counts as values of 0


@dataclass(eq=False)
class MulNode:
    """x times one value a channel (squeeze and excitation): `factor` is a value of 1x1 pixels."""

    name: str
    input: int
    factor: int
    output: int


@dataclass(eq=False)
class ConcatNode:
    """The channels of two to four values, one after the other."""

    name: str
    inputs: tuple[int, ...]
    output: int


@dataclass(eq=False)
class TableNode:
    """One int8 code for each of the 256 codes of its input: both values live as int8."""

    name: str
    input: int
    output: int
    table: npt.NDArray[np.int8]  # (256,)


Node = TableNode | ConvNode | AffineNode | AddNode | PoolNode | MulNode | ConcatNode


def node_inputs(node: Node) -> tuple[int, ...]:
    """Return the values that `node` reads."""
    match node:
        case ConcatNode():
            return node.inputs
        case MulNode():
            return node.input, node.factor
        case AddNode():
            return node.input, node.residual
        case ConvNode() if node.residual is not None:
            return node.input, node.residual
        case _:
            return (node.input,)


@dataclass(eq=False)
class Graph:
    """The nodes in the order they run, and the shape of each value."""

    name: str
    spec: NetworkSpec | None  # None where no spec says what the network is
    nodes: list[Node]
    shapes: list[Shape]
    outputs: dict[str, int]  # what the network gives, by name; a classifier's only one is `logits`
    inputs: tuple[str, ...] = ("picture",)  # names of what it takes: values 0, 1, ...
