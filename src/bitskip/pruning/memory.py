"""Activation memory and traffic of a model with any of its shortcuts taken away.

The model's graph is run once and recorded as `bitskip count` records any module. Taking a shortcut away drops
its addition and what only that needs from the record. So what is promised before removal is what is counted
after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from bitskip.graph.fuse import Fused, fuse_trace, schedule_of
from bitskip.graph.record import OperatorCall, Trace
from bitskip.graph.trace import Recording, operands_of, owner_of
from bitskip.memory import Peak, sizes_during, traffic


@dataclass(frozen=True)
class _Running:
    """An op that runs: what it does, and the bytes that are alive meanwhile."""

    op: Fused
    size: int


class ActivationGraph:
    """The activations of one model. Sizes are bytes of one example, in the formats that layers read.

    Questions are asked without the shortcuts `removed`, and with those `shortened` that lead around each
    convolution of their block.
    """

    def __init__(
        self,
        recording: Recording,
        joins: Mapping[str, fx.Node],
        skip_operand: Mapping[str, int],
        units: Mapping[str, Sequence[tuple[str, str]]],
    ) -> None:
        """Keep what was recorded.

        Args:
            recording: of the model's deep graph.
            joins: the addition of each shortcut, by id.
            skip_operand: which operand of it is the skip.
            units: of those that can be shortened, each convolution with the layer after which it adds.
        """
        self.trace = recording.trace
        self.values = recording.values
        self.joins = dict(joins)
        self.skip_operand = dict(skip_operand)
        self.units = dict(units)
        self.layers = {str(node.target): node for node in self.values if node.op == "call_module"}

    def peak(
        self, removed: Collection[str] = (), executor: str = "naive", shortened: Collection[str] = ()
    ) -> Peak:
        """Return the peak of activation bytes, and the layer at which."""
        running = self._run(removed, executor, shortened)
        highest = max(running, key=lambda one: one.size, default=None)
        return Peak(0, "input") if highest is None else Peak(highest.size, _label(highest.op))

    def traffic(self, removed: Collection[str] = ()) -> int:
        """Return the bytes of activations read and written for one example."""
        trace = self._without(removed)
        return traffic(schedule_of(fuse_trace(trace), trace))

    def alive_at_peak(
        self,
        removed: Collection[str],
        executor: str,
        shortened: Collection[str] = (),
        shorten: Collection[str] = (),
    ) -> set[str]:
        """Return the ids whose removal alone would lower what is alive at the peak's op.

        Args:
            removed: what is gone.
            executor: whose peak.
            shortened: what is shortened.
            shorten: ids that would be shortened, not removed.
        """
        highest = max(self._run(removed, executor, shortened), key=lambda running: running.size)
        first = highest.op.calls[0].writes  # the same op may have other calls fused into it
        lower = set()
        for name in self.joins.keys() - set(removed) - set(shortened):
            after = (
                self._run(removed, executor, [*shortened, name])
                if name in shorten
                else self._run([*removed, name], executor, shortened)
            )
            same = [running.size for running in after if running.op.calls[0].writes == first]
            if not same or same[0] < highest.size:
                lower.add(name)
        return lower

    def block_peak_bytes(self, name: str) -> int:
        """Return by how much the shortcut raises the naive peak over the ops of its own main path."""
        main, skip = self._operands(name)
        inside = _between(main, skip) | {self.joins[name]}

        def highest(removed: Collection[str]) -> int:
            own = (r.size for r in self._run(removed, "naive") if any(s.origin in inside for s in r.op.calls))
            return max(own, default=0)

        return max(0, highest(()) - highest((name,)))

    def _operands(self, name: str) -> tuple[fx.Node, fx.Node]:
        """Return the main path's end and the skip's."""
        operands = operands_of(self.joins[name])
        if operands is None:
            raise ValueError(f"'{self.joins[name]}' is not an addition")
        position = self.skip_operand[name]
        return operands[1 - position], operands[position]

    def _run(
        self, removed: Collection[str], executor: str, shortened: Collection[str] = ()
    ) -> list[_Running]:
        trace = self._without(removed, shortened)
        fused = fuse_trace(trace)
        sizes = sizes_during(schedule_of(fused, trace), in_place=executor == "in_place")
        return [_Running(op, size) for op, size in zip(fused, sizes, strict=True)]

    def _without(self, removed: Collection[str], shortened: Collection[str] = ()) -> Trace:
        """Return the record without the additions of `removed` and `shortened`, and what only they need."""
        if not removed and not shortened:
            return self.trace
        mains = {self.joins[name]: self._operands(name)[0] for name in (*removed, *shortened)}
        # The value after which a shorter skip adds -> the value that it adds.
        adds = {
            self.values[self.layers[after]]: self.values[self.layers[conv].all_input_nodes[0]]
            for name in shortened
            for conv, after in self.units[name]
        }
        values = list(self.trace.values)
        instead: dict[int, int] = {}  # a value -> the one that is read in its place
        kept: list[OperatorCall] = []
        for call in self.trace.calls:
            if call.origin in mains and len(call.reads) == 2:
                value = self.values[mains.pop(call.origin)]
                instead[call.writes[0]] = instead.get(value, value)
                continue
            reads = dict.fromkeys((instead.get(value, value), form) for value, form in call.reads)
            kept.append(dataclasses.replace(call, reads=tuple(reads)))
            for value in adds.keys() & set(call.writes):
                skip = adds.pop(value)
                pair = ((value, "own"), (instead.get(skip, skip), "own"))
                values.append(values[value])
                instead[value] = len(values) - 1
                kept.append(
                    dataclasses.replace(call, reads=pair, writes=(instead[value],), pointwise=True, macs=0)
                )
        results = tuple(dict.fromkeys(instead.get(value, value) for value in self.trace.results))
        needed = set(results)
        calls: list[OperatorCall] = []
        for call in reversed(kept):
            if not needed.isdisjoint(call.writes):
                needed.update(value for value, _ in call.reads)
                calls.append(call)
        return dataclasses.replace(self.trace, calls=calls[::-1], values=values, results=results)


def _label(op: Fused) -> str:
    """Return the path of the layer, or `path: operator` for a call of a module's own."""
    node = op.calls[0].origin
    if node.op == "call_module":
        return str(node.target)
    return f"{owner_of(node) or 'model'}: {node.name.rstrip('_0123456789')}"


def _between(main: fx.Node, skip: fx.Node) -> set[fx.Node]:
    """Return the calls that the main path takes after the skip's fork."""
    stop = {skip}
    while len(skip.all_input_nodes) == 1:
        skip = skip.all_input_nodes[0]
        stop.add(skip)
    found: set[fx.Node] = set()
    pending = [main]
    while pending:
        node = pending.pop()
        if node not in found and node not in stop:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found
