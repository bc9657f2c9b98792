"""Peak memory of small lists of ops, by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitskip.liveness import Op, Peak, peak_live


def _both(ops: list[Op], inputs: dict[str, int], results: tuple[str, ...] = ()) -> tuple[int, int]:
    return (
        peak_live(ops, inputs, results).size,
        peak_live(ops, inputs, results, in_place=True).size,
    )


def test_a_chain_holds_two_tensors() -> None:
    ops = [Op("a", ("x",), {"a": 5}), Op("b", ("a",), {"b": 7}), Op("c", ("b",), {"c": 1})]
    assert peak_live(ops, {"x": 3}, ("c",)) == Peak(5 + 7, "b")


def test_the_input_alone_may_be_the_peak() -> None:
    assert peak_live([], {"x": 3}, ("x",)) == Peak(3, "input")
    assert peak_live([Op("a", (), {"a": 1})], {"x": 3}, ("a",)) == Peak(1, "a")  # nothing reads x


def test_a_shortcut_lives_through_its_block() -> None:
    ops = [Op("conv1", ("x",), {"a": 10}), Op("conv2", ("a",), {"y": 10}, shortcut="x")]
    assert peak_live(ops, {"x": 10}, ("y",)) == Peak(30, "conv2")
    assert peak_live(ops, {"x": 10}, ("y",), in_place=True) == Peak(20, "conv1")


def test_in_place_needs_the_last_reader() -> None:
    ops = [
        Op("conv1", ("x",), {"a": 10}),
        Op("conv2", ("a",), {"y": 10}, shortcut="x"),
        Op("late", ("x", "y"), {"z": 1}),
    ]
    assert _both(ops, {"x": 10}, ("z",)) == (30, 30)


def test_in_place_needs_the_same_size() -> None:
    ops = [Op("conv1", ("x",), {"a": 10}), Op("conv2", ("a",), {"y": 9}, shortcut="x")]
    assert _both(ops, {"x": 10}, ("y",)) == (29, 29)


def test_an_operand_is_not_overwritten_while_it_is_read() -> None:
    ops = [Op("conv", ("x",), {"y": 10}, shortcut="x")]
    assert _both(ops, {"x": 10}, ("y",)) == (20, 20)


def test_a_result_is_not_overwritten() -> None:
    ops = [Op("conv1", ("x",), {"a": 10}), Op("conv2", ("a",), {"y": 10}, shortcut="x")]
    assert _both(ops, {"x": 10}, ("x", "y")) == (30, 30)


def test_only_one_of_two_outputs_takes_the_buffer_over() -> None:
    ops = [Op("conv1", ("x",), {"a": 10}), Op("conv2", ("a",), {"y": 10, "bits": 1}, shortcut="x")]
    assert _both(ops, {"x": 10}, ("y", "bits")) == (31, 21)


def test_results_stay_to_the_end() -> None:
    ops = [Op("a", ("x",), {"a": 5}), Op("b", ("x",), {"b": 5}), Op("c", ("b",), {"c": 20})]
    assert peak_live(ops, {"x": 1}, ("a", "c")).size == 5 + 5 + 20
    assert peak_live(ops, {"x": 1}, ("c",)).size == 5 + 20


def test_an_output_that_nothing_reads_is_alive_while_it_is_written() -> None:
    assert peak_live([Op("a", ("x",), {"a": 5, "unused": 100})], {"x": 1}, ("a",)) == Peak(106, "a")


def test_reading_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="op 'b' reads 'a', which no earlier op writes"):
        peak_live([Op("b", ("a",), {"b": 1}), Op("a", (), {"a": 1})], {})


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=2, max_size=12))
def test_in_place_is_never_larger_and_never_below_one_op(drawn: list[tuple[int, bool]]) -> None:
    ops, sizes = [], [7]
    for at, (size, joins) in enumerate(drawn):
        shortcut = f"t{at - 2}" if joins and at >= 2 else None
        ops.append(Op(f"op{at}", (f"t{at - 1}" if at else "x",), {f"t{at}": size}, shortcut))
        sizes.append(size)
    naive, in_place = _both(ops, {"x": 7}, (f"t{len(drawn) - 1}",))
    assert max(a + b for a, b in pairwise(sizes)) <= in_place <= naive <= sum(sizes)
