"""Steps to nodes: batch norms, activations and additions go into the convolution before them.

A convolution takes what follows it while nothing else reads the value in between: scales and biases, an
activation, an addition, an activation. It is written down where its result is first needed, so that a
shortcut's projection, read after the main path, still runs before the convolution that adds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor

from bitskip.lower.folding import Folded, array, conv_node
from bitskip.lower.graph import AddNode, AffineNode, Floats, Node, node_inputs
from bitskip.lower.recorded import (
    RecordedActivation,
    RecordedAffine,
    RecordedConv,
    RecordedOp,
    Recorder,
    WholeNode,
)
from bitskip.program import Activation

_NONE = Activation()


def fuse(record: Recorder, outputs: Collection[int]) -> list[Node]:
    """Return the nodes, in the order they run, that compute the values `outputs`."""
    ops, thresholds = _with_thresholds(record.ops, outputs)
    return _Fuser(_alive(ops, outputs), outputs, thresholds).run()


def _inputs(op: RecordedOp) -> tuple[int, ...]:
    if isinstance(op, RecordedConv | RecordedAffine | RecordedActivation):
        return (op.input,)
    return node_inputs(op)


def _alive(ops: list[RecordedOp], outputs: Collection[int]) -> list[RecordedOp]:
    """Drop what does not lead to an output."""
    needed, kept = set(outputs), []
    for op in reversed(ops):
        if op.output in needed:
            needed.update(_inputs(op))
            kept.append(op)
    return kept[::-1]


def _with_thresholds(
    ops: list[RecordedOp], outputs: Collection[int]
) -> tuple[list[RecordedOp], dict[int, Floats]]:
    """Let 1-bit inputs read what stands before a shift, with the shift as their threshold.

    sign(x + b) is the same as x - (-b) >= 0, in every bit. A shift that others read is computed anyway.
    """
    made = {op.output: op for op in ops}
    others = set(outputs)
    for op in ops:
        if not (isinstance(op, RecordedConv) and op.precision == "w1a1"):
            others.update(_inputs(op))
    thresholds: dict[int, Floats] = {}
    for op in ops:
        if isinstance(op, RecordedConv) and op.precision == "w1a1":
            before = made.get(op.input)
            if not isinstance(before, RecordedAffine) or op.input in others:
                continue
            if before.scale is None and before.bias is not None:
                op.input = before.input
                thresholds[op.output] = array(-before.bias)
    return ops, thresholds


@dataclass(eq=False)
class _Open:
    """A node that may still take what follows."""

    op: RecordedConv | RecordedAffine | AddNode | RecordedActivation
    output: int
    folded: Folded = field(default_factory=Folded)
    pre: Activation = _NONE
    residual: int | None = None
    post: Activation = _NONE
    tail: list[Callable[[Tensor], Tensor]] = field(default_factory=list)

    @property
    def takes_affine(self) -> bool:
        return not isinstance(self.op, AddNode) and self.pre is _NONE and self.residual is None

    @property
    def takes_addition(self) -> bool:
        return isinstance(self.op, RecordedConv) and self.residual is None


class _Fuser:
    def __init__(
        self, ops: list[RecordedOp], outputs: Collection[int], thresholds: dict[int, Floats]
    ) -> None:
        self.ops, self.outputs, self.thresholds = ops, outputs, thresholds
        self.readers = Counter(value for op in ops for value in _inputs(op))
        self.open: dict[int, _Open] = {}
        self.nodes: list[Node] = []

    def run(self) -> list[Node]:
        for op in self.ops:
            if isinstance(op, RecordedConv):
                self.need(op.input)
                self.open[op.output] = _Open(op, op.output)
            elif isinstance(op, WholeNode):
                for value in _inputs(op):
                    self.need(value)
                self.nodes.append(op)
            elif isinstance(op, AddNode):
                self.add(op)
            else:
                self.pointwise(op)
        for value in self.outputs:
            self.need(value)
        return self.nodes

    def last(self, value: int) -> _Open | None:
        """Return the open node of `value` if nobody else reads it."""
        return self.open.get(value) if self.readers[value] == 1 and value not in self.outputs else None

    def pointwise(self, op: RecordedAffine | RecordedActivation) -> None:
        node = self.last(op.input)
        if node is None or not _takes(node, op):
            self.need(op.input)
            node = _Open(op, op.output)
        else:
            del self.open[op.input]
        if isinstance(op, RecordedAffine):
            node.folded = node.folded.then(op.scale, op.bias)
        elif node.residual is None and not isinstance(node.op, AddNode):
            node.pre = op.activation
        else:
            node.post = op.activation
        node.tail.append(op.function)
        node.output = op.output
        self.open[op.output] = node

    def add(self, op: AddNode) -> None:
        for value, other in ((op.input, op.residual), (op.residual, op.input)):
            node = self.last(value)
            if node is not None and node.takes_addition and value != other:
                self.need(other)
                del self.open[value]
                node.residual = other
                break
        else:
            self.need(op.input)
            self.need(op.residual)
            node = _Open(op, op.output)
        node.output = op.output
        self.open[op.output] = node

    def need(self, value: int) -> None:
        """Write down the node that makes `value`, if that has not been done."""
        node = self.open.pop(value, None)
        if node is None:
            return
        op = node.op
        if isinstance(op, RecordedConv):
            made: Node = conv_node(
                op.name,
                op.precision,
                (op.input, node.output),
                op.weight,
                node.folded,
                stride=op.stride,
                padding=op.padding,
                pad_value=op.pad_value,
                tail=node.tail,
                pre=node.pre,
                residual=node.residual,
                post=node.post,
                threshold=self.thresholds.get(op.output),
                groups=op.groups,
                dilation=op.dilation,
            )
        elif isinstance(op, AddNode):
            made = AddNode(op.name, op.input, op.residual, node.output, node.post)
        else:
            scale, bias = node.folded.scale_array, node.folded.bias_array
            made = AffineNode(op.name, op.input, node.output, scale, bias, node.pre)
        self.nodes.append(made)


def _takes(node: _Open, op: RecordedAffine | RecordedActivation) -> bool:
    if isinstance(op, RecordedAffine):
        return node.takes_affine
    if node.residual is not None or isinstance(node.op, AddNode):
        return node.post is _NONE
    return node.pre is _NONE
