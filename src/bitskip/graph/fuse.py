"""From the recorded steps of a torch module to the ops of `bitskip.liveness`, pointwise steps fused.

The same executor as for specs (`bitskip.activations`): every pointwise step is fused into the op that
writes its operand, so an op may write a tensor both before and after it; a residual add is fused into the
later of its two operands; a shortcut's projection runs before the main path; the input of a 1-bit layer
is stored as bits. Tensors made from weights alone are constants, not activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bitskip.activations import activation_bytes
from bitskip.graph.record import Step, Trace
from bitskip.liveness import Op, peak_live

__all__ = ["trace_ops", "trace_peaks"]


@dataclass
class _Fused:
    name: str
    inputs: list[tuple[int, str]] = field(default_factory=list)
    shortcut: tuple[int, str] | None = None
    writes: list[int] = field(default_factory=list)


def trace_peaks(trace: Trace) -> dict[str, int | None]:
    """Return the peak activation bytes of a recorded run, by executor: `naive` and `in_place`."""
    ops, inputs, results = trace_ops(trace)
    return {
        "naive": peak_live(ops, inputs, results).size,
        "in_place": peak_live(ops, inputs, results, in_place=True).size,
    }


def trace_ops(trace: Trace) -> tuple[list[Op], dict[str, int], tuple[str, ...]]:
    """Return the fused ops in the order they run, the input tensors with sizes in bytes, and the results."""
    fused = _fuse(_projections_first(trace.steps), trace)
    forms: dict[int, set[str]] = {value: {"own"} for value in trace.results}
    for op in fused:
        for value, form in (*op.inputs, *([op.shortcut] if op.shortcut else [])):
            forms.setdefault(value, set()).add(form)

    def sizes(values: Sequence[int]) -> dict[str, int]:
        return {
            f"{value}:{form}": activation_bytes(
                trace.values[value].elements, 1 if form == "signs" else trace.values[value].bits
            )
            for value in values
            for form in sorted(forms.get(value, ()))
        }

    def name(read: tuple[int, str]) -> str:
        return f"{read[0]}:{read[1]}"

    ops = [
        Op(
            op.name,
            tuple(map(name, op.inputs)),
            sizes(op.writes),
            None if op.shortcut is None else name(op.shortcut),
        )
        for op in fused
    ]
    return ops, sizes(trace.inputs), tuple(f"{value}:own" for value in trace.results)


def _fuse(steps: Sequence[Step], trace: Trace) -> list[_Fused]:
    """Fuse each pointwise step into the op of its latest operand, if that is as large as the result."""
    fused: list[_Fused] = []
    written_by: dict[int, int] = {}  # value -> position of its op; a network input has none
    for step in steps:
        elements = trace.values[step.writes[0]].elements
        values = [value for value, _ in step.reads]
        latest = max(values, key=lambda value: written_by.get(value, -1))
        at = written_by.get(latest, -1)
        if step.pointwise and at >= 0 and trace.values[latest].elements == elements:
            op = fused[at]
            others = [value for value in values if written_by.get(value, -1) != at]
        else:
            at, op = len(fused), _Fused(step.name)
            fused.append(op)
            others = values if step.pointwise else []
            if not step.pointwise:
                op.inputs.extend(step.reads)
        for value in others:
            if trace.values[value].elements == elements and op.shortcut is None:
                op.shortcut = (value, "own")
            elif (value, "own") not in (*op.inputs, op.shortcut):
                op.inputs.append((value, "own"))
        op.writes.extend(step.writes)
        written_by.update(dict.fromkeys(step.writes, at))
    return fused


def _projections_first(steps: Sequence[Step]) -> list[Step]:
    """Move each shortcut's projection to before its block's main path.

    A projection is a chain of steps from a fork to a join, with fewer MACs than the main path between them,
    and nothing inside the block is read outside it.
    """
    order = list(steps)
    readers: dict[int, list[Step]] = {}
    writer: dict[int, Step] = {}
    for step in steps:
        writer.update(dict.fromkeys(step.writes, step))
        for value, _ in step.reads:
            readers.setdefault(value, []).append(step)
    for join in steps:
        if not join.pointwise or len(join.reads) != 2:
            continue
        position = {id(step): at for at, step in enumerate(order)}
        end = position[id(join)]
        last = max((v for v, _ in join.reads), key=lambda v: position[id(writer[v])] if v in writer else -1)
        chain, value = [], last
        while value in writer and len(readers[value]) == 1 and len(writer[value].reads) == 1:
            chain.append(writer[value])
            value = writer[value].reads[0][0]
        if not chain or len(readers[value]) < 2:
            continue
        start = position[id(writer[value])] + 1 if value in writer else 0
        block = order[start:end]
        inside = {id(step) for step in (*block, join)}
        closed = all(
            id(reader) in inside for step in block for v in step.writes for reader in readers.get(v, ())
        )
        main = [step for step in block if step not in chain]
        if closed and sum(step.macs for step in chain) < sum(step.macs for step in main):
            order[start:end] = [*reversed(chain), *main]
    return order
