"""What every backend holds to: it says what it runs, and gives what the reference gives, output by output."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bitskip.backends import BACKENDS, backend
from bitskip.errors import RunError
from bitskip.program import Output, Program
from programs import every_op, two_inputs

PROGRAM = every_op()
SEVERAL = dataclasses.replace(PROGRAM, outputs=(*PROGRAM.outputs, Output("stem", 3)), class_names=())


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("program", [PROGRAM, SEVERAL, two_inputs()], ids=["logits", "several", "inputs"])
@pytest.mark.parametrize("count", [1, 5, 70])
def test_every_backend_gives_what_the_reference_gives(name: str, program: Program, count: int) -> None:
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (count, *source.shape), dtype=np.uint8) for source in program.inputs)
    assert backend(name).supports(program) == ()
    expected = backend("reference").build(program)(images)
    for threads in (1, 2):
        got = backend(name).build(program, threads=threads)(images)
        assert [part.shape for part in got] == [
            (count, *program.tensors[output.tensor].shape) for output in program.outputs
        ]
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_unknown_backend_gives_the_nearest() -> None:
    with pytest.raises(
        RunError, match="engine is 'nativ', expected one of auto, native, reference.*'native'"
    ):
        backend("nativ")
