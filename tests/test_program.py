"""The packed file: it comes back as it was, any damage is found, and hostile values are refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip.backends.reference import run_reference
from bitskip.errors import FileFormatError, RunError
from bitskip.program import (
    Add,
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Op,
    Program,
    QuantizeInput,
    Tensor,
    ThresholdEpilogue,
)
from bitskip.program.file import decode, encode, pack_container, pack_header, unpack_container
from programs import I8, Maker, every_op

PROGRAM = every_op()
CONTENT = PROGRAM.to_bytes()


def parts(content: bytes = CONTENT) -> tuple[Any, bytes]:
    """Return the JSON values and the constants of a file."""
    program, constants = unpack_container(content)
    return json.loads(zlib.decompress(program)), bytes(constants)


def rebuilt(values: Any, constants: bytes) -> bytes:
    """Return a file with a right checksum around any values."""
    return pack_container(zlib.compress(json.dumps(values).encode()), constants)


def refused(content: bytes, match: str | None = None) -> None:
    with pytest.raises(FileFormatError, match=match):
        decode(content)


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
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(run_reference(again, images), run_reference(PROGRAM, images))


def test_the_file_is_a_safetensors_file() -> None:
    tensors = safetensors.numpy.load(CONTENT)
    assert set(tensors) == {"constants", "program"}
    assert len(tensors["constants"]) == PROGRAM.weight_bytes
    values = json.loads(zlib.decompress(tensors["program"].tobytes()))
    assert len(values["ops"]) == len(PROGRAM.ops)


@given(st.integers(1, 140), st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_1_bit_weights_take_1_bit_and_come_back(channels: int, out: int, seed: int) -> None:
    m = Maker((1, 1, channels), seed)
    real, signs, logits = (
        m.tensor("f32", (1, 1, channels)),
        m.tensor("bits", (1, 1, channels)),
        m.tensor("f32", (1, 1, out)),
    )
    from bitskip.program import Binarize

    weight = m.signs(out, 1, 1, channels)
    m.ops += [
        QuantizeInput("picture", 0, real, np.ones(channels, np.float32), np.zeros(channels, np.float32)),
        Binarize("signs", real, signs),
        Conv2d("head", signs, (logits,), "w1", weight, (1, 1), (0, 0), FloatEpilogue()),
    ]
    again = decode(encode(m.done(logits)))
    np.testing.assert_array_equal(again.ops[2].weight, weight)  # type: ignore[union-attr]
    _, constants = parts(again.to_bytes())
    stream = -(-channels * out // 8)
    assert len(constants) == 2 * (-(-4 * channels // 8) * 8) + -(-stream // 8) * 8


def test_saving_and_loading_say_what_failed(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot read .*nothing"):
        Program.load(tmp_path / "nothing.bitskip")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        PROGRAM.save(tmp_path / "file" / "p.bitskip")
    with pytest.raises(FileFormatError, match=r"file is not a sound \.bitskip file"):
        Program.load(tmp_path / "file")


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


def mutate(values: Any, rng: random.Random) -> Any:
    """Change one value somewhere in a JSON tree, keeping or breaking its type."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(values)
    node, key = rng.choice(places)
    old = node[key]
    edges = [2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, -(2**63), 10**30]
    numbers = [0, 1, -1, 2, 63, 64, 127, 128, 255, -128, *edges]
    wrong = [None, True, False, "", "f32", "bits", [], {}, [1], {"$": 0}, {"kind": "relu"}]
    wild = [0.5, 1e308, -0.0, *wrong, *numbers]
    if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.7:
        node[key] = rng.choice([old + 1, old - 1, -old, old * 2, *numbers])
    elif isinstance(old, list) and old and rng.random() < 0.5:
        longer = lambda: old.append(copy.deepcopy(old[0]))  # noqa: E731
        rng.choice([old.pop, longer, old.reverse, lambda: rng.shuffle(old)])()
    elif rng.random() < 0.15:
        if isinstance(node, dict):
            del node[key]
        else:
            node.pop(key)
    else:
        node[key] = rng.choice(wild)
    return values


def hostile(rng: random.Random) -> bytes:
    """Return a file with a right checksum and wrong values."""
    values, constants = parts()
    for _ in range(rng.choice((1, 1, 2, 5))):
        values = mutate(values, rng)
    if rng.random() < 0.2:
        noise = bytearray(constants)
        for _ in range(4):
            noise[rng.randrange(len(noise))] = rng.choice((0, 0x7F, 0x80, 0xFF))
        constants = bytes(noise)
    return rebuilt(values, constants)


def survive(mutants: int, seed: int) -> int:
    """Load damaged and hostile files; return how many of the hostile ones were still sound programs."""
    rng = random.Random(seed)
    images = np.zeros((1, 6, 5, 3), np.uint8)
    sound = 0
    for _ in range(mutants // 2):
        content = damage(rng)
        if content != CONTENT:
            refused(content)
        try:
            program = decode(hostile(rng))
        except FileFormatError:
            continue
        # What passes validation must run, whatever it computes.
        sound += 1
        if program.input_shape == (6, 5, 3) and sum(t.size for t in program.tensors) < 1 << 20:
            assert run_reference(program, images).shape == (1, program.classes)
    return sound


def test_damaged_and_hostile_files_are_refused() -> None:
    assert survive(2_000, seed=0) < 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_thousand_mutants(seed: int) -> None:
    survive(5_000, seed=1 + seed)


def test_every_changed_byte_of_the_header_is_found() -> None:
    (length,) = struct.unpack_from("<Q", CONTENT)
    for at in range(8 + length):
        content = bytearray(CONTENT)
        content[at] ^= 0x20
        refused(bytes(content))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_no_file(noise: bytes) -> None:
    refused(noise)
    refused(struct.pack("<Q", len(noise)) + noise)
    refused(pack_container(noise, b""))
    refused(pack_container(zlib.compress(noise), b""))


def test_the_container_refuses_tricks() -> None:
    program, constants = unpack_container(CONTENT)
    refused(struct.pack("<Q", 2**63) + CONTENT[8:], "header claims")
    refused(pack_container(program + b"x", bytes(constants)), "trailed")
    refused(pack_container(program[:-1], bytes(constants)), "cut off")
    refused(pack_container(zlib.compress(b" " * (1 << 27)), b""), "above")
    refused(pack_container(zlib.compress(b"[" * 100_000), b""), "not valid JSON")
    refused(pack_container(zlib.compress(b'{"a": NaN}'), b""), "NaN is no JSON number")
    refused(pack_container(program, bytes(constants) + bytes(8)), "constants take")
    header = pack_header(len(program), len(constants), "0" * 64)
    refused(header + bytes(constants) + program, "checksum")
    (length,) = struct.unpack_from("<Q", CONTENT)
    spaced = struct.pack("<Q", length + 8) + CONTENT[8 : 8 + length] + b" " * 8 + CONTENT[8 + length :]
    refused(spaced, "more than")
    newer = CONTENT.replace(b'"version":"1"', b'"version":"2"')
    values, arrays = parts()
    at = next(n for n, row in enumerate(values["constants"]) if row[0] == "flag")
    start = sum(stored_size(row) for row in values["constants"][:at])
    last = start + -(-values["constants"][at][1][0] // 8) - 1
    dirty = bytearray(arrays)
    dirty[last] |= 0x80
    refused(rebuilt(values, bytes(dirty)), "bits set beyond")
    dirty = bytearray(arrays)
    dirty[last + 1] = 1
    refused(rebuilt(values, bytes(dirty)), "followed by zeros")
    refused(newer, "format version is '2', this bitskip reads '1'")


def stored_size(row: Any) -> int:
    """Return the bytes that a constant takes, alignment included."""
    bits = {"f32": 32, "i8": 8, "i32": 32, "i64": 32 if len(row) == 3 else 64, "u1": 1, "flag": 1}[row[0]]
    return -(-int(np.prod(row[1])) * bits // 64) * 8


# -- values ------------------------------------------------------------------------------------------------

Change = Callable[[Any], None]


def at_op(name: str, **fields: Any) -> Change:
    def change(values: Any) -> None:
        next(op for op in values["ops"] if op["name"] == name).update(fields)

    return change


def in_epilogue(name: str, **fields: Any) -> Change:
    def change(values: Any) -> None:
        next(op for op in values["ops"] if op["name"] == name)["epilogue"].update(fields)

    return change


def at_tensor(number: int, column: int, value: Any) -> Change:
    def change(values: Any) -> None:
        values["tensors"][number][column] = value

    return change


def top(**fields: Any) -> Change:
    return lambda values: values.update(fields)


HOSTILE: list[tuple[str, Change]] = [
    ("kind is 'exec'", at_op("stem", kind="exec")),
    ("has no field 'code'", at_op("stem", code="import os")),
    ("reads tensor 5 before it is written", at_op("stem", input=5)),
    ("an input is 999", at_op("stem", input=999)),
    ("an input is -1", at_op("stem", input=-1)),
    ("stride", at_op("stem", stride=[0, 1])),
    ("stride", at_op("stem", stride=[1])),
    ("expected two whole numbers", at_op("stem", padding=[1, 1, 1])),
    ("does not follow from", at_op("stem", padding=[0, 0])),
    ("is not below the kernel", at_op("stem", padding=[3, 3])),
    ("pads f32 with 1", at_op("stem", pad_value=1)),
    ("which do not combine", at_op("stem", weight_dtype="i8")),
    ("which do not combine", at_op("stem", weight_dtype="w2")),
    ("writes tensor 3 a second time", at_op("stem", outputs=[3, 3])),
    ("shift is 41", in_epilogue("integer", shift=41)),
    ("shift is 0", in_epilogue("mixed", shift=0)),
    ("residual_multiplier", in_epilogue("mixed", residual_multiplier=2**31)),
    ("expected constant", in_epilogue("stem", bias={"$": 0})),
    ("is never written", lambda values: values["tensors"].append(values["tensors"][1])),
    ("dtype is 'f64'", at_tensor(1, 1, "f64")),
    ("shape\\[0\\] is 0", at_tensor(1, 2, 0)),
    ("shape\\[1\\] is 65537", at_tensor(1, 3, 65537)),
    ("shape\\[2\\] is True", at_tensor(1, 4, True)),
    ("is not a multiple of 64", at_tensor(1, 5, 4)),
    ("offset is -64", at_tensor(1, 5, -64)),
    ("of an arena of", at_tensor(1, 5, 1 << 30)),
    ("overlaps tensor", at_tensor(2, 5, 0)),
    ("scale is 0.0", at_tensor(2, 6, 0.0)),
    ("scale is -1.0", at_tensor(2, 6, -1.0)),
    ("expected a positive float32", at_tensor(2, 6, 0.1)),
    ("expected 2\\^-100", at_tensor(2, 6, 2.0**-120)),
    ("zero_point is 128", at_tensor(2, 7, 128)),
    ("a string", top(name="x" * 2000)),
    ("arena_bytes is", top(arena_bytes=2**31)),
    ("output 'signs' is bits", top(output=[["signs", 4]])),
    ("output 'far' is 999", top(output=[["far", 999]])),
    ("the same name or the same tensor", top(output=[["a", 1], ["b", 1]])),
    ("the same name or the same tensor", top(output=[["a", 1], ["a", 3]])),
    ("expected 1..16 of them", top(output=[])),
    ("expected a tensor or rows", top(output=[1])),
    ("class names for 4 classes", top(class_names=["a"])),
    ("mean is", top(mean=[1.0])),
    ("must both be given", top(std=[0.0, 1.0, 1.0])),
    ("activations is 'fp16'", top(activations="fp16")),
    ("expected the keys", top(more=1)),
    ("wrong type", top(ops={})),
    ("expected 1..8192 and 1..4096", top(ops=[])),
    ("shape is", lambda values: values["constants"][0].__setitem__(1, [2**40])),
    ("axes", lambda values: values["constants"][0].__setitem__(1, [1] * 40)),
    ("needs", lambda values: values["constants"][-1].__setitem__(1, [2**30])),
    ("dtype is", lambda values: values["constants"][0].__setitem__(0, "object")),
    ("only i64 has one", lambda values: values["constants"][0].append(3)),
    ("and uses", lambda values: values["constants"].append(["u1", [1]])),
]


def test_constants_with_many_common_zeros_come_back() -> None:
    op = next(op for op in PROGRAM.ops if op.name == "integer")
    assert isinstance(op, Conv2d)
    assert isinstance(op.epilogue, IntegerEpilogue)
    large = dataclasses.replace(op.epilogue, bias=np.full_like(op.epilogue.bias, 1 << 40))
    changed = dataclasses.replace(op, epilogue=large)
    ops = tuple(changed if each is op else each for each in PROGRAM.ops)
    again = decode(dataclasses.replace(PROGRAM, ops=ops).to_bytes())
    found = next(op for op in again.ops if op.name == "integer")
    np.testing.assert_array_equal(found.epilogue.bias, large.bias)


@pytest.mark.parametrize(("match", "change"), HOSTILE, ids=[m for m, _ in HOSTILE])
def test_hostile_values_are_refused(match: str, change: Change) -> None:
    values, constants = parts()
    change(values)
    if "uses" in match:
        constants += bytes(8)
    refused(rebuilt(values, constants), match)


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
    refuse_op(residual, epilogue=binary.epilogue, match="into bits alone")
    logits = next(op for op in PROGRAM.ops if op.name == "logits")
    none = ThresholdEpilogue(np.zeros(4, np.int32), np.zeros(4, np.bool_))
    refuse_op(logits, epilogue=none, match="integer accumulator into bits alone")
