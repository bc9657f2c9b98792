"""Timing of a Program on the native runtime: medians with their spread, instruction sets alternating."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitskip.errors import RunError
from bitskip.program import Program
from bitskip.runtime.native import NativeProgram

__all__ = ["LayerTime", "Timing", "measure", "measure_layers"]

_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call with `batch` pictures."""

    isa: str
    threads: int
    batch: int
    n: int  # calls timed
    median_ms: float
    p10_ms: float
    p90_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LayerTime:
    """Median microseconds of one operation, for one picture on one thread."""

    op: str
    kernel: str
    median_us: float


def measure(
    program: Program, isas: tuple[str, ...], *, threads: int = 1, batch: int = 1, seconds: float = 1.0
) -> list[Timing]:
    """Time whole inferences of random pictures.

    The instruction sets take turns for `seconds / 5` each, five times over, so that a change of the machine's
    speed meets all of them.

    Raises:
        RunError: if a number is out of range, or the machine lacks an instruction set.
    """
    if batch < 1 or not 0 < seconds <= 3600:
        raise RunError(f"batch is {batch} and seconds {seconds}, expected 1 or more and 0..3600")
    shape = (batch, *program.input_shape)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    engines = {isa: NativeProgram(program, threads, isa) for isa in isas}
    samples: dict[str, list[float]] = {isa: [] for isa in isas}
    for _ in range(_ROUNDS):
        for isa, engine in engines.items():
            engine.run(images)
            until = time.perf_counter() + seconds / _ROUNDS
            while (start := time.perf_counter()) < until or not samples[isa]:
                engine.run(images)
                samples[isa].append((time.perf_counter() - start) * 1e3)
    result = []
    for isa, values in samples.items():
        low, median, high = (float(v) for v in np.percentile(values, (10, 50, 90)))
        result.append(Timing(isa, threads, batch, len(values), median, low, high))
    return result


def measure_layers(program: Program, isa: str, repeats: int = 200) -> list[LayerTime]:
    """Time every operation by itself, for one picture on one thread."""
    engine = NativeProgram(program, 1, isa)
    image = np.random.default_rng(0).integers(0, 256, (1, *program.input_shape)).astype(np.uint8)
    engine.profile(image, 20)
    medians = np.median(engine.profile(image, repeats), axis=0) / 1e3
    return [
        LayerTime(op, kernel, float(us))
        for op, kernel, us in zip(engine.op_names, engine.kernels, medians, strict=True)
    ]
