"""From the recorded calls of a torch module to the ops of `bitskip.memory`, pointwise calls fused.

The same executor as for specs (`bitskip.activations`): every pointwise call is fused into the op that
writes its operand, so an op may write a tensor both before and after it; a residual add is fused into the
later of its two operands; a shortcut's projection runs before the main path; the input of a 1-bit layer
is stored as bits, that of an int8 one, and what is added to its output, in one byte a value. Tensors made
from weights alone are constants, not activations.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from bitskip.graph.record import OperatorCall, Trace
from bitskip.memory import Held, Schedule, ScheduledOp, bits_to_bytes, peaks

Read = tuple[int, str]  # a value, and the form it is read in

_FORM_BITS = {"signs": 1, "codes": 8}
# Pools that give int8 values of their input as they are, or sums of them.
_KEEP_CODES = ("max_pool2d_with_indices", "max_pool2d", "mean", "_adaptive_avg_pool2d")


@dataclass
class Fused:
    """One op: the calls that it does, and the values it reads and writes."""

    calls: list[OperatorCall]
    operands: list[Read] = field(default_factory=list)
    shortcut: Read | None = None
    writes: list[int] = field(default_factory=list)


def trace_peaks(trace: Trace) -> dict[str, int]:
    """Return the peak activation bytes of a recorded run, by executor: `naive` and `in_place`."""
    return peaks(schedule_of(fuse_trace(trace), trace))


def schedule_of(fused: Sequence[Fused], trace: Trace) -> Schedule[Read]:
    """Return the ops of `fuse_trace` with the tensors between them; a tensor is a value in one form."""
    forms: dict[int, set[str]] = {value: {"own"} for value in trace.results}
    for op in fused:
        for value, form in (*op.operands, *([op.shortcut] if op.shortcut else [])):
            forms.setdefault(value, set()).add(form)

    def stored(values: Collection[int]) -> tuple[Read, ...]:
        return tuple((value, form) for value in values for form in sorted(forms.get(value, ())))

    def held(value: int, form: str) -> Held:
        bits = _FORM_BITS.get(form, trace.values[value].bits)
        return Held(bits_to_bytes(trace.values[value].elements, bits), f"{bits} bits")

    ops = tuple(
        ScheduledOp(op.calls[0].name, tuple(op.operands), stored(dict.fromkeys(op.writes)), op.shortcut)
        for op in fused
    )
    tensors = [*stored(trace.inputs), *(name for op in ops for name in op.writes)]
    return Schedule(
        ops,
        {name: held(*name) for name in tensors},
        stored(trace.inputs),
        tuple((value, "own") for value in trace.results),
    )


def fuse_trace(trace: Trace) -> list[Fused]:
    """Return the ops of a recorded run in the order they run: its calls, with pointwise ones fused.

    A pointwise call goes to the op of its latest operand, if that is as large as the result.
    """
    fused: list[Fused] = []
    written_by: dict[int, int] = {}  # value -> position of its op; a network input has none
    for call in _projections_first(trace.calls):
        elements = trace.values[call.writes[0]].elements
        values = [value for value, _ in call.reads]
        latest = max(values, key=lambda value: written_by.get(value, -1))
        at = written_by.get(latest, -1)
        if call.pointwise and at >= 0 and trace.values[latest].elements == elements:
            op = fused[at]
            op.calls.append(call)
            others = [value for value in values if written_by.get(value, -1) != at]
        else:
            at, op = len(fused), Fused([call])
            fused.append(op)
            others = values if call.pointwise else []
            if not call.pointwise:
                op.operands.extend(call.reads)
        for value in others:
            if trace.values[value].elements == elements and op.shortcut is None:
                integer = any(form == "codes" for _, form in op.operands)
                op.shortcut = (value, "codes" if integer else "own")
            elif (value, "own") not in (*op.operands, op.shortcut):
                op.operands.append((value, "own"))
        op.writes.extend(call.writes)
        written_by.update(dict.fromkeys(call.writes, at))
    _pool_codes(fused, trace.results)
    return fused


def _pool_codes(fused: Sequence[Fused], results: Collection[int]) -> None:
    """Let pools whose readers all take int8 values work in those, as they do when a network is lowered."""
    forms: dict[int, set[str]] = {value: {"own"} for value in results}
    for op in reversed(fused):
        asked = set().union(*(forms.get(value, set()) for value in op.writes))
        if op.calls[0].name.rpartition("/")[2] in _KEEP_CODES and asked == {"codes"}:
            op.operands = [(value, "codes") for value, _ in op.operands]
        for value, form in (*op.operands, *([op.shortcut] if op.shortcut else [])):
            forms.setdefault(value, set()).add(form)


def _projections_first(calls: Sequence[OperatorCall]) -> list[OperatorCall]:
    """Move each shortcut's projection to before its block's main path.

    A projection is a chain of calls from a fork to a join, with fewer MACs than the main path between them,
    and nothing inside the block is read outside it.
    """
    order = list(calls)
    readers: dict[int, list[OperatorCall]] = {}
    writer: dict[int, OperatorCall] = {}
    for call in calls:
        writer.update(dict.fromkeys(call.writes, call))
        for value, _ in call.reads:
            readers.setdefault(value, []).append(call)
    for join in calls:
        if not join.pointwise or len(join.reads) != 2:
            continue
        position = {id(call): at for at, call in enumerate(order)}
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
        inside = {id(call) for call in (*block, join)}
        closed = all(
            id(reader) in inside for call in block for v in call.writes for reader in readers.get(v, ())
        )
        main = [call for call in block if call not in chain]
        if closed and sum(call.macs for call in chain) < sum(call.macs for call in main):
            order[start:end] = [*reversed(chain), *main]
    return order
