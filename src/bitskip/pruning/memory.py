"""Activation memory and traffic of a traced model, with any of its shortcuts taken away.

Ops are those of `bitskip.liveness`: a layer with the pointwise steps after it. A projection runs before its
block's main path. A residual add is fused into the op that computes the later of its operands. Views cost
nothing. Steps that are not known write a buffer of their own.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from bitskip.graph.trace import ADDITIONS, TensorInfo, operands_of, owner_of
from bitskip.liveness import Op, Peak, peak_live

__all__ = ["EXECUTORS", "ActivationGraph"]

EXECUTORS = ("naive", "in_place")

_VIEW_METHODS = (
    "view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "chunk",
    "split", "unbind", "expand", "t",
)  # fmt: skip
_VIEW_FUNCTIONS = (
    operator.getitem, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.chunk, torch.split,
    torch.squeeze, torch.unsqueeze,
)  # fmt: skip
_POINTWISE_FUNCTIONS = (
    *ADDITIONS, operator.mul, operator.imul, operator.sub, operator.truediv, torch.mul, F.relu, F.relu6,
    F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.leaky_relu, F.dropout, F.batch_norm, F.layer_norm,
    torch.relu, torch.sigmoid,
)  # fmt: skip
_POINTWISE_METHODS = ("add", "add_", "mul", "mul_", "relu", "relu_", "sigmoid", "clone", "to", "float")
_CALLED_POINTWISE = (
    "FrozenBatchNorm2d", "LayerNorm2d", "StochasticDepth", "DropPath", "LayerScale", "LayerScale2d",
    "LearnedThreshold", "RPReLU", "FakeQuantize",
)  # fmt: skip


@dataclass
class ActivationGraph:
    """The activations of one model. Sizes are bytes of one example."""

    nodes: list[fx.Node]  # in the order they run
    infos: Mapping[fx.Node, TensorInfo]
    modules: Mapping[str, nn.Module]
    skip_operand: Mapping[fx.Node, int]  # which operand of a shortcut's addition is the skip
    joins: dict[str, fx.Node] = field(default_factory=dict)  # shortcut id to its addition

    @classmethod
    def of(
        cls,
        graph_module: fx.GraphModule,
        infos: Mapping[fx.Node, TensorInfo],
        skips: Mapping[fx.Node, list[fx.Node]],
        skip_operand: Mapping[fx.Node, int],
    ) -> ActivationGraph:
        """Order the steps of a measured deep graph.

        Args:
            graph_module: from `trace_deep`.
            infos: from `measure`.
            skips: the steps on the skip of each shortcut's addition, from the fork on.
            skip_operand: which operand of each is the skip.
        """
        moved = {node for steps in skips.values() for node in steps}
        follow: dict[fx.Node, list[fx.Node]] = {}
        for steps in skips.values():
            if steps:
                fork = next(n for n in steps[0].all_input_nodes if n in infos)
                follow.setdefault(fork, []).extend(step for step in steps if step not in follow.get(fork, []))
        order: list[fx.Node] = []

        def emit(node: fx.Node) -> None:
            order.append(node)
            for step in follow.get(node, ()):
                emit(step)

        for node in graph_module.graph.nodes:
            if node not in moved:
                emit(node)
        return cls(_settled(order), infos, dict(graph_module.named_modules()), skip_operand)

    def name_joins(self, joins: Mapping[str, fx.Node]) -> None:
        """Say which addition each shortcut id stands for."""
        self.joins = dict(joins)

    # -- questions ------------------------------------------------------------------------------------

    def peak(self, removed: Collection[str] = (), executor: str = "naive") -> Peak:
        """Return the peak of activation bytes without the shortcuts `removed`, and the layer at which."""
        peak = self._peak(removed, executor)
        return Peak(peak.size, self._labels().get(peak.op, peak.op))

    def _peak(self, removed: Collection[str], executor: str) -> Peak:
        ops, inputs, results = self.ops({self.joins[name] for name in removed})
        return peak_live(ops, inputs, results, in_place=executor == "in_place")

    def _labels(self) -> dict[str, str]:
        """Return the path of the layer, or `path: step` for a step of a module's own, by op."""
        return {
            str(node): str(node.target)
            if node.op == "call_module"
            else f"{owner_of(node) or 'model'}: {node.name.rstrip('_0123456789')}"
            for node in self.nodes
        }

    def traffic(self, removed: Collection[str] = ()) -> int:
        """Return the bytes of activations read and written for one example without `removed`."""
        return _traffic(self.ops({self.joins[name] for name in removed}))

    def alive_at_peak(self, removed: Collection[str], executor: str) -> set[str]:
        """Return the ids whose removal alone would lower what is alive at the peak's op."""
        at = self._peak(removed, executor).op
        before = self._alive(removed, executor).get(at)
        lower = set()
        for name in self.joins:
            if name not in removed:
                after = self._alive([*removed, name], executor).get(at)
                if before is not None and (after is None or after < before):
                    lower.add(name)
        return lower

    def _alive(self, removed: Collection[str], executor: str) -> dict[str, int]:
        ops, inputs, results = self.ops({self.joins[name] for name in removed})
        sizes: dict[str, int] = {}
        # The peak of the ops up to one, with what later ops still read kept alive, is not the op's own
        # size, so ask for each op alone: what it reads and writes, and what passes it by.
        last_read = {name: at for at, op in enumerate(ops) for name in op.reads}
        last_read.update(dict.fromkeys(results, len(ops)))
        known = dict(inputs)
        for at, op in enumerate(ops):
            passing = {name: size for name, size in known.items() if last_read.get(name, -1) >= at}
            outside = [name for name in passing if name not in op.reads]
            held = Op(op.name, op.inputs, op.outputs, op.shortcut)
            keep = [*outside, *(name for name in passing if last_read[name] > at)]
            keep += [name for name in op.outputs if last_read.get(name, -1) > at]
            sizes[op.name] = _size_during(held, passing, keep, executor)
            known = passing | dict(op.outputs)
        return sizes

    def traffic_bytes_of(self, join: fx.Node) -> int:
        """Return the traffic that the shortcut of `join` causes."""
        return _traffic(self.ops(set())) - _traffic(self.ops({join}))

    def block_peak_bytes(self, join: fx.Node) -> int:
        """Return by how much the shortcut raises the naive peak over the ops of its own main path."""
        main, skip = self._operands(join)
        inside = _between(main, skip) | {join}
        with_it = self._peak_over(inside, set())
        without = self._peak_over(inside, {join})
        return max(0, with_it - without)

    # -- ops ------------------------------------------------------------------------------------------

    def _operands(self, join: fx.Node) -> tuple[fx.Node, fx.Node]:
        operands = operands_of(join)
        if operands is None:
            raise ValueError(f"'{join}' is no addition")
        position = self.skip_operand[join]
        return operands[1 - position], operands[position]

    def ops(self, removed: Collection[fx.Node]) -> tuple[list[Op], dict[str, int], tuple[str, ...]]:
        """Return the ops in order, the input tensors with their sizes, and the tensors that stay."""
        return _OpBuilder(self, removed).build()

    def _peak_over(self, inside: set[fx.Node], removed: Collection[fx.Node]) -> int:
        ops, inputs, results = self.ops(removed)
        names = {str(node) for node in inside}
        sizes = _alive_naive(ops, inputs, results)
        return max((size for name, size in sizes.items() if name in names), default=0)


def _alive_naive(ops: list[Op], inputs: Mapping[str, int], results: Collection[str]) -> dict[str, int]:
    last_read = {name: at for at, op in enumerate(ops) for name in op.reads}
    last_read.update(dict.fromkeys(results, len(ops)))
    sizes = dict(inputs)
    alive = {name for name in inputs if name in last_read}
    found: dict[str, int] = {}
    for at, op in enumerate(ops):
        sizes.update(op.outputs)
        found[op.name] = sum(sizes[name] for name in alive | op.outputs.keys())
        alive = {name for name in alive | op.outputs.keys() if last_read.get(name, -1) > at}
    return found


def _size_during(op: Op, passing: Mapping[str, int], keep: Collection[str], executor: str) -> int:
    """Return the bytes alive while one op runs."""
    peak = peak_live([op], passing, tuple(keep), in_place=executor == "in_place")
    return peak.size if peak.op == op.name else sum(passing.values()) + sum(op.outputs.values())


def _traffic(built: tuple[list[Op], dict[str, int], tuple[str, ...]]) -> int:
    ops, inputs, _ = built
    sizes = dict(inputs)
    total = 0
    for op in ops:
        sizes.update(op.outputs)
        total += sum(sizes[name] for name in dict.fromkeys(op.reads)) + sum(op.outputs.values())
    return total


def _between(main: fx.Node, skip: fx.Node) -> set[fx.Node]:
    """Return the steps that the main path takes after the skip's fork, and those of the skip."""
    found: set[fx.Node] = set()
    stop = set(_chain_back(skip))
    pending = [main]
    while pending:
        node = pending.pop()
        if node in found or node in stop:
            continue
        found.add(node)
        pending.extend(node.all_input_nodes)
    return found


def _chain_back(node: fx.Node) -> list[fx.Node]:
    chain = [node]
    while len(chain[-1].all_input_nodes) == 1:
        chain.append(chain[-1].all_input_nodes[0])
    return chain


def _settled(order: list[fx.Node]) -> list[fx.Node]:
    """Return `order` with each step after all that it reads, otherwise unchanged."""
    done: set[fx.Node] = set()
    settled: list[fx.Node] = []

    def visit(node: fx.Node) -> None:
        pending = [(node, iter(node.all_input_nodes))]
        while pending:
            current, sources = pending[-1]
            if current in done:
                pending.pop()
                continue
            source = next((s for s in sources if s not in done), None)
            if source is not None:
                pending.append((source, iter(source.all_input_nodes)))
                continue
            done.add(current)
            settled.append(current)
            pending.pop()

    for node in order:
        visit(node)
    return settled


class _OpBuilder:
    """Fuses steps into ops, leaving out the shortcuts `removed` and what only they need."""

    def __init__(self, graph: ActivationGraph, removed: Collection[fx.Node]) -> None:
        self.graph = graph
        self.instead = {join: graph._operands(join)[0] for join in removed}
        self.needed = self._needed()
        self.readers: dict[fx.Node, int] = {}
        for node in self.needed:
            for source in self._sources(node):
                self.readers[source] = self.readers.get(source, 0) + 1
        self.buffer: dict[fx.Node, str] = {}  # step to the tensor that holds its result
        self.ops: list[dict[str, Any]] = []
        self.writer: dict[str, int] = {}  # tensor to the number of the op that writes it

    def _source(self, node: fx.Node) -> fx.Node:
        while node in self.instead:
            node = self.instead[node]
        return node

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [s for s in map(self._source, node.all_input_nodes) if s in self.graph.infos or _lists(s)]

    def _needed(self) -> set[fx.Node]:
        needed: set[fx.Node] = set()
        pending = [node for node in self.graph.nodes if node.op == "output"]
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending.extend(self._source(source) for source in node.all_input_nodes)
        return needed

    def build(self) -> tuple[list[Op], dict[str, int], tuple[str, ...]]:
        inputs: dict[str, int] = {}
        results: tuple[str, ...] = ()
        for node in self.graph.nodes:
            if node not in self.needed or node in self.instead:
                continue
            if node.op == "placeholder":
                if node in self.graph.infos:
                    self.buffer[node] = str(node)
                    inputs[str(node)] = self.graph.infos[node].bytes_per_example
            elif node.op == "output":
                results = tuple(
                    dict.fromkeys(
                        self.buffer[s] for s in map(self._source, node.all_input_nodes) if s in self.buffer
                    )
                )
            elif node.op != "get_attr":
                self._step(node)
        ops = [
            Op(o["name"], tuple(dict.fromkeys(o["inputs"])), o["outputs"], o["shortcut"]) for o in self.ops
        ]
        return ops, inputs, results

    def _step(self, node: fx.Node) -> None:
        sources = [s for s in map(self._source, node.all_input_nodes) if s in self.buffer]
        if not sources:
            return  # constants and sizes
        info = self.graph.infos.get(node)
        if self._is_view(node) or info is None:
            self.buffer[node] = self.buffer[sources[0]]
            return
        if self._is_pointwise(node) and self._fuse(node, sources, info):
            return
        name = str(node)
        self.ops.append(
            {
                "name": name,
                "inputs": [self.buffer[s] for s in sources],
                "outputs": {name: info.bytes_per_example},
                "shortcut": None,
            }
        )
        self.buffer[node] = name
        self.writer[name] = len(self.ops) - 1

    def _fuse(self, node: fx.Node, sources: list[fx.Node], info: TensorInfo) -> bool:
        """Let the op that wrote the latest operand do this pointwise step too, if nobody else reads it."""
        latest = max(sources, key=lambda s: self.writer.get(self.buffer[s], -1))
        number = self.writer.get(self.buffer[latest], -1)
        if number < 0 or self.readers.get(latest, 0) != 1:
            # The main operand may be the one to fuse with: the skip was computed by an op in between.
            return False
        op = self.ops[number]
        others = [self.buffer[s] for s in sources if self.buffer[s] != self.buffer[latest]]
        if len(others) > 1 or (others and op["shortcut"] is not None):
            return False
        if info.bytes_per_example != sum(op["outputs"].values()):
            return False
        if others:
            if operands_of(node) is not None:
                op["shortcut"] = others[0]
            else:
                op["inputs"].append(others[0])
        self.buffer[node] = self.buffer[latest]
        op["name"] = str(node) if others and operands_of(node) is not None else op["name"]
        return True

    def _is_view(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in _VIEW_METHODS
        if node.op == "call_function":
            return node.target in _VIEW_FUNCTIONS
        module = self.graph.modules.get(str(node.target))
        return isinstance(module, nn.Flatten | nn.Identity) or type(module).__name__ == "Permute"

    def _is_pointwise(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in _POINTWISE_METHODS
        if node.op == "call_function":
            return node.target in _POINTWISE_FUNCTIONS
        module = self.graph.modules.get(str(node.target))
        known = (
            nn.modules.batchnorm._BatchNorm,
            nn.LayerNorm,
            nn.Dropout,
            nn.Dropout2d,
            nn.Hardsigmoid,
            nn.Sigmoid,
        )
        activations = module is not None and type(module).__module__ == "torch.nn.modules.activation"
        if isinstance(module, nn.MultiheadAttention | nn.Softmax):
            return False
        return isinstance(module, known) or activations or type(module).__name__ in _CALLED_POINTWISE


def _lists(node: fx.Node) -> bool:
    """Whether a step yields several tensors (chunk, split), which have no size of their own."""
    return node.op in ("call_function", "call_method")
