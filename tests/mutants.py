"""Re-signed mutants of packed files, on every reader: `python tests/mutants.py [COUNT] [SEED] [FILE...]`.

Each has a right checksum and something wrong. Python's reader and C's must agree on each, refuse with their
own errors, and what both let through must run. In a process of its own: what C gets wrong ends the process.
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitskip import _native
from bitskip.backends.native import NativeProgram
from bitskip.backends.reference import run_reference
from bitskip.errors import FileFormatError, RunError
from bitskip.program.file import HEADER, TENSOR, decode, signed, split
from bitskip.program.schema import COLUMNS, RECORD

EDGES = [0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 0x7F80, 0xFFFF, 1 << 16, (1 << 16) + 1, 1 << 20]
WIDE = [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800000, (1 << 32) - 64]
_RUN_BYTES = 1 << 20  # arena and picture of a mutant that is run
_RUN_WORK = 1 << 24  # taps


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file begin."""

    constants: int
    tensors: int
    ops: int
    outputs: int
    names: int
    json: int
    end: int


def layout(content: bytes) -> Layout:
    parts = split(memoryview(content))
    at = [HEADER.size]
    for part in (parts.constants, parts.tensors, parts.ops, parts.outputs, parts.names, parts.json):
        at.append(at[-1] + len(part))
    return Layout(*at)


def fields() -> list[tuple[int, int]]:
    """Return the (offset, bytes) of every value of an op's record."""
    found, at = [], 0
    for column in COLUMNS:
        size = column.bytes // column.count
        found += [(at + size * n, size) for n in range(column.count)]
        at += column.bytes
    return found


_OP_FIELDS = fields()
_TENSOR_FIELDS = [(0, 1), (1, 1), (2, 2), (4, 2), (6, 2), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4)]


def mutant(content: bytes, at: Layout, rng: random.Random) -> bytes:
    """Return `content` with one to five things changed and a right checksum."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind = rng.random()
        if kind < 0.55:
            _change(made, at.ops, RECORD.size, (at.outputs - at.ops) // RECORD.size, _OP_FIELDS, rng)
        elif kind < 0.8:
            _change(made, at.tensors, TENSOR.size, (at.ops - at.tensors) // TENSOR.size, _TENSOR_FIELDS, rng)
        elif kind < 0.84:
            _set(made, 4 * rng.randrange(4, 16), 4, rng)
        elif kind < 0.88:
            _set(made, rng.randrange(at.outputs, at.names), 1, rng)
        elif kind < 0.93:
            made[rng.randrange(at.names, at.json)] = rng.choice((0, 10, 65, 0x80, 0xC3, 0xE2, 0xF0, 0xFF))
        elif at.tensors > at.constants:
            made[rng.randrange(at.constants, at.tensors)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    if rng.random() < 0.03:  # a piece left out or doubled, with the length that belongs to it
        first, second = sorted(rng.sample(range(HEADER.size, len(made) + 1), 2))
        made[first:second] = made[first:second] * rng.choice((0, 2))
        struct.pack_into("<I", made, 16, len(made))
    return signed(bytes(made))


def _change(
    made: bytearray, start: int, size: int, count: int, places: list[tuple[int, int]], rng: random.Random
) -> None:
    row = start + size * rng.randrange(count)
    if rng.random() < 0.05:  # one row for another
        other = start + size * rng.randrange(count)
        made[row : row + size] = made[other : other + size]
        return
    offset, length = rng.choice(places)
    if rng.random() < 0.15:  # what another row holds there
        other = start + size * rng.randrange(count) + offset
        made[row + offset : row + offset + length] = made[other : other + length]
        return
    _set(made, row + offset, length, rng)


def _set(made: bytearray, at: int, length: int, rng: random.Random) -> None:
    old = int.from_bytes(made[at : at + length], "little")
    new = rng.choice([old + 1, old - 1, old * 2, old + 64, old ^ 1, *rng.sample(EDGES, 3), rng.choice(WIDE)])
    made[at : at + length] = (new % (1 << 8 * length)).to_bytes(length, "little")


def verdict(content: bytes) -> str:
    """Try one file on every reader; return "refused", "sound" or "ran".

    Raises:
        AssertionError: if Python and C do not agree.
    """
    try:
        program: Any = decode(content)
        said = ""
    except FileFormatError as error:
        program, said = None, str(error)
    in_c = _native.check(content)
    if program is None:
        # C does not read the JSON, and labels in it.
        by_json = "JSON" in said or "mean" in said or "std" in said
        assert in_c or by_json, f"C opens what Python refuses: {said}"
        return "refused"
    assert not in_c, f"C refuses what Python reads: {in_c}"
    work = sum(
        int(np.prod(op.weight.shape[1:3])) * program.tensors[op.input].shape[2] * t.size
        for op in program.ops
        if op.kind == "conv2d"
        for t in [program.tensors[op.outputs[0]]]
    )
    given = sum(int(np.prod(source.shape)) for source in program.inputs)
    if program.arena_bytes + given > _RUN_BYTES or work > _RUN_WORK:
        return "sound"
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (1, *s.shape), dtype=np.uint8) for s in program.inputs)
    expected = run_reference(program, pictures)
    try:
        native = NativeProgram(program, guarded=True)
    except RunError as error:
        raise AssertionError(f"the native runtime does not run a sound program: {error}") from None
    assert native.run(pictures).shape == expected.shape
    return "ran"


def survive(files: list[bytes], count: int, seed: int) -> dict[str, int]:
    """Try `count` mutants of `files`; return how many met which end."""
    rng = random.Random(seed)
    laid = [(content, layout(content)) for content in files]
    ends: dict[str, int] = {}
    for _ in range(count):
        content = mutant(*rng.choice(laid), rng)
        try:
            end = verdict(content)
        except BaseException:
            Path(tempfile.gettempdir(), "mutant.bitskip").write_bytes(content)
            raise
        ends[end] = ends.get(end, 0) + 1
    return ends


def main(arguments: list[str]) -> None:
    count, seed = (int(word) for word in (*arguments[:2], *("1000", "0")[len(arguments[:2]) :]))
    files = [Path(name).read_bytes() for name in arguments[2:]]
    if not files:
        from programs import every_op, two_inputs

        files = [every_op().to_bytes(), two_inputs().to_bytes()]
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        ends = survive(files, count, seed)
    seconds = time.perf_counter() - start
    sys.stdout.write(f"{count} mutants in {seconds:.1f} s: {dict(sorted(ends.items()))}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
