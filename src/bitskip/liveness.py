"""Peak activation memory of a list of ops, from which tensors are alive while each op runs.

An op is a convolution, linear layer, pool or the like with every pointwise step after it (batch norm,
activation, residual add) fused into it. While an op runs, alive are the tensors it reads, those it
writes, and those that a later op reads. Two executors are stated:

- `naive`: every op writes new buffers;
- `in_place`: a residual add accumulates into its shortcut's buffer. The result takes that buffer over
  when it has the same size, nothing reads the shortcut later, and the op does not also read the
  shortcut as an operand (a 3x3 convolution would read neighbours that the add has already overwritten).

Sizes have one unit, which the caller chooses: elements or bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Op", "Peak", "peak_live"]


@dataclass(frozen=True)
class Op:
    """One op: what it reads, what it writes with sizes, and the shortcut it adds, if any."""

    name: str
    inputs: tuple[str, ...]  # tensors read as operands
    outputs: Mapping[str, int] = field(default_factory=dict)  # tensors written, with their sizes
    shortcut: str | None = None  # tensor that a fused residual add reads; `in_place` may overwrite it

    @property
    def reads(self) -> tuple[str, ...]:
        """Every tensor the op reads, the shortcut included."""
        return self.inputs if self.shortcut is None else (*self.inputs, self.shortcut)


@dataclass(frozen=True)
class Peak:
    """The largest total size of tensors alive at once, and the op (the first such) where it stands."""

    size: int
    op: str


def peak_live(
    ops: Iterable[Op], inputs: Mapping[str, int], results: Collection[str] = (), *, in_place: bool = False
) -> Peak:
    """Return the peak of `ops` run in the order given.

    Args:
        ops: the ops, each reading only `inputs` and what an earlier op wrote.
        inputs: the network's input tensors with their sizes; they are alive until last read.
        results: tensors that stay alive to the end. A tensor that nothing reads is alive while written.
        in_place: whether a residual add may accumulate into its shortcut's buffer.

    Raises:
        ValueError: if an op reads a tensor that does not exist yet.
    """
    order = tuple(ops)
    last_read = {name: at for at, op in enumerate(order) for name in op.reads}
    last_read.update(dict.fromkeys(results, len(order)))
    sizes = dict(inputs)
    alive = {name for name in inputs if name in last_read}
    peak = Peak(sum(sizes[name] for name in alive), "input")
    for at, op in enumerate(order):
        missing = [name for name in op.reads if name not in sizes]
        if missing:
            raise ValueError(f"op '{op.name}' reads '{missing[0]}', which no earlier op writes")
        sizes.update(op.outputs)
        during = sum(sizes[name] for name in alive | op.outputs.keys())
        if in_place and _takes_over(op, sizes, last_read, at):
            during -= sizes[op.shortcut or ""]
        if during > peak.size:
            peak = Peak(during, op.name)
        alive = {name for name in alive | op.outputs.keys() if last_read.get(name, -1) > at}
    return peak


def _takes_over(op: Op, sizes: Mapping[str, int], last_read: Mapping[str, int], at: int) -> bool:
    """Whether an output of `op`, the op at position `at`, may take its shortcut's buffer."""
    if op.shortcut is None or op.shortcut in op.inputs or last_read[op.shortcut] > at:
        return False
    return sizes[op.shortcut] in op.outputs.values()
