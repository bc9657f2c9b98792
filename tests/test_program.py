"""The packed file: it comes back as it was, any damage is found, and hostile values are refused."""

from __future__ import annotations

import dataclasses
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip import _native
from bitskip.backends.reference import run_reference
from bitskip.errors import FileFormatError, RunError
from bitskip.program import (
    Add,
    Binarize,
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Op,
    Output,
    Program,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
)
from bitskip.program.file import TENSOR, decode, encode, op_bytes, signed, split
from bitskip.program.generate import DOCS_FILE, HEADER_FILE, header, with_tables
from bitskip.program.schema import COLUMNS, OPS, RECORD
from mutants import layout, survive
from programs import I8, Maker, every_op

PROGRAM = every_op()
CONTENT = PROGRAM.to_bytes()
AT = layout(CONTENT)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)


def refused(content: bytes, match: str | None = None) -> None:
    """Both readers refuse it."""
    with pytest.raises(FileFormatError, match=match):
        decode(content)
    assert _native.check(content)


# -- one table -------------------------------------------------------------------------------------------


def test_what_is_made_from_the_table_of_ops_is_up_to_date() -> None:
    """`python -m bitskip.program.generate` makes them."""
    assert HEADER_FILE.read_text() == header()
    text = DOCS_FILE.read_text()
    assert text == with_tables(text)


def test_every_op_of_the_table_is_in_the_test_program() -> None:
    assert {op.kind for op in PROGRAM.ops} == set(OPS)


# -- what is written is what is read -------------------------------------------------------------------


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "p.bitskip")
    again = Program.load(tmp_path / "p.bitskip")
    assert again.to_bytes() == CONTENT
    assert again.tensors == PROGRAM.tensors
    assert [op.kind for op in again.ops] == [op.kind for op in PROGRAM.ops]
    for expected, got in zip(PROGRAM.constants(), again.constants(), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(run_reference(again, IMAGES), run_reference(PROGRAM, IMAGES))
    assert _native.check(CONTENT) == ""


def test_constants_lie_where_c_may_use_them() -> None:
    records = RECORD.iter_unpack(split(memoryview(CONTENT)).ops)
    offsets = [at for record in records for at in record[-13:] if at]
    assert len(offsets) == len(list(PROGRAM.constants()))
    assert all(at % 8 == 0 for at in offsets)
    assert sum(at % 64 == 0 for at in offsets) > len(offsets) // 4
    assert sum(op_bytes(PROGRAM)) <= PROGRAM.weight_bytes == len(split(memoryview(CONTENT)).constants)


@given(st.integers(1, 140), st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_1_bit_weights_take_1_bit_and_come_back(channels: int, out: int, seed: int) -> None:
    m = Maker((1, 1, channels), seed)
    real, signs, logits = (
        m.tensor("f32", (1, 1, channels)),
        m.tensor("bits", (1, 1, channels)),
        m.tensor("f32", (1, 1, out)),
    )
    weight = m.signs(out, 1, 1, channels)
    m.ops += [
        QuantizeInput("picture", 0, real, np.ones(channels, np.float32), np.zeros(channels, np.float32)),
        Binarize("signs", real, signs),
        Conv2d("head", signs, (logits,), "w1", weight, (1, 1), (0, 0), FloatEpilogue()),
    ]
    program = m.done(logits)
    again = decode(encode(program))
    np.testing.assert_array_equal(again.ops[2].weight, weight)  # type: ignore[union-attr]
    stream = -(-channels * out // 8)
    assert stream <= op_bytes(program)[2] < stream + 64  # aligned
    assert _native.check(encode(program)) == ""


def test_saving_and_loading_say_what_failed(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot read .*nothing"):
        Program.load(tmp_path / "nothing.bitskip")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        PROGRAM.save(tmp_path / "file" / "p.bitskip")
    with pytest.raises(FileFormatError, match=r"file is not a sound \.bitskip file"):
        Program.load(tmp_path / "file")


def test_a_file_of_the_first_format_gets_one_clear_sentence(tmp_path: Path) -> None:
    text = b'{"__metadata__":{"format":"bitskip","version":"1","sha256":"0"}}'
    (tmp_path / "old.bitskip").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(FileFormatError, match=r"in format version 1, this bitskip reads 2; pack .*again$"):
        Program.load(tmp_path / "old.bitskip")


# -- damage ----------------------------------------------------------------------------------------------


def damage(rng: random.Random) -> bytes:
    """Return the file with one kind of damage."""
    content = bytearray(CONTENT)
    kind = rng.randrange(5)
    if kind == 0:  # flips of bits
        for _ in range(rng.choice((1, 1, 1, 3, 20))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut off
        del content[rng.randrange(len(content)) :]
    elif kind == 2:  # trailed
        content += rng.randbytes(rng.randrange(1, 40))
    elif kind == 3:  # a stretch of noise
        at = rng.randrange(len(content))
        content[at : at + 16] = rng.randbytes(16)
    else:  # a piece left out or doubled
        first, second = sorted(rng.sample(range(len(content) + 1), 2))
        content[first:second] = content[first:second] * rng.choice((0, 2))
    return bytes(content)


def test_damage_is_found() -> None:
    rng = random.Random(0)
    for _ in range(1_000):
        content = damage(rng)
        if content != CONTENT:
            refused(content)


def test_every_changed_byte_is_found() -> None:
    for at in range(len(CONTENT)):
        content = bytearray(CONTENT)
        content[at] ^= 0x20
        refused(bytes(content))


def test_python_and_c_agree_on_signed_mutants() -> None:
    """In a process of its own, which what C gets wrong would end."""
    tests = Path(__file__).parent
    words = [sys.executable, str(tests / "mutants.py"), "400", "0"]
    end = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tests, check=False)
    assert end.returncode == 0, end.stderr[-2000:]
    assert "'ran': " in end.stdout
    assert "'refused': " in end.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_thousand_mutants(seed: int) -> None:
    survive([CONTENT], 5_000, seed=1 + seed)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_not_a_file(noise: bytes) -> None:
    refused(noise)
    start = CONTENT[:16] + struct.pack("<I", 20 + len(noise)) + noise
    refused(signed(start))


def test_the_container_refuses_tricks() -> None:
    def changed(at: int, value: int, length: int = 4) -> bytes:
        content = bytearray(CONTENT)
        content[at : at + length] = value.to_bytes(length, "little")
        return signed(bytes(content))

    refused(CONTENT[:-1], "header claims")
    refused(signed(CONTENT + b" "), "header claims")
    refused(changed(8, 3), "format version is 3, this bitskip reads 2")
    refused(changed(60, 1), "holds more than a .bitskip header does")
    refused(changed(20, 0), "it has 0 tensors")
    refused(changed(24, 4097), "it has 4097 ops")
    refused(changed(28, 17), "it has 17 outputs")
    refused(changed(40, AT.tensors), "its parts take")
    refused(changed(AT.names, 0xFF, 1), "names are not UTF-8")
    refused(changed(AT.names, 0x0A, 1), "lines of names, expected")
    with pytest.raises(FileFormatError, match="its JSON is not valid"):
        decode(changed(AT.json, 0x5B, 1))
    text = CONTENT[AT.json :]
    for wrong, match in (
        (text.replace(b"0.5", b"NaN"), "NaN is not a JSON number"),
        (b"[" * len(text), "not valid"),
        (text.replace(b"mean", b"meen"), "expected the keys"),
        (text.replace(b'"fp32"', b'"fp16"'), "activations is 'fp16'"),
        (text.replace(b"0.2", b"0.0"), "std be positive"),
        (text.replace(b"[0.5,0.4,0.3]", b'[0.5,0.4,"3"]'), "mean is"),
    ):
        with pytest.raises(FileFormatError, match=match):
            decode(signed(CONTENT[: AT.json] + wrong))


def constant_at(name: str, column: str) -> int:
    """Return where a constant of op `name` lies."""
    number = next(n for n, op in enumerate(PROGRAM.ops) if op.name == name)
    offset = next(sum(c.bytes for c in COLUMNS[:n]) for n, c in enumerate(COLUMNS) if c.name == column)
    (at,) = struct.unpack_from("<I", CONTENT, AT.ops + RECORD.size * number + offset)
    return int(at)


@pytest.mark.parametrize(
    ("op", "column", "byte", "value", "match"),
    [
        ("threshold", "flip", 8, 0x40, "flip: has bits set beyond its last one"),
        ("threshold", "flip", 9, 1, "constants are not followed by zeros"),
        ("logits", "weight", 4, 0x80, "weight: has bits set beyond"),
        ("stem", "weight", 3, 0x7F, "weight holds a value that is not finite"),
        ("integer", "weight", 0, 0x80, "an int8 weight is -128"),
        ("integer", "bias", 0, 0, "record holds more than it uses"),
    ],
)
def test_constants_are_checked(op: str, column: str, byte: int, value: int, match: str) -> None:
    content = bytearray(CONTENT)
    at = constant_at(op, column) + byte
    content[at] = value
    if column == "weight" and match.endswith("finite"):
        content[at - 1] = 0x80
    if column == "bias":  # all even: there is a larger shift
        for step in range(9):
            content[at + 4 * step] &= 0xFE
    refused(signed(bytes(content)), match)


# -- values ------------------------------------------------------------------------------------------------

Change = Callable[[bytearray], None]


def at_op(name: str, column: str, *values: int) -> Change:
    def change(content: bytearray) -> None:
        number = next(n for n, op in enumerate(PROGRAM.ops) if op.name == name)
        at = AT.ops + RECORD.size * number
        for known in COLUMNS:
            if known.name == column:
                struct.pack_into(f"<{len(values)}{known.type}", content, at, *values)
            at += known.bytes

    return change


_TENSOR_COLUMNS = ("dtype", "zero_point", "born", "dies", "zero", "h", "w", "c", "offset", "scale")


def at_tensor(number: int, **changes: Any) -> Change:
    def change(content: bytearray) -> None:
        at = AT.tensors + TENSOR.size * number
        row = dict(zip(_TENSOR_COLUMNS, TENSOR.unpack_from(content, at), strict=True)) | changes
        TENSOR.pack_into(content, at, *row.values())

    return change


def header_word(at: int, value: int) -> Change:
    return lambda content: struct.pack_into("<I", content, at, value)


HOSTILE: list[tuple[str, Change]] = [
    ("kind is 200, which is unknown", at_op("stem", "kind", 200)),
    ("epilogue is 9, which is unknown", at_op("stem", "epilogue", 9)),
    ("has no epilogue", at_op("stem", "epilogue", 0)),
    ("in_place is 2, which is unknown", at_op("stem", "in_place", 2)),
    ("is in place, but adds no residual", at_op("stem", "in_place", 1)),
    ("reads tensor 18 before it is written", at_op("quantize", "inputs", 18)),
    ("tensors", at_op("stem", "inputs", 999)),
    ("reads and writes \\(3,\\) of", at_op("stem", "inputs", 0xFFFF)),
    ("reads 2 tensors, which is too many", at_op("quantize", "inputs", 1, 1)),
    ("stride is 0", at_op("stem", "steps", 0, 0, 1, 0)),
    ("dilation \\* \\(kernel - 1\\) \\+ 1 is 65537", at_op("stem", "steps", 1, 32767, 1, 0)),
    ("dilation is 32769", at_op("stem", "steps", 1, 32768, 1, 0)),
    ("expected 1 where the kernel is 1", at_op("head", "steps", 1, 1, 1, 0)),
    ("record holds more than it uses", at_op("max", "steps", 2, 1, 2, 0)),
    ("does not follow from", at_op("stem", "padding", 0, 0)),
    ("is not below the kernel", at_op("stem", "padding", 3, 3)),
    ("pads f32 with 1", at_op("stem", "pad_value", 1)),
    ("groups", at_op("stem", "groups", 0)),
    ("do not divide into", at_op("stem", "groups", 2)),
    ("i8 input and 'f32' weights, which do not combine|its weight takes", at_op("mixed", "weight_dtype", 1)),
    ("weight_dtype is 7", at_op("stem", "weight_dtype", 7)),
    ("writes tensor 3 a second time", at_op("stem", "outputs", 3, 3)),
    ("pre is 77, which is unknown", at_op("stem", "pre", 77)),
    ("takes no shift_in", at_op("stem", "pre", 0)),
    ("lacks its slope", at_op("stem", "post", 2)),
    ("shift is 41", at_op("integer", "shift", 41)),
    ("shift is 0", at_op("mixed", "shift", 0)),
    ("record holds more than it uses", at_op("stem", "shift", 1)),
    ("bias_shift is 32", at_op("integer", "bias_shift", 32)),
    ("record holds more than it uses", at_op("picture", "kernel", 1, 1)),
    ("record holds more than it uses", at_op("stem", "count_padding", 1)),
    ("its weight takes", at_op("stem", "weight", 8)),
    ("its weight takes", at_op("stem", "weight", 1 << 30)),
    ("not finite|record holds", at_op("stem", "weight", 128)),
    ("lacks its field|lacks its scale", at_op("picture", "scale", 0)),
    ("record does not say how it is used", at_tensor(3, born=0)),
    ("record does not say how it is used", at_tensor(3, dies=2)),
    ("record does not say how it is used", at_tensor(3, zero=1)),
    ("dtype is 9", at_tensor(1, dtype=9)),
    ("shape\\[0\\] is 0", at_tensor(1, h=0)),
    ("shape\\[1\\] is 65537", at_tensor(1, w=65537)),
    ("is not a multiple of 64", at_tensor(1, offset=4)),
    ("offset is -64", at_tensor(1, offset=-64)),
    ("of an arena of", at_tensor(1, offset=1 << 30)),
    ("overlaps tensor", at_tensor(2, offset=0)),
    ("scale is 0.0", at_tensor(2, scale=0.0)),
    ("scale is -1.0", at_tensor(2, scale=-1.0)),
    ("scale is nan", at_tensor(2, scale=float("nan"))),
    ("expected 2\\^-100", at_tensor(2, scale=2.0**-120)),
    ("record does not say how it is used", at_tensor(1, scale=2.0)),
    ("arena_bytes is", header_word(36, 1 << 31)),
    ("output 'logits' is f32|is bits", lambda content: content.__setitem__(AT.outputs, 4)),
    ("lines of names", header_word(32, 3)),
]


@pytest.mark.parametrize(("match", "change"), HOSTILE, ids=[f"{n}-{m}" for n, (m, _) in enumerate(HOSTILE)])
def test_hostile_values_are_refused(match: str, change: Change) -> None:
    content = bytearray(CONTENT)
    change(content)
    refused(signed(bytes(content)), match)


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ((Output("signs", 4),), "output 'signs' is bits"),
        ((Output("far", 999),), "output 'far' is 999"),
        ((Output("a", 1), Output("b", 1)), "the same name or the same tensor"),
        ((Output("a", 1), Output("a", 3)), "the same name or the same tensor"),
        ((), "expected 1..16 of them"),
    ],
)
def test_outputs_are_checked(outputs: tuple[Output, ...], match: str) -> None:
    with pytest.raises(FileFormatError, match=match):
        dataclasses.replace(PROGRAM, outputs=outputs, class_names=())


@pytest.mark.parametrize("name", ["x" * 1001, "two\nlines", "\ud800", 5])
def test_names_are_lines_of_utf8(name: Any) -> None:
    with pytest.raises(FileFormatError, match="expected a string of at most 1000 bytes of UTF-8 on one line"):
        dataclasses.replace(PROGRAM, name=name)


def test_constants_with_many_common_zeros_come_back() -> None:
    op = next(op for op in PROGRAM.ops if op.name == "integer")
    assert isinstance(op, Conv2d)
    assert isinstance(op.epilogue, IntegerEpilogue)
    for value in (1 << 40, -(1 << 31), (1 << 31) - 1, -1, 0, 1 << 31, 3 << 45):
        large = dataclasses.replace(op.epilogue, bias=np.full_like(op.epilogue.bias, value))
        changed = dataclasses.replace(op, epilogue=large)
        ops = tuple(changed if each is op else each for each in PROGRAM.ops)
        content = dataclasses.replace(PROGRAM, ops=ops).to_bytes()
        assert _native.check(content) == ""
        found = next(op for op in decode(content).ops if op.name == "integer")
        np.testing.assert_array_equal(found.epilogue.bias, large.bias)


def test_constants_must_be_finite_and_in_range() -> None:
    picture = PROGRAM.ops[0]
    assert isinstance(picture, QuantizeInput)
    refuse_op(picture, scale=np.array([1, np.inf, 1], np.float32), match="not finite")
    refuse_op(picture, scale=np.array([1, np.nan, 1], np.float32), match="not finite")
    refuse_op(picture, scale=np.ones(3), match="expected float32")
    stem = next(op for op in PROGRAM.ops if op.name == "integer")
    assert isinstance(stem, Conv2d)
    bad = stem.weight.copy()
    bad[0, 0, 0, 0] = -128
    refuse_op(stem, weight=bad, match="-128")
    binary = next(op for op in PROGRAM.ops if op.name == "threshold")
    assert isinstance(binary, Conv2d)
    refuse_op(binary, weight=binary.weight | np.uint64(1 << 63), match="unused bits")


def refuse_op(op: Op, match: str, **changes: Any) -> None:
    ops = tuple(dataclasses.replace(o, **changes) if o is op else o for o in PROGRAM.ops)
    with pytest.raises(FileFormatError, match=match):
        dataclasses.replace(PROGRAM, ops=ops)


def test_accumulators_stay_below_2_to_the_31() -> None:
    def program(channels: int) -> Program:
        m = Maker((1, 1, channels))
        i8, logits = m.tensor("i8", (1, 1, channels), **I8), m.tensor("f32", (1, 1, 1))
        m.ops.append(QuantizeInput("picture", 0, i8, table=np.zeros((channels, 256), np.int8)))
        weight = np.ones((1, 1, 1, channels), np.int8)
        m.ops.append(Conv2d("head", i8, (logits,), "i8", weight, (1, 1), (0, 0), FloatEpilogue()))
        return m.done(logits)

    largest = (2**31 - 1) // (255 * 127)
    program(largest)
    with pytest.raises(FileFormatError, match=f"accumulator can reach {(largest + 1) * 255 * 127}"):
        program(largest + 1)


def test_integer_epilogues_stay_below_2_to_the_62() -> None:
    op = next(op for op in PROGRAM.ops if op.name == "integer")
    assert isinstance(op, Conv2d)
    epilogue = op.epilogue
    assert isinstance(epilogue, IntegerEpilogue)
    wide = dataclasses.replace(epilogue, bias=np.full(9, 2**62 - 1, np.int64))
    refuse_op(op, epilogue=wide, match="can reach 2\\^62")


def in_place_program(**changes: Any) -> Program:
    """picture -> a -> b, b + a into a's buffer."""
    m = Maker((4, 4, 2))
    a = m.tensor("f32", (4, 4, 2))
    m.end += 64
    b = m.tensor("f32", (4, 4, 2))
    one = np.ones(2, np.float32)
    m.ops.append(QuantizeInput("picture", 0, a, one, one))
    weight = m.floats(2, 1, 1, 2)
    m.ops.append(Conv2d("conv", a, (b,), "f32", weight, (1, 1), (0, 0), FloatEpilogue()))
    c = len(m.tensors)
    shift = changes.get("shift", 0)
    m.tensors.append(Tensor("f32", (4, 4, 2), m.tensors[a].offset + shift))
    m.ops.append(
        Add("add", changes.get("input", b), (c,), FloatEpilogue(residual=changes.get("residual", a)),
            in_place=changes.get("in_place", True))
    )  # fmt: skip
    pooled = m.tensor("f32", (1, 1, 2))
    m.ops.append(GlobalAvgPool("pool", changes.get("read", c), pooled))
    return m.done(pooled)


def test_an_add_may_work_in_place_only_where_it_says_so_and_nothing_is_lost() -> None:
    in_place_program()
    with pytest.raises(FileFormatError, match="overlaps"):
        in_place_program(in_place=False)
    with pytest.raises(FileFormatError, match="overlaps"):
        in_place_program(read=1)  # the residual is still read afterwards
    with pytest.raises(FileFormatError, match="overlaps"):
        in_place_program(input=1)  # the residual is the op's own input
    with pytest.raises(FileFormatError, match="overlaps"):
        in_place_program(input=1, residual=2)  # what is overwritten is not the residual
    with pytest.raises(FileFormatError, match="overlaps"):
        in_place_program(shift=64)  # half of the residual


def test_an_add_in_place_writes_what_its_residual_was() -> None:
    """Bits have another layout than the f32 residual that they would overwrite."""
    m = Maker((1, 1, 2))
    a = m.tensor("f32", (1, 1, 2))
    one = np.ones(2, np.float32)
    m.ops.append(QuantizeInput("picture", 0, a, one, one))
    b = m.tensor("f32", (1, 1, 2))
    weight = m.floats(2, 1, 1, 2)
    m.ops.append(Conv2d("conv", a, (b,), "f32", weight, (1, 1), (0, 0), FloatEpilogue()))
    m.tensors.append(Tensor("bits", (1, 1, 2), m.tensors[a].offset))
    c = m.tensor("f32", (1, 1, 2))
    m.ops.append(Add("add", b, (3, c), FloatEpilogue(residual=a), in_place=True))
    with pytest.raises(FileFormatError, match="tensor 3: overlaps tensor 1"):
        m.done(c)


def test_programs_made_in_python_are_validated_too() -> None:
    binary = next(op for op in PROGRAM.ops if op.name == "threshold")
    assert isinstance(binary, Conv2d)
    refuse_op(binary, weight=binary.weight.astype(np.int64), match="expected uint64")
    residual = next(op for op in PROGRAM.ops if op.name == "residual")
    refuse_op(residual, epilogue=binary.epilogue, match="bits into f32")
    logits = next(op for op in PROGRAM.ops if op.name == "logits")
    none = ThresholdEpilogue(np.zeros(4, np.int32), np.zeros(4, np.bool_))
    refuse_op(logits, epilogue=none, match="has a threshold epilogue, which does not take f32")


def test_a_program_shows_itself_in_a_line() -> None:
    shown = repr(every_op())
    assert shown.startswith("<Program ")
    assert len(shown.splitlines()) == 1
    assert len(shown) < 200
