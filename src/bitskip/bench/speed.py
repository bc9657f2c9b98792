"""Timing of a Program on the native runtime: medians with their spread, instruction sets alternating."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.backends.native import NativeProgram, tile_rate
from bitskip.bench.timing import Spread, Timer, alternate, timer
from bitskip.errors import RunError
from bitskip.program import Conv2d, Op, Program

ROUNDS = 5  # turns of each
MAX_BATCH = 65_536  # pictures a call


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
    """Median microseconds of one operation, for one picture on one thread.

    The ceiling is what the kernel's innermost loop alone reaches here, on data in the first-level cache; both
    rates count the multiply-accumulates of the layer, also where a kernel saves some. None: the operation is
    not a convolution.
    """

    op: str
    kernel: str
    median_us: float
    macs: int
    macs_per_ns: float | None
    ceiling_macs_per_ns: float | None


def measure(
    program: Program, isas: tuple[str, ...], *, threads: int = 1, batch: int = 1, seconds: float = 1.0
) -> list[Timing]:
    """Time whole inferences of random pictures, the instruction sets taking turns.

    Raises:
        RunError: if a number is out of range, or the machine lacks an instruction set.
    """
    check_numbers(batch, seconds)
    spreads = alternate(native_timers(program, isas, threads, batch), ROUNDS, seconds / ROUNDS)
    return [timing(isa, threads, batch, spread) for isa, spread in spreads.items()]


def check_numbers(batch: int, seconds: float) -> None:
    """Raise RunError if a number is out of range."""
    if not 1 <= batch <= MAX_BATCH or not 0 < seconds <= 3600:
        raise RunError(f"batch is {batch} and seconds {seconds}, expected 1 to {MAX_BATCH} and 0..3600")


def native_timers(program: Program, isas: tuple[str, ...], threads: int, batch: int) -> dict[str, Timer]:
    """Return a timer for each instruction set, all on the same random pictures."""
    images = _pictures(program, batch)

    def one(engine: NativeProgram) -> Timer:
        return timer(lambda: engine.run(images))

    return {isa: one(NativeProgram(program, threads, isa)) for isa in isas}


def _pictures(program: Program, batch: int) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return random pictures for every input."""
    rng = np.random.default_rng(0)
    return tuple(rng.integers(0, 256, (batch, *i.shape)).astype(np.uint8) for i in program.inputs)


def timing(isa: str, threads: int, batch: int, spread: Spread) -> Timing:
    """Return what was measured under the name of its instruction set."""
    return Timing(isa, threads, batch, spread.n, spread.median_ms, spread.p10_ms, spread.p90_ms)


def measure_layers(program: Program, isa: str, repeats: int = 200) -> list[LayerTime]:
    """Time every operation by itself, for one picture on one thread."""
    engine = NativeProgram(program, 1, isa)
    image = _pictures(program, 1)
    engine.profile(image, 20)
    medians = np.median(engine.profile(image, repeats), axis=0) / 1e3
    ceilings = {name: tile_rate(name) for name in set(engine.kernels)}
    layers = []
    for op, name, kernel, us in zip(program.ops, engine.op_names, engine.kernels, medians, strict=True):
        macs, ceiling = macs_of(program, op), ceilings[kernel]
        rate = macs / float(us) / 1e3 if ceiling else None
        layers.append(LayerTime(name, kernel, float(us), macs, rate, ceiling))
    return layers


def macs_of(program: Program, op: Op) -> int:
    """Return the multiply-accumulates of a convolution for one picture, 0 for anything else."""
    if not isinstance(op, Conv2d):
        return 0
    height, width, channels = program.tensors[op.outputs[0]].shape
    inputs = program.tensors[op.input].shape[2] // op.groups
    return height * width * channels * op.kernel[0] * op.kernel[1] * inputs
