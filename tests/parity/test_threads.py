"""One engine called from several Python threads at once, and engines of several threads side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitskip.runtime.native import NativeProgram
from bitskip.runtime.reference import run_reference
from programs import every_op


def test_concurrent_calls_take_turns() -> None:
    program = every_op()
    images = np.random.default_rng(3).integers(0, 256, (40, *program.input_shape)).astype(np.uint8)
    expected = run_reference(program, images)
    engine = NativeProgram(program, threads=3)
    with ThreadPoolExecutor(4) as pool:
        parts = [slice(i % 36, i % 36 + 1 + i % 4) for i in range(60)]
        for part, got in zip(parts, pool.map(lambda part: engine.run(images[part]), parts), strict=True):
            np.testing.assert_allclose(got, expected[part], rtol=1e-4, atol=1e-4 * np.abs(expected).max())
