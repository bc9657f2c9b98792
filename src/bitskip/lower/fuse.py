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
from bitskip.lower.graph import AddNode, AffineNode, ConcatNode, Floats, MulNode, Node, PoolNode, TableNode
from bitskip.lower.steps import (
    ActivationStep,
    AddStep,
    AffineStep,
    ConcatStep,
    ConvStep,
    MulStep,
    PoolStep,
    Recorder,
    Step,
    TableStep,
)
from bitskip.program import Activation

__all__ = ["fuse"]

_NONE = Activation()


def fuse(record: Recorder, outputs: Collection[int]) -> list[Node]:
    """Return the nodes, in the order they run, that compute the values `outputs`."""
    steps, thresholds = _with_thresholds(record.steps)
    return _Fuser(_alive(steps, outputs), outputs, thresholds).run()


def _inputs(step: Step) -> tuple[int, ...]:
    match step:
        case AddStep():
            return step.input, step.other
        case MulStep():
            return step.input, step.factor
        case ConcatStep():
            return step.input, *step.others
        case _:
            return (step.input,)


def _alive(steps: list[Step], outputs: Collection[int]) -> list[Step]:
    """Drop what does not lead to an output."""
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step.output in needed:
            needed.update(_inputs(step))
            kept.append(step)
    return kept[::-1]


def _with_thresholds(steps: list[Step]) -> tuple[list[Step], dict[int, Floats]]:
    """Let 1-bit inputs read what stands before a shift, with the shift as their threshold.

    sign(x + b) is the same as x - (-b) >= 0, in every bit.
    """
    made = {step.output: step for step in steps}
    thresholds: dict[int, Floats] = {}
    for step in steps:
        if isinstance(step, ConvStep) and step.precision == "w1a1":
            before = made.get(step.input)
            if isinstance(before, AffineStep) and before.scale is None and before.bias is not None:
                step.input = before.input
                thresholds[step.output] = array(-before.bias)
    return steps, thresholds


@dataclass(eq=False)
class _Open:
    """A node that may still take what follows."""

    step: ConvStep | AffineStep | AddStep | ActivationStep
    output: int
    folded: Folded = field(default_factory=Folded)
    pre: Activation = _NONE
    residual: int | None = None
    post: Activation = _NONE
    tail: list[Callable[[Tensor], Tensor]] = field(default_factory=list)

    @property
    def takes_affine(self) -> bool:
        return not isinstance(self.step, AddStep) and self.pre is _NONE and self.residual is None

    @property
    def takes_addition(self) -> bool:
        return isinstance(self.step, ConvStep) and self.residual is None


class _Fuser:
    def __init__(self, steps: list[Step], outputs: Collection[int], thresholds: dict[int, Floats]) -> None:
        self.steps, self.outputs, self.thresholds = steps, outputs, thresholds
        self.readers = Counter(value for step in steps for value in _inputs(step))
        self.open: dict[int, _Open] = {}
        self.nodes: list[Node] = []

    def run(self) -> list[Node]:
        for step in self.steps:
            if isinstance(step, ConvStep):
                self.need(step.input)
                self.open[step.output] = _Open(step, step.output)
            elif isinstance(step, PoolStep):
                self.pool(step)
            elif isinstance(step, TableStep):
                self.need(step.input)
                self.nodes.append(TableNode(step.name, step.input, step.output, step.table))
            elif isinstance(step, AddStep):
                self.add(step)
            elif isinstance(step, MulStep | ConcatStep):
                self.several(step)
            elif isinstance(step, AffineStep | ActivationStep):
                self.pointwise(step)
        for value in self.outputs:
            self.need(value)
        return self.nodes

    def last(self, value: int) -> _Open | None:
        """Return the open node of `value` if nobody else reads it."""
        return self.open.get(value) if self.readers[value] == 1 and value not in self.outputs else None

    def pointwise(self, step: AffineStep | ActivationStep) -> None:
        node = self.last(step.input)
        if node is None or not _takes(node, step):
            self.need(step.input)
            node = _Open(step, step.output)
        else:
            del self.open[step.input]
        if isinstance(step, AffineStep):
            node.folded = node.folded.then(step.scale, step.bias)
        elif node.residual is None and not isinstance(node.step, AddStep):
            node.pre = step.activation
        else:
            node.post = step.activation
        node.tail.append(step.function)
        node.output = step.output
        self.open[step.output] = node

    def add(self, step: AddStep) -> None:
        for value, other in ((step.input, step.other), (step.other, step.input)):
            node = self.last(value)
            if node is not None and node.takes_addition and value != other:
                self.need(other)
                del self.open[value]
                node.residual = other
                break
        else:
            self.need(step.input)
            self.need(step.other)
            node = _Open(step, step.output)
        node.output = step.output
        self.open[step.output] = node

    def pool(self, step: PoolStep) -> None:
        self.need(step.input)
        self.nodes.append(
            PoolNode(
                step.name,
                step.kind,
                step.input,
                step.output,
                step.kernel,
                step.stride,
                step.padding,
                step.count_padding,
            )
        )

    def several(self, step: MulStep | ConcatStep) -> None:
        values = _inputs(step)
        for value in values:
            self.need(value)
        if isinstance(step, MulStep):
            self.nodes.append(MulNode(step.name, step.input, step.factor, step.output))
        else:
            self.nodes.append(ConcatNode(step.name, values, step.output))

    def need(self, value: int) -> None:
        """Write down the node that makes `value`, if that has not been done."""
        node = self.open.pop(value, None)
        if node is None:
            return
        step = node.step
        if isinstance(step, ConvStep):
            made: Node = conv_node(
                step.name,
                step.precision,
                (step.input, node.output),
                step.weight,
                node.folded,
                stride=step.stride,
                padding=step.padding,
                pad_value=step.pad_value,
                tail=node.tail,
                pre=node.pre,
                residual=node.residual,
                post=node.post,
                threshold=self.thresholds.get(step.output),
                groups=step.groups,
                dilation=step.dilation,
            )
        elif isinstance(step, AddStep):
            made = AddNode(step.name, step.input, step.other, node.output, node.post)
        else:
            scale, bias = node.folded.scale_array, node.folded.bias_array
            made = AffineNode(step.name, step.input, node.output, scale, bias, node.pre)
        self.nodes.append(made)


def _takes(node: _Open, step: AffineStep | ActivationStep) -> bool:
    if isinstance(step, AffineStep):
        return node.takes_affine
    if node.residual is not None or isinstance(node.step, AddStep):
        return node.post is _NONE
    return node.pre is _NONE
