"""What a program needs on a device: in which order rows are computed, and where each tensor lies.

Two executors, for each op one of them:

- layer by layer: an op computes all its rows, then the next op runs. Where an op is the last reader of its
  input, its output may overlap it: rows are written over rows that are not needed any more, from the top
  down or from the bottom up;
- in bands: the first ops run together. Each computes a row when the op after it needs one, and of the
  tensors between them only the last rows are kept, in a ring. Nothing is computed twice, so bands cost
  no more instructions (patch-based execution, Lin et al. 2021, "MCUNetV2", recomputes its seams).

What is alive when, and which sum takes its residual's buffer over, `bitskip.memory` says. Where each buffer
lies is found here, since rows may overlap rows and bands keep rings. Sizes are bytes. On a device, bits lie
in 32-bit words: ceil(C / 32) a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bitskip.memory import buffers
from bitskip.program import (
    AvgPool,
    Conv2d,
    GlobalAvgPool,
    MaxPool,
    Op,
    Program,
    Tensor,
    op_inputs,
    op_outputs,
    op_residual,
    program_schedule,
)

_ALIGNMENT = 8


def row_bytes(tensor: Tensor) -> int:
    """Return the bytes of one row on the device, a multiple of 4."""
    _, width, channels = tensor.shape
    if tensor.dtype == "bits":
        return width * -(-channels // 32) * 4
    return -4 * (-width * channels * {"u8": 1, "i8": 1, "f32": 4, "i32": 4}[tensor.dtype] // 4)


def _up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class Window:
    """Which rows of its input a step of an op reads: `kernel` of them from `step * stride - padding` on."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0

    def first(self, step: int) -> int:
        """Return the first row, at least 0."""
        return max(0, step * self.stride - self.padding)

    def last(self, step: int, height: int) -> int:
        """Return the last row inside a tensor of that height, -1 if there is none."""
        return min(height - 1, step * self.stride - self.padding + self.kernel - 1)


def window_of(op: Op) -> Window:
    """Return the rows of `op.input` that each step reads."""
    if isinstance(op, Conv2d | MaxPool | AvgPool):
        return Window(op.kernel[0], op.stride[0], op.padding[0])
    return Window()


def steps_of(op: Op, tensors: Sequence[Tensor]) -> int:
    """Return how many steps `op` takes: one an output row; a global pool one an input row."""
    number = op.input if isinstance(op, GlobalAvgPool) else op_outputs(op)[0]
    return tensors[number].shape[0]


@dataclass(frozen=True)
class Placed:
    """A tensor in the arena: its offset, and how many of its rows are kept."""

    offset: int
    rows: int
    row_bytes: int

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Placement:
    """Where everything lies while a program runs on a device."""

    bands: int  # the first so many ops run in bands of rows; 0 or 1: none
    places: dict[int, Placed]  # tensor number to its place; not the picture, nor the logits
    scratch: dict[int, int]  # op number to the offset of its working memory
    downward: dict[int, bool]  # op number to whether its rows run from the bottom up
    arena_bytes: int
    live_bytes: int = 0  # largest total of whole tensors alive at once, without working memory


@dataclass
class _Item:
    """Something to be placed: a tensor with its heirs, or the working memory of an op."""

    size: int
    born: int
    dies: int
    rows: int = 0
    row: int = 0
    tensors: list[int] = field(default_factory=list)
    scratch_of: list[int] = field(default_factory=list)


def place_tensors(
    program: Program, scratch: Sequence[int], bands: int = 0, *, external: frozenset[int] = frozenset()
) -> Placement:
    """Place everything that `program` needs.

    Args:
        program: what runs.
        scratch: bytes of working memory of each op.
        bands: how many of the first ops run in bands.
        external: tensors that lie in the caller's memory: the picture and the outputs.

    Returns:
        The placement; offsets are multiples of 8.
    """
    tensors, ops = program.tensors, program.ops
    rings = _ring_rows(program, bands) if bands > 1 else {}
    moment = [0 if at < bands else at for at in range(len(ops))]  # ops in bands run at the same time
    rows = {number: rings.get(number, tensor.shape[0]) for number, tensor in enumerate(tensors)}
    sizes = {number: _up(rows[number] * row_bytes(tensor)) for number, tensor in enumerate(tensors)}
    outputs = [output.tensor for output in program.outputs]
    schedule = program_schedule(tensors, ops, outputs, external=external, sizes=sizes)
    items: list[_Item] = []
    owner: dict[int, _Item] = {}
    for held in buffers(schedule, together=bands):
        first = held.tensors[0]
        item = _Item(held.size, held.life.born, held.life.dies, rows[first], row_bytes(tensors[first]))
        item.tensors.extend(held.tensors)
        owner.update(dict.fromkeys(held.tensors, item))
        items.append(item)
    live = max((sum(i.size for i in items if i.born <= m <= i.dies) for m in set(moment)), default=0)
    work: dict[int, _Item] = {}
    for at, size in enumerate(scratch):
        if size == 0:
            continue
        if moment[at] not in work:
            work[moment[at]] = _Item(0, moment[at], moment[at])
            items.append(work[moment[at]])
        work[moment[at]].size = max(work[moment[at]].size, _up(size))
        work[moment[at]].scratch_of.append(at)
    lags = _overlaps(program, owner, moment, bands)
    offsets = _place(items, lags)
    low = min(offsets.values(), default=0)
    high = max((offsets[id(item)] + item.size for item in items), default=0)
    places: dict[int, Placed] = {}
    scratch_at: dict[int, int] = {}
    for item in items:
        offset = offsets[id(item)] - low
        for number in item.tensors:
            places[number] = Placed(offset, item.rows, item.row)
        for at in item.scratch_of:
            scratch_at[at] = offset
    downward = {at: _upwards(op, places, owner, lags) for at, op in enumerate(ops)}
    return Placement(bands, places, scratch_at, downward, high - low, live)


def _upwards(
    op: Op, places: dict[int, Placed], owner: dict[int, _Item], lags: dict[tuple[int, int], tuple[int, int]]
) -> bool:
    """Whether `op` runs from its last row to its first: its output begins behind the input it overwrites."""
    target = op_outputs(op)[0]
    if op.input not in places or target not in places:
        return False
    if (id(owner[op.input]), id(owner[target])) not in lags:
        return False
    source, written = places[op.input], places[target]
    return _touch(source, written) and written.offset > source.offset


def _touch(a: Placed, b: Placed) -> bool:
    return a.offset < b.offset + b.size and b.offset < a.offset + a.size


def _ring_rows(program: Program, bands: int) -> dict[int, int]:
    """Return how many rows each tensor within the bands keeps, by running the bands without numbers."""
    tensors, ops = program.tensors, program.ops[:bands]
    maker = {number: at for at, op in enumerate(ops) for number in op_outputs(op)}
    outside = {n for op in program.ops[bands:] for n in op_inputs(op)} | {program.output}
    readers: dict[int, list[tuple[int, Window]]] = {}
    for at, op in enumerate(ops):
        readers.setdefault(op.input, []).append((at, window_of(op)))
        residual = op_residual(op)
        if residual is not None:
            readers.setdefault(residual, []).append((at, Window()))
    steps = [steps_of(op, tensors) for op in ops]
    done = [0] * len(ops)
    kept: dict[int, int] = {}

    def need(at: int, count: int) -> None:
        while done[at] < min(count, steps[at]):
            for number in op_inputs(ops[at]):
                if number in maker:
                    window = window_of(ops[at]) if number == ops[at].input else Window()
                    need(maker[number], window.last(done[at], tensors[number].shape[0]) + 1)
            for number in op_outputs(ops[at]):
                oldest = min(
                    (window.first(done[r]) for r, window in readers.get(number, ()) if done[r] < steps[r]),
                    default=done[at],
                )
                kept[number] = max(kept.get(number, 1), done[at] + 1 - oldest)
            done[at] += 1

    for at in range(len(ops)):
        if not any(n in readers for n in op_outputs(ops[at])) or any(
            n in outside for n in op_outputs(ops[at])
        ):
            need(at, steps[at])
    whole = {n for op in ops for n in op_outputs(op) if n in outside or isinstance(op, GlobalAvgPool)}
    return {
        n: tensors[n].shape[0] if n in whole else min(rows, tensors[n].shape[0]) for n, rows in kept.items()
    }


def _overlaps(
    program: Program, owner: dict[int, _Item], moment: Sequence[int], bands: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """Return for pairs (input, output): how far below, and how far above the input the output may begin."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for at, op in enumerate(program.ops):
        outs = [number for number in op_outputs(op) if number in owner]
        if (
            at < bands
            or not isinstance(op, Conv2d | MaxPool | AvgPool)
            or len(op_outputs(op)) != 1
            or not outs
        ):
            continue
        if op.input not in owner:
            continue
        source, target = owner[op.input], owner[outs[0]]
        if source is target or source.dies != moment[at] or target.born != moment[at]:
            continue
        if op_residual(op) is not None and owner.get(op_residual(op) or 0) is source:
            continue
        window, height = window_of(op), program.tensors[op.input].shape[0]
        if source.rows != height:
            continue
        rows = range(steps_of(op, program.tensors))
        below = _up(max((y + 1) * target.row - min(window.first(y), height) * source.row for y in rows))
        above = _up(max((window.last(y, height) + 1) * source.row - y * target.row for y in rows))
        found[id(source), id(target)] = (below, above)
    return found


def _place(items: list[_Item], lags: dict[tuple[int, int], tuple[int, int]]) -> dict[int, int]:
    """Give each item an offset, maybe negative (greedy; Pisarchyk and Lee 2020); the best of three orders."""
    best: dict[int, int] = {}
    best_size = -1
    orders = (
        sorted(items, key=lambda i: (-i.size, i.born)),
        sorted(items, key=lambda i: (i.born, -i.size)),
        sorted(items, key=lambda i: (-i.born, -i.size)),
    )
    for order in orders:
        offsets: dict[int, int] = {}
        placed: list[_Item] = []
        for item in order:
            offsets[id(item)] = _lowest(item, placed, offsets, lags)
            placed.append(item)
        size = _extent(placed, offsets)
        if best_size < 0 or size < best_size:
            best, best_size = offsets, size
    return best


def _extent(items: list[_Item], offsets: dict[int, int]) -> int:
    if not items:
        return 0
    return max(offsets[id(i)] + i.size for i in items) - min(offsets[id(i)] for i in items)


def _lowest(
    item: _Item, placed: list[_Item], offsets: dict[int, int], lags: dict[tuple[int, int], tuple[int, int]]
) -> int:
    """Return the offset that makes the arena grow least."""
    rivals = [other for other in placed if other.born <= item.dies and item.born <= other.dies]
    bounds = []  # (item may end up to here, or begin from here on)
    for other in rivals:
        at = offsets[id(other)]
        below, above = at - item.size, at + other.size
        if (id(other), id(item)) in lags:  # item is written while other is read
            down, up = lags[id(other), id(item)]
            below, above = max(below, at - down), min(above, at + up)
        elif (id(item), id(other)) in lags:  # other is written while item is read
            down, up = lags[id(item), id(other)]
            below, above = max(below, at - up), min(above, at + down)
        bounds.append((below, above))
    candidates = {0, *(offsets[id(other)] for other in placed)}
    candidates |= {edge for pair in bounds for edge in pair}
    fitting = [c for c in candidates if all(c <= below or c >= above for below, above in bounds)]
    low = min((offsets[id(other)] for other in placed), default=0)
    high = max((offsets[id(other)] + other.size for other in placed), default=0)

    def cost(offset: int) -> tuple[int, int]:
        return max(high, offset + item.size) - min(low, offset), offset

    return min(fitting, key=cost)
