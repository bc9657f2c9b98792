"""The one memory model: small lists of ops by hand, random ones against brute force, and who asks it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip.memory import (
    Held,
    Lifetime,
    Peak,
    Schedule,
    ScheduledOp,
    bits_to_bytes,
    buffers,
    lifetimes,
    peak,
    peaks,
    place,
    sizes_during,
    traffic,
)

Written = dict[str, int]  # tensors with their bytes


def schedule(
    ops: list[tuple[str, tuple[str, ...], Written] | tuple[str, tuple[str, ...], Written, str | None]],
    inputs: Written,
    results: tuple[str, ...] = (),
) -> Schedule[str]:
    made = [ScheduledOp(name, operands, tuple(written), *rest) for name, operands, written, *rest in ops]
    sizes = dict(inputs)
    for _, _, written, *_ in ops:
        sizes |= written
    held = {name: Held(size) for name, size in sizes.items()}
    return Schedule(tuple(made), held, tuple(inputs), results)


def _both(made: Schedule[str]) -> tuple[int, int]:
    return peak(made).size, peak(made, in_place=True).size


def test_a_chain_holds_two_tensors() -> None:
    ops = [("a", ("x",), {"a": 5}), ("b", ("a",), {"b": 7}), ("c", ("b",), {"c": 1})]
    assert peak(schedule(ops, {"x": 3}, ("c",))) == Peak(5 + 7, "b")


def test_the_input_alone_may_be_the_peak() -> None:
    assert peak(schedule([], {"x": 3}, ("x",))) == Peak(3, "input")
    assert peak(schedule([("a", (), {"a": 1})], {"x": 3}, ("a",))) == Peak(1, "a")  # nothing reads x


def test_a_shortcut_lives_through_its_block() -> None:
    ops = [("conv1", ("x",), {"a": 10}), ("conv2", ("a",), {"y": 10}, "x")]
    assert peak(schedule(ops, {"x": 10}, ("y",))) == Peak(30, "conv2")
    assert peak(schedule(ops, {"x": 10}, ("y",)), in_place=True) == Peak(20, "conv1")


def test_in_place_needs_the_last_reader() -> None:
    ops = [
        ("conv1", ("x",), {"a": 10}),
        ("conv2", ("a",), {"y": 10}, "x"),
        ("late", ("x", "y"), {"z": 1}),
    ]
    assert _both(schedule(ops, {"x": 10}, ("z",))) == (30, 30)


def test_in_place_needs_the_same_size() -> None:
    ops = [("conv1", ("x",), {"a": 10}), ("conv2", ("a",), {"y": 9}, "x")]
    assert _both(schedule(ops, {"x": 10}, ("y",))) == (29, 29)


def test_an_operand_is_not_overwritten_while_it_is_read() -> None:
    ops = [("conv", ("x",), {"y": 10}, "x")]
    assert _both(schedule(ops, {"x": 10}, ("y",))) == (20, 20)


def test_a_result_is_not_overwritten() -> None:
    ops = [("conv1", ("x",), {"a": 10}), ("conv2", ("a",), {"y": 10}, "x")]
    assert _both(schedule(ops, {"x": 10}, ("x", "y"))) == (30, 30)


def test_only_one_of_two_outputs_takes_the_buffer_over() -> None:
    ops = [("conv1", ("x",), {"a": 10}), ("conv2", ("a",), {"y": 10, "bits": 1}, "x")]
    assert _both(schedule(ops, {"x": 10}, ("y", "bits"))) == (31, 21)


def test_results_stay_to_the_end() -> None:
    ops = [("a", ("x",), {"a": 5}), ("b", ("x",), {"b": 5}), ("c", ("b",), {"c": 20})]
    assert peak(schedule(ops, {"x": 1}, ("a", "c"))).size == 5 + 5 + 20
    assert peak(schedule(ops, {"x": 1}, ("c",))).size == 5 + 20


def test_an_output_that_nothing_reads_is_alive_while_it_is_written() -> None:
    assert peak(schedule([("a", ("x",), {"a": 5, "unused": 100})], {"x": 1}, ("a",))) == Peak(106, "a")


def test_reading_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="op 'b' reads 'a', which no earlier op writes"):
        peak(schedule([("b", ("a",), {"b": 1}), ("a", (), {"a": 1})], {}))


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=2, max_size=12))
def test_in_place_is_never_larger_and_never_below_one_op(drawn: list[tuple[int, bool]]) -> None:
    ops, sizes = [], [7]
    for at, (size, joins) in enumerate(drawn):
        shortcut = f"t{at - 2}" if joins and at >= 2 else None
        ops.append((f"op{at}", (f"t{at - 1}" if at else "x",), {f"t{at}": size}, shortcut))
        sizes.append(size)
    naive, in_place = _both(schedule(ops, {"x": 7}, (f"t{len(drawn) - 1}",)))
    assert max(a + b for a, b in pairwise(sizes)) <= in_place <= naive <= sum(sizes)


def test_bytes_are_whole() -> None:
    assert [bits_to_bytes(n, 1) for n in (1, 8, 9)] == [1, 1, 2]
    assert bits_to_bytes(3, 32) == 12


def test_a_sum_takes_over_only_what_has_its_format() -> None:
    ops = (ScheduledOp("conv1", ("x",), ("a",)), ScheduledOp("conv2", ("a",), ("y",), "x"))
    for form, bytes_ in (("f32", 20), ("i32", 30)):
        held = {"x": Held(10, form), "a": Held(10, "f32"), "y": Held(10, "f32")}
        assert peak(Schedule(ops, held, ("x",), ("y",)), in_place=True).size == bytes_


def test_what_the_caller_holds_takes_no_buffer_and_lends_none() -> None:
    ops = (ScheduledOp("conv1", ("x",), ("a",)), ScheduledOp("conv2", ("a",), ("y",), "x"))
    held = dict.fromkeys(("x", "a", "y"), Held(10))
    for external, size in (((), 20), (("x",), 20), (("x", "y"), 10), (("y",), 20)):
        assert peak(Schedule(ops, held, ("x",), ("y",), external), in_place=True).size == size


def test_ops_in_bands_run_at_one_moment() -> None:
    made = schedule(
        [("a", ("x",), {"a": 1}), ("b", ("a",), {"b": 1}), ("c", ("b",), {"c": 1})], {"x": 1}, ("c",)
    )
    lives = {buffer.tensors: buffer.life for buffer in buffers(made, together=2)}
    assert lives == {
        ("x",): Lifetime(-1, 0), ("a",): Lifetime(0, 0), ("b",): Lifetime(0, 2), ("c",): Lifetime(2, 3)
    }  # fmt: skip


def test_traffic_is_all_that_is_read_and_written() -> None:
    made = schedule([("a", ("x",), {"a": 2}), ("b", ("a",), {"b": 3}, "x")], {"x": 5}, ("b",))
    assert traffic(made) == (5 + 2) + (2 + 5 + 3)


# -- against brute force ------------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> Schedule[int]:
    """Random graphs: any op reads any earlier tensors, writes one or two, and may add one."""
    tensors = {0: Held(draw(st.integers(1, 4)), "a")}
    ops: list[ScheduledOp[int]] = []
    for at in range(draw(st.integers(1, 8))):
        known = st.sampled_from(sorted(tensors))
        operands = tuple(draw(st.lists(known, min_size=1, max_size=2, unique=True)))
        shortcut = draw(st.none() | known)
        writes = tuple(range(len(tensors), len(tensors) + draw(st.integers(1, 2))))
        for number in writes:
            tensors[number] = Held(draw(st.integers(1, 4)), draw(st.sampled_from("ab")))
        ops.append(ScheduledOp(f"op{at}", operands, writes, shortcut))
    results = tuple(draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2, unique=True)))
    external = tuple(draw(st.sampled_from([(), (0,), (0, *results)])))
    return Schedule(tuple(ops), tensors, (0,), results, external)


def _brute_force(made: Schedule[int], in_place: bool) -> list[int]:
    """Run the ops on named boxes of memory: a box is freed once nothing later asks for what is in it."""

    def wanted(name: int, after: int) -> bool:
        return name in made.results or any(name in op.reads for op in made.ops[after + 1 :])

    box = {0: 0} if wanted(0, -1) and 0 not in made.external else {}  # tensor -> box
    size = {0: made.tensors[0].size}
    found = []
    for at, op in enumerate(made.ops):
        heir = None
        if in_place and op.shortcut in box and op.shortcut not in op.operands and not wanted(op.shortcut, at):
            alike = [n for n in op.writes if made.tensors[n] == made.tensors[op.shortcut]]
            heir = next((n for n in alike if n not in made.external), None)
        for name in op.writes:
            if name in made.external:
                continue
            if name == heir:
                box[name] = box[op.shortcut]
            else:
                box[name] = len(size)
                size[len(size)] = made.tensors[name].size
        found.append(sum(size[number] for number in set(box.values())))
        box = {name: number for name, number in box.items() if wanted(name, at)}
    return found


@given(schedules(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_alive_is_what_brute_force_keeps(made: Schedule[int], in_place: bool) -> None:
    during = sizes_during(made, in_place=in_place)
    assert during == _brute_force(made, in_place)
    assert peak(made, in_place=in_place).size == max(during)
    assert peaks(made) == {"naive": peak(made).size, "in_place": peak(made, in_place=True).size}


@given(schedules(), st.booleans(), st.sampled_from([1, 4]))
@settings(max_examples=100, deadline=None)
def test_every_tensor_is_whole_when_it_is_read(made: Schedule[int], in_place: bool, alignment: int) -> None:
    """Run the ops in the arena, byte by byte: what is read is what was written."""
    wanted = buffers(made, in_place=in_place)
    offsets, arena = place(wanted, alignment)
    assert arena >= max(sizes_during(made, in_place=in_place))
    assert all(offset % alignment == 0 for offset in offsets.values())
    memory: list[int | None] = [None] * arena
    lives = lifetimes(made)

    def bytes_of(name: int) -> slice:
        return slice(offsets[name], offsets[name] + made.tensors[name].size)

    def write(name: int) -> None:
        if name in offsets:
            memory[bytes_of(name)] = [name] * made.tensors[name].size

    def check(names: tuple[int, ...]) -> None:
        for name in names:
            if name in offsets:
                assert memory[bytes_of(name)] == [name] * made.tensors[name].size

    write(0)
    for at, op in enumerate(made.ops):
        check(op.reads)
        for name in op.writes:
            write(name)
        # An output may stand only where the shortcut was; operands are read while it is written.
        check(op.operands)
        check(op.writes)
        check(tuple(name for name, life in lives.items() if life.born <= at < life.dies))
    check(tuple(made.results))
