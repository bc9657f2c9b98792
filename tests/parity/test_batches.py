"""Several pictures in one call: the bytes that each picture gives alone, whatever runs side by side."""

from __future__ import annotations

import numpy as np
import pytest

from bitskip.backends.native import NativeProgram, available_isas
from bitskip.errors import RunError
from bitskip.program import Program
from bitskip.zoo import model_path
from programs import every_op

BATCHES = (1, 2, 3, 7, 8, 9, 33)
ZOO = {
    kind: Program.load(model_path(f"resnet14-{kind}-all-x0.25-int8")) for kind in ("full", "hybrid", "binary")
}
PROGRAMS = {"every op": every_op(), **ZOO}
FAST = tuple(
    isa for isa in available_isas() if isa != "scalar"
)  # plain C: every op alone, for the time it takes


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "isa"), [("every op", "scalar"), *((name, isa) for name in PROGRAMS for isa in FAST)]
)
def test_a_batch_gives_what_its_pictures_give_alone(name: str, isa: str, threads: int) -> None:
    program = PROGRAMS[name]
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), *program.input_shape)).astype(np.uint8)
    alone = NativeProgram(program, isa=isa)
    expected = [alone.run_all(images[i : i + 1]) for i in range(len(images))]
    engine = NativeProgram(program, threads, isa, guarded=True)
    assert engine.batch == 8 or name != "every op"  # which has a layer that gains everywhere
    engine.run(images[:1])
    for n in BATCHES:
        for number, got in enumerate(engine.run_all(images[:n])):
            for picture, one in zip(got, expected, strict=False):
                np.testing.assert_array_equal(picture, one[number][0], f"{n} pictures, output {number}")


def test_memory_of_a_batch_is_stated_and_bounded() -> None:
    program = PROGRAMS["every op"]
    engine = NativeProgram(program)
    arenas = 8 * -(-program.arena_bytes // 64) * 64
    assert arenas < engine.batch_bytes < arenas + 4 * 2**20
    alone = NativeProgram(ZOO["full"], isa="scalar")  # plain C makes nothing ready from int8 weights
    assert (alone.batch, alone.batch_bytes, any(alone.together)) == (1, 0, False)
    assert any(engine.together)
    assert len(engine.together) == len(program.ops)


def test_layers_of_a_batch_are_timed_and_too_many_pictures_are_an_error() -> None:
    program = PROGRAMS["every op"]
    engine = NativeProgram(program)
    images = np.zeros((9, *program.input_shape), np.uint8)
    assert engine.profile(images[:8], 2).shape == (2, len(program.ops))
    with pytest.raises(RunError, match="got 9 images to profile side by side, expected 1 to 8"):
        engine.profile(images, 2)
    with pytest.raises(RunError, match="got 0 images"):
        engine.profile(images[:0], 2)
