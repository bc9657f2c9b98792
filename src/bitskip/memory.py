"""What a network needs in bytes at run time: the one model of liveness and buffers.

Whoever has a list of ops asks here: a spec (`bitskip.activations`), a run of any torch module
(`bitskip.graph.fuse`), a packed program (`bitskip.program.memory`), C for a device. An op is a convolution,
linear layer, pool or the like with every pointwise step after it (batch norm, activation, residual add)
fused into it. While an op runs, alive are the tensors it reads, those it writes, and those that a later op
reads. Two executors are stated:

- `naive`: every op writes new buffers;
- `in_place`: a residual add accumulates into its shortcut's buffer. The result takes that buffer over
  when it has the same size and format, nothing reads the shortcut later, and the op does not also read the
  shortcut as an operand (a 3x3 convolution would read neighbours that the add has already overwritten).

Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

EXECUTORS = ("naive", "in_place")

K = TypeVar("K", bound=Hashable)  # what names a tensor: a number or a text


@dataclass(frozen=True)
class Held:
    """What a tensor takes: bytes, and the format that they are in."""

    size: int
    form: str = ""


@dataclass(frozen=True)
class ScheduledOp(Generic[K]):
    """One op: the tensors it reads as operands, those it writes, and the shortcut it adds, if any."""

    name: str
    operands: tuple[K, ...]
    writes: tuple[K, ...]
    shortcut: K | None = None  # tensor that a fused residual add reads; `in_place` may overwrite it

    @property
    def reads(self) -> tuple[K, ...]:
        """Every tensor the op reads, the shortcut included."""
        return self.operands if self.shortcut is None else (*self.operands, self.shortcut)


@dataclass(frozen=True)
class Schedule(Generic[K]):
    """Ops in the order they run, and the tensors between them.

    Raises:
        ValueError: if an op reads a tensor that does not exist yet.
    """

    ops: tuple[ScheduledOp[K], ...]
    tensors: Mapping[K, Held]
    inputs: tuple[K, ...]  # exist before the first op; alive until last read
    results: tuple[K, ...] = ()  # stay alive to the end
    external: Collection[K] = ()  # lie in the caller's memory: they take no buffer and lend none

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for op in self.ops:
            missing = [name for name in op.reads if name not in known]
            if missing:
                raise ValueError(f"op '{op.name}' reads '{missing[0]}', which no earlier op writes")
            known.update(op.writes)


@dataclass(frozen=True)
class Lifetime:
    """From which op to which a tensor must be kept, by number; -1 is before the first op."""

    born: int
    dies: int  # the number of ops where it stays to the end


@dataclass(frozen=True)
class Buffer(Generic[K]):
    """Memory that one tensor takes, or one after the other where a sum takes its shortcut's over."""

    tensors: tuple[K, ...]
    size: int
    life: Lifetime


@dataclass(frozen=True)
class Peak:
    """The largest total size of tensors alive at once, and the op (the first such) where it stands."""

    size: int
    op: str


def bits_to_bytes(elements: int, bits: int) -> int:
    """Return the bytes of `elements` values of `bits` bits each, rounded up to a whole byte."""
    return -(-elements * bits // 8)


def lifetimes(schedule: Schedule[K]) -> dict[K, Lifetime]:
    """Return when each tensor is alive; an input that nothing reads is left out.

    A tensor that nothing reads is alive while it is written.
    """
    born = dict.fromkeys(schedule.inputs, -1)
    dies: dict[K, int] = {}
    for at, op in enumerate(schedule.ops):
        dies.update(dict.fromkeys(op.reads, at))
        born.update(dict.fromkeys(op.writes, at))
        dies.update(dict.fromkeys(op.writes, at))
    dies.update(dict.fromkeys(schedule.results, len(schedule.ops)))
    return {name: Lifetime(first, dies[name]) for name, first in born.items() if name in dies}


def heirs(schedule: Schedule[K], together: int = 0) -> dict[K, K]:
    """Return each sum that may take its shortcut's buffer over, with that shortcut.

    Args:
        schedule: the ops.
        together: how many of the first ops run at the same time, in bands of rows; their sums take none over.
    """
    lives = lifetimes(schedule)
    found: dict[K, K] = {}
    for at, op in enumerate(schedule.ops):
        shortcut = op.shortcut
        if at < together or shortcut is None or shortcut in op.operands or lives[shortcut].dies > at:
            continue
        for name in op.writes:
            if schedule.tensors[name] == schedule.tensors[shortcut] and not (
                {name, shortcut} & set(schedule.external)
            ):
                found[name] = shortcut
                break
    return found


def buffers(schedule: Schedule[K], *, in_place: bool = True, together: int = 0) -> list[Buffer[K]]:
    """Return the buffers of an executor, in the order they are first written.

    Args:
        schedule: the ops.
        in_place: whether a residual add may accumulate into its shortcut's buffer.
        together: how many of the first ops run at the same time, namely at moment 0.
    """
    taken = heirs(schedule, together) if in_place else {}
    groups: dict[K, list[K]] = {}
    leader: dict[K, K] = {}
    lives = lifetimes(schedule)
    for name in lives:
        if name not in schedule.external:
            leader[name] = leader[taken[name]] if name in taken else name
            groups.setdefault(leader[name], []).append(name)

    def moment(at: int) -> int:
        return 0 if 0 <= at < together else at

    return [
        Buffer(
            tuple(names),
            max(schedule.tensors[name].size for name in names),
            Lifetime(
                moment(min(lives[name].born for name in names)),
                moment(max(lives[name].dies for name in names)),
            ),
        )
        for names in groups.values()
    ]


def sizes_during(schedule: Schedule[K], *, in_place: bool = False) -> list[int]:
    """Return the bytes alive while each op runs."""
    count = len(schedule.ops)
    steps = [0] * (count + 2)
    for buffer in buffers(schedule, in_place=in_place):
        steps[max(buffer.life.born, 0)] += buffer.size
        steps[buffer.life.dies + 1] -= buffer.size
    total, found = 0, []
    for step in steps[:count]:
        total += step
        found.append(total)
    return found


def peak(schedule: Schedule[K], *, in_place: bool = False) -> Peak:
    """Return the largest total of tensors alive at once, and where it stands."""
    lives, external = lifetimes(schedule), schedule.external
    given = (name for name in schedule.inputs if name in lives and name not in external)
    best = Peak(sum(schedule.tensors[name].size for name in given), "input")
    for op, size in zip(schedule.ops, sizes_during(schedule, in_place=in_place), strict=True):
        if size > best.size:
            best = Peak(size, op.name)
    return best


def peaks(schedule: Schedule[K]) -> dict[str, int]:
    """Return the peak of each of `EXECUTORS`."""
    return {name: peak(schedule, in_place=name == "in_place").size for name in EXECUTORS}


def traffic(schedule: Schedule[K]) -> int:
    """Return the bytes that all ops together read and write."""
    return sum(
        schedule.tensors[name].size for op in schedule.ops for name in (*dict.fromkeys(op.reads), *op.writes)
    )


def place(wanted: Iterable[Buffer[K]], alignment: int = 1) -> tuple[dict[K, int], int]:
    """Give each tensor its offset in one arena, so that buffers alive at once never overlap.

    Largest first, each at the lowest offset that nothing alive at the same time takes (greedy by size;
    Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference").

    Args:
        wanted: the buffers.
        alignment: offsets and the size of each buffer are multiples of it.

    Returns:
        The offset of every tensor, and the bytes of the arena.
    """
    placed: list[tuple[int, int, Lifetime]] = []  # from, to, when
    offsets: dict[K, int] = {}
    arena = 0
    for buffer in sorted(wanted, key=lambda b: (-b.size // alignment, b.life.born)):
        size, life = -(-buffer.size // alignment) * alignment, buffer.life
        offset = 0
        for start, stop, other in sorted(placed, key=lambda item: item[:2]):
            if other.born > life.dies or other.dies < life.born:
                continue
            if offset + size <= start:
                break
            offset = max(offset, stop)
        placed.append((offset, offset + size, life))
        offsets.update(dict.fromkeys(buffer.tensors, offset))
        arena = max(arena, offset + size)
    return offsets, arena
