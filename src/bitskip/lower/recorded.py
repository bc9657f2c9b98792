"""What the torch.fx front end reads out of a model, op by op as a Program has them, not yet fused.

Tensors of the model are `Traced` values: a picture (C, H, W) under the shape that the model sees, which
may be a flattened one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bitskip.errors import LoweringError
from bitskip.lower.graph import AddNode, ConcatNode, MulNode, Pair, PoolNode, Shape, TableNode
from bitskip.program import Activation
from bitskip.program.schema import LIMITS

# Pictures that shapes are followed with: more than one, so that what mixes pictures is seen.
BATCH = 2
_PACKABLE = (
    "convolutions (grouped and dilated too) and linear layers, batch norms, ReLU, ReLU6, PReLU, "
    "RPReLU, sigmoid, SiLU and their hard forms, additions, products with one value a channel, "
    "concatenations of channels, max and average pools, nearest and bilinear resizes, and constants added or "
    "multiplied per channel"
)


@dataclass(frozen=True)
class Traced:
    """A tensor that depends on the picture."""

    value: int
    picture: Shape  # H, W, C of one picture
    shape: tuple[int, ...]  # as the model sees it, batch first

    @property
    def is_picture(self) -> bool:
        """Whether the model sees (N, C, H, W)."""
        height, width, channels = self.picture
        return self.shape == (BATCH, channels, height, width)

    @property
    def has_channels(self) -> bool:
        """Whether its second dimension is the channels: a picture, or a vector made from 1x1 pixels."""
        return self.is_picture or self.shape == (BATCH, self.picture[2])


@dataclass(eq=False)
class RecordedConv:
    """A convolution alone: bias and scale are ops of their own."""

    name: str
    input: int
    output: int
    precision: str
    weight: Tensor  # (O, I / groups, KH, KW)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    pad_value: int = 0
    groups: int = 1
    dilation: Pair = (1, 1)


@dataclass(eq=False)
class RecordedAffine:
    """x*scale + bias per channel, and what training computes for it."""

    name: str
    input: int
    output: int
    scale: Tensor | None  # (C,)
    bias: Tensor | None
    function: Callable[[Tensor], Tensor]


@dataclass(eq=False)
class RecordedActivation:
    """An activation, and what training computes for it."""

    name: str
    input: int
    output: int
    activation: Activation
    function: Callable[[Tensor], Tensor]


# What nothing folds into is recorded as the node that it becomes.
WholeNode = PoolNode | MulNode | ConcatNode | TableNode
RecordedOp = RecordedConv | RecordedAffine | RecordedActivation | AddNode | WholeNode


class Recorder:
    """Collects ops and numbers values.

    Attributes:
        ops: in the order they run.
        shapes: (H, W, C) of each value.
        name: of the operation that is being read.
        where: the same for messages, with its kind.
        precision: `fp32` or `int8`, as a real layer that is being read is declared.
    """

    def __init__(self, *input_shapes: tuple[int, int, int]) -> None:
        """Begin with the inputs, (C, H, W) each: values 0, 1, ..."""
        self.ops: list[RecordedOp] = []
        self.shapes: list[Shape] = [(height, width, channels) for channels, height, width in input_shapes]
        self.name = self.where = ""
        self.precision = "fp32"

    def refuse(self, why: str) -> NoReturn:
        """Raise the LoweringError of the present operation: `why` says what was got and expected."""
        raise LoweringError(f"{self.where} {why}")

    def refuse_kind(self, why: str = "has no counterpart") -> NoReturn:
        """Raise the LoweringError of an operation that a Program does not have, saying what it has."""
        self.refuse(f"{why}; a packed model is made of {_PACKABLE}")

    def need_channels(self, x: Traced) -> None:
        """Refuse values per element of what has no dimension of channels any more."""
        if not x.has_channels:
            self.refuse(
                f"has values per element of the shape {x.shape[1:]} made from a picture of "
                f"{x.picture[0]}x{x.picture[1]} pixels, expected one a channel; put it before the flattening"
            )

    def input(self, number: int) -> Traced:
        """Return input `number`."""
        height, width, channels = self.shapes[number]
        return Traced(number, self.shapes[number], (BATCH, channels, height, width))

    def value(self, picture: Shape, shape: tuple[int, ...]) -> Traced:
        """Return a new value."""
        self.shapes.append(picture)
        return Traced(len(self.shapes) - 1, picture, shape)

    def convolve(
        self,
        x: Traced,
        weight: Tensor,
        result: tuple[int, ...],
        precision: str = "fp32",
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        pad_value: int = 0,
        groups: int = 1,
        dilation: Pair = (1, 1),
    ) -> Traced:
        """Record a convolution with the result's shape as the model sees it."""
        height, width = result[2:] if len(result) == 4 else (1, 1)
        y = self.value((height, width, result[1]), result)
        self.ops.append(
            RecordedConv(
                self.name, x.value, y.value, precision, weight, stride, padding, pad_value, groups, dilation
            )
        )
        return y

    def affine(
        self, x: Traced, scale: Tensor | None, bias: Tensor | None, function: Callable[[Tensor], Tensor]
    ) -> Traced:
        """Record x*scale + bias."""
        y = self.value(x.picture, x.shape)
        self.ops.append(RecordedAffine(self.name, x.value, y.value, scale, bias, function))
        return y

    def activate(self, x: Traced, activation: Activation, function: Callable[[Tensor], Tensor]) -> Traced:
        """Record an activation."""
        y = self.value(x.picture, x.shape)
        self.ops.append(RecordedActivation(self.name, x.value, y.value, activation, function))
        return y

    def add(self, x: Traced, other: Traced) -> Traced:
        """Record an addition."""
        if x.shape != other.shape or x.picture != other.picture:
            self.refuse(f"adds {x.shape[1:]} and {other.shape[1:]}, expected equal shapes")
        y = self.value(x.picture, x.shape)
        self.ops.append(AddNode(self.name, x.value, other.value, y.value))
        return y

    def multiply(self, x: Traced, factor: Traced) -> Traced:
        """Record a product with one value a channel."""
        y = self.value(x.picture, x.shape)
        self.ops.append(MulNode(self.name, x.value, factor.value, y.value))
        return y

    def look_up(self, x: Traced, table: npt.NDArray[np.int8]) -> Traced:
        """Record a table of codes, int8 (256,), for codes -128 to 127."""
        y = self.value(x.picture, x.shape)
        self.ops.append(TableNode(self.name, x.value, y.value, table))
        return y

    def concatenate(self, parts: list[Traced]) -> Traced:
        """Record a concatenation of channels, as several where one op does not take all."""
        while len(parts) > 1:
            some, rest = parts[: LIMITS["MAX_INPUTS"]], parts[LIMITS["MAX_INPUTS"] :]
            height, width, _ = some[0].picture
            channels = sum(part.picture[2] for part in some)
            shape = (BATCH, channels, *some[0].shape[2:])
            y = self.value((height, width, channels), shape)
            self.ops.append(ConcatNode(self.name, tuple(part.value for part in some), y.value))
            parts = [y, *rest]
        return parts[0]

    def made_by(self, x: Traced) -> RecordedOp | None:
        """Return the op that made `x`; None for the picture."""
        return next((op for op in reversed(self.ops) if op.output == x.value), None)

    def pool(
        self,
        x: Traced,
        kind: str,
        result: tuple[int, ...],
        kernel: Pair = (1, 1),
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        count_padding: bool = False,
    ) -> Traced:
        """Record a pool with the result's shape as the model sees it."""
        height, width = result[2:] if len(result) == 4 else (1, 1)
        y = self.value((height, width, x.picture[2]), result)
        self.ops.append(PoolNode(self.name, kind, x.value, y.value, kernel, stride, padding, count_padding))
        return y
