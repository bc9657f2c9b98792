"""The buffers: where each tensor lies in the arena of one image, found before anything runs.

`bitskip.memory` decides what is alive when, which sum takes its residual's buffer over, and where each buffer
lies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bitskip.memory import buffers, heirs, place
from bitskip.program import Add, Conv2d, Op, Tensor, op_outputs, program_schedule

_ALIGNMENT = 64


def place_buffers(
    tensors: list[Tensor], ops: list[Op], outputs: Iterable[int]
) -> tuple[tuple[Tensor, ...], tuple[Op, ...], int]:
    """Give every tensor but the inputs, which come first, its offset.

    Args:
        tensors: with their shapes and dtypes; offsets are ignored.
        ops: in the order they run; `in_place` is decided here.
        outputs: numbers of the tensors that stay alive to the end.

    Returns:
        The tensors with offsets, the ops with `in_place`, and the arena's size in bytes.
    """
    schedule = program_schedule(tensors, ops, outputs)
    sums = heirs(schedule)
    offsets, arena = place(buffers(schedule), _ALIGNMENT)
    placed = tuple(
        tensor if tensor.dtype == "u8" else dataclasses.replace(tensor, offset=offsets[number])
        for number, tensor in enumerate(tensors)
    )
    marked = tuple(
        dataclasses.replace(op, in_place=not sums.keys().isdisjoint(op_outputs(op)))
        if isinstance(op, Conv2d | Add)
        else op
        for op in ops
    )
    return placed, marked, arena
