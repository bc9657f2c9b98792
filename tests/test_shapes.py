"""Shape rules: text that says the same in Python and in C, and what torch does where torch has the op."""

from __future__ import annotations

import ctypes
import itertools
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from bitskip.program.generate import shape_functions
from bitskip.program.schema import LIMITS, OPS
from bitskip.program.shapes import SHAPES, Shape, c_function, evaluate, largest

# The rule of an op that no program has: a picture of pixels a quarter as wide, as torch's PixelShuffle gives.
SHUFFLE = Shape(
    "stride times the height and width, channels / stride^2",
    side="result == size * stride",
    channels="result * taps == channels",
)
TRANSPOSED = Shape("a transposed convolution's", side="result == (size - 1) * stride - 2 * padding + reach")
FLATTEN = Shape("one pixel of all values", side="result == 1", channels="result == channels * pixels")


def floor_and_ceil(size: int, kernel: int, stride: int, padding: int) -> tuple[int | None, int]:
    """Return the output sizes that torch's pooling_output_shape_pad_lr gives without and with ceil_mode."""
    room = size + 2 * padding - kernel
    more = -(-room // stride) + 1
    if (more - 1) * stride >= size + padding:
        more -= 1
    return (room // stride + 1 if room >= 0 else None), more


def test_window_rules_are_torchs_formulas() -> None:
    sides = itertools.product(range(1, 9), range(1, 7), range(1, 6), range(4))
    for size, kernel, stride, padding in sides:
        if 2 * padding > kernel:
            continue
        floor, ceil = floor_and_ceil(size, kernel, stride, padding)
        for result in range(1, 16):
            values = {"size": size, "reach": kernel, "stride": stride, "padding": padding, "result": result}
            assert evaluate(SHAPES["window"].side, **values) == (result == floor), values
            assert evaluate(SHAPES["ceil"].side, **values) == (result in (floor, ceil)), values


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c_follows_the_text(tmp_path: Path) -> None:
    """For every rule, and for rules of ops that are not there yet: adding one is a line of text."""
    shapes = [*SHAPES.values(), SHUFFLE, TRANSPOSED, FLATTEN]
    source = tmp_path / "shapes.c"
    text = "\n".join(["#include <stdint.h>", *shape_functions(shapes)]).replace("static inline ", "")
    names = ("bsk_side_follows", "bsk_channels_follow", "bsk_other_side_fits", "bsk_other_channels_fit")
    prototypes = [line[:-2] + ";" for line in text.splitlines() if line.startswith("int64_t bsk_")]
    source.write_text(text.replace("#include <stdint.h>", "\n".join(["#include <stdint.h>", *prototypes])))
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=undefined"]
    flags += ["-fno-sanitize-recover", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "shapes.so", source], check=True, capture_output=True)
    library = ctypes.CDLL(str(tmp_path / "shapes.so"))
    fields = ("side", "channels", "other_side", "other_channels")
    arguments = (
        ("size", "result", "reach", "stride", "padding"),
        ("channels", "total", "result", "pixels", "taps"),
        ("other", "size"),
        ("other", "channels"),
    )
    rng = random.Random(0)
    edges = [0, 1, 2, 3, 4, 6, 12, LIMITS["MAX_STRIDE"], LIMITS["MAX_SIDE"]]
    for name, field, given in zip(names, fields, arguments, strict=True):
        function = getattr(library, name)
        function.restype = ctypes.c_int64
        function.argtypes = [ctypes.c_int, *[ctypes.c_int64] * len(given)]
        found = set()
        for code, shape in enumerate(shapes):
            for _ in range(400):
                values = [rng.choice(edges) if rng.random() < 0.8 else rng.randrange(1, 9) for _ in given]
                wanted = evaluate(getattr(shape, field), **dict(zip(given, values, strict=True)))
                assert function(code, *values) == wanted, (field, shape, values)
                found.add(wanted)
        assert found == {0, 1}
        assert function(len(shapes), *[1] * len(given)) == 0


def test_rules_of_ops_are_in_the_table() -> None:
    assert {row.shape for row in OPS.values()} == set(SHAPES)


@pytest.mark.parametrize(
    "rule", ["size // 2 == result", "f(size)", "0 < size < 3", "size ** 2", "other == 1"]
)
def test_what_c_could_read_otherwise_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="expected sums, products and comparisons"):
        largest(rule, {"size": 9, "result": 9})


def test_a_rule_that_could_overflow_is_refused() -> None:
    limits = {"size": 1 << 32}
    assert largest("size * size - size", {"size": 1 << 31}) == (1 << 62) + (1 << 31)
    with pytest.raises(ValueError, match=r"can reach 18446744073709551616, expected less than 2\^63"):
        c_function("f", [(0, "size * size == 1")], limits)
