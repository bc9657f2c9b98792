"""Buffers in the arena: nothing alive is overwritten, in place only where nothing is lost, and no waste."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip.lower.buffers import place_buffers
from bitskip.program import (
    Add,
    Affine,
    FloatEpilogue,
    Op,
    Output,
    Program,
    QuantizeInput,
    Tensor,
    op_inputs,
    op_outputs,
)

SHAPE = (1, 1, 16)  # 64 bytes of f32, so that every buffer is one unit of the arena
ONE = np.ones(16, np.float32)


def copy(source: int, result: int) -> Op:
    return Affine(f"copy {result}", source, (result,), FloatEpilogue(ONE))


def add(source: int, residual: int, result: int) -> Op:
    return Add(f"add {result}", source, (result,), FloatEpilogue(residual=residual))


def place(ops: list[Op], output: int | None = None) -> tuple[tuple[Tensor, ...], tuple[Op, ...], int]:
    tensors = [Tensor("u8", SHAPE), *(Tensor("f32", SHAPE, 0) for _ in ops)]
    return place_buffers(tensors, ops, (len(ops) if output is None else output,))


FIRST = QuantizeInput("picture", 0, 1, ONE, ONE)


def test_a_chain_takes_two_buffers() -> None:
    *_, arena = place([FIRST, copy(1, 2), copy(2, 3), copy(3, 4), copy(4, 5)])
    assert arena == 2 * 64


def test_an_add_takes_its_residual_s_buffer() -> None:
    tensors, ops, arena = place([FIRST, copy(1, 2), add(2, 1, 3)])
    assert isinstance(ops[2], Add)
    assert ops[2].in_place
    assert tensors[3].offset == tensors[1].offset
    assert arena == 2 * 64


def test_an_add_leaves_a_residual_alone_that_is_read_again() -> None:
    tensors, ops, arena = place([FIRST, copy(1, 2), add(2, 1, 3), add(3, 1, 4)])
    assert isinstance(ops[2], Add)
    assert not ops[2].in_place
    assert tensors[3].offset != tensors[1].offset
    assert arena == 3 * 64


def test_an_add_leaves_a_residual_alone_that_is_its_own_input() -> None:
    _, ops, arena = place([FIRST, copy(1, 2), add(2, 2, 3)])
    assert isinstance(ops[2], Add)
    assert not ops[2].in_place
    assert arena == 2 * 64


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_every_plan_is_sound(steps: list[tuple[int, int, bool]]) -> None:
    """Random networks, whose buffers the validator checks independently."""
    ops: list[Op] = [FIRST]
    for number, (first, second, adds) in enumerate(steps, 2):
        source, residual = 1 + first % (number - 1), 1 + second % (number - 1)
        ops.append(add(source, residual, number) if adds else copy(source, number))
    tensors, final, arena = place(ops)
    program = Program("placed", tensors, final, (Output("logits", len(ops)),), arena)
    alive = max(
        len({program.tensors[n].offset for n in (*op_inputs(op), *op_outputs(op)) if n}) for op in program.ops
    )
    assert 64 * alive <= arena <= 64 * len(ops)
