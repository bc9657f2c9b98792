"""One engine called from several Python threads at once, and engines of several threads side by side."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bitskip.backends.native import NativeProgram
from bitskip.backends.reference import run_reference
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


_NO_ROOM = """
import resource
from bitskip.errors import RunError
from bitskip.backends.native import NativeProgram
from programs import every_op

program = every_op()
resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, 1_200_000_000))
try:
    NativeProgram(program, threads=256)
except RunError as error:
    print(error)
"""


def test_a_system_without_room_for_the_threads_is_named() -> None:
    words, tests = [sys.executable, "-c", _NO_ROOM], Path(__file__).parents[1]
    end = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tests)
    assert "with 256 threads: " in end.stdout, end.stderr
