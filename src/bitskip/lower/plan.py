"""The buffer plan: where each tensor lies in the arena of one image, found before anything runs.

Tensors are placed largest first, each at the lowest offset that no tensor alive at the same time takes
(greedy by size; Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"). The
output of a residual add takes over its residual's buffer where the residual is not needed any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bitskip.program import Add, Conv2d, Op, Tensor, op_inputs, op_outputs, op_residual

__all__ = ["plan_buffers"]

_ALIGNMENT = 64


def plan_buffers(
    tensors: list[Tensor], ops: list[Op], outputs: Iterable[int]
) -> tuple[tuple[Tensor, ...], tuple[Op, ...], int]:
    """Give every tensor but the picture (number 0) its offset.

    Args:
        tensors: with their shapes and dtypes; offsets are ignored.
        ops: in the order they run; `in_place` is decided here.
        outputs: numbers of the tensors that stay alive to the end.

    Returns:
        The tensors with offsets, the ops with `in_place`, and the arena's size in bytes.
    """
    born = {0: -1}
    dies: dict[int, int] = {}
    for at, op in enumerate(ops):
        for number in op_inputs(op):
            dies[number] = at
        for number in op_outputs(op):
            born[number] = at
            dies[number] = at
    dies |= dict.fromkeys(outputs, len(ops))

    group = {number: number for number in born}  # a tensor to the one whose buffer it takes over
    planned: list[Op] = []
    for at, op in enumerate(ops):
        heir = _heir(op, at, dies, tensors)
        if heir is not None:
            group[heir] = group[op_residual(op) or 0]
        if isinstance(op, Conv2d | Add):
            op = dataclasses.replace(op, in_place=heir is not None)
        planned.append(op)

    members: dict[int, list[int]] = {}
    for number in born:
        if number:
            members.setdefault(group[number], []).append(number)
    spans = {
        leader: (
            -(-max(tensors[n].size for n in numbers) // _ALIGNMENT) * _ALIGNMENT,
            min(born[n] for n in numbers),
            max(dies[n] for n in numbers),
        )
        for leader, numbers in members.items()
    }
    offsets: dict[int, int] = {}
    arena = 0
    for leader in sorted(spans, key=lambda n: (-spans[n][0], spans[n][1])):
        size, first, last = spans[leader]
        taken = sorted(
            (offsets[other], offsets[other] + spans[other][0])
            for other in offsets
            if spans[other][1] <= last and spans[other][2] >= first
        )
        offset = 0
        for start, stop in taken:
            if offset + size <= start:
                break
            offset = max(offset, stop)
        offsets[leader] = offset
        arena = max(arena, offset + size)
    placed = tuple(
        tensor if number == 0 else dataclasses.replace(tensor, offset=offsets[group[number]])
        for number, tensor in enumerate(tensors)
    )
    return placed, tuple(planned), arena


def _heir(op: Op, at: int, dies: dict[int, int], tensors: list[Tensor]) -> int | None:
    """Return the output of `op` that may take its residual's buffer over, if any."""
    residual = op_residual(op)
    if residual is None or residual == op.input or dies[residual] > at:
        return None
    for number in op_outputs(op):
        if tensors[number].dtype == tensors[residual].dtype:
            return number
    return None
