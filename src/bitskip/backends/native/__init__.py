"""The native runtime: a Program made ready for the C engine, with numpy as its only need.

`NativeProgram(program).run(images)` is one call into C an inference, without the interpreter lock. The
instruction sets are found at load; `isa=` or the environment's BITSKIP_ISA forces one, for tests.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock, current_thread, main_thread
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from bitskip.backends import Images, Run, each_input
from bitskip.errors import RunError
from bitskip.program import Program

__all__ = [
    "NativeProgram",
    "available_isas",
    "build",
    "cpu_features",
    "feature_bits",
    "isas",
    "supports",
    "tile_rate",
]

MAX_THREADS = 256
_TURN_SECONDS = 0.1


def _native() -> Any:
    try:
        return importlib.import_module("bitskip._native")
    except ImportError as error:
        raise RunError(
            f"the native runtime is not built ({error}); install bitskip with pip, which compiles it"
        ) from None


def isas() -> dict[str, int]:
    """Return the names that can be asked for on some processor, slowest first, with the engine's numbers."""
    families = {name: asked for name, asked, _ in _native().instruction_sets() if asked >= 0}
    return {"scalar": 0} | families | {"best": 99}


def feature_bits() -> dict[str, int]:
    """Return the instruction sets of all processors, each with its bit in the engine's mask."""
    return {name: bit for bit, name in sorted((bit, name) for name, _, bit in _native().instruction_sets())}


def cpu_features() -> tuple[str, ...]:
    """Return which instruction sets of `feature_bits` this machine has, such as "avx2" or "i8mm"."""
    found = _native().cpu_features()
    return tuple(name for name, bit in feature_bits().items() if found & bit)


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that can be forced here, slowest first."""
    module = _native()
    return tuple(name for name, number in isas().items() if name != "best" and module.isa_available(number))


def tile_rate(kernel: str) -> float | None:
    """Return the multiply-accumulates a nanosecond of a convolution kernel's innermost loop alone.

    None: it is not the kernel of a convolution, or cannot run here.
    """
    module = _native()
    return (float(module.tile_rate(kernel)) or None) if kernel in module.conv_kernels() else None


def isa_number(isa: str | None) -> int:
    """Return the engine's number for `isa`, else for the environment's BITSKIP_ISA, else for the best.

    Raises:
        RunError: if the name is unknown or this machine does not have it.
    """
    name, known = isa or os.environ.get("BITSKIP_ISA") or "best", isas()
    if name not in known:
        raise RunError(f"unknown instruction set {name!r}; use one of {', '.join(known)}")
    if not _native().isa_available(known[name]):
        raise RunError(f"this machine cannot run {name!r}; it has {', '.join(available_isas())}")
    return known[name]


class NativeProgram:
    """A Program loaded into the native runtime. Calls of one object from several threads take turns.

    A fork takes no threads along, so a forked child makes an engine of its own at its first call.

    Args:
        program: the plan to run; its constants are repacked.
        threads: threads of its own pool, 1..256. Whole images go to threads, up to `batch` side by side; what
            is left over, as a single image, is split by rows.
        isa: a name of `isas()`, such as "avx2"; None asks BITSKIP_ISA, then takes the best.
        guarded: put memory before pages that may not be touched, so that an over-read crashes (for tests).

    Raises:
        RunError: if the extension is not built, the machine lacks the instruction set, or it has no room for
            so many threads.
    """

    def __init__(
        self, program: Program, threads: int = 1, isa: str | None = None, *, guarded: bool = False
    ) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise RunError(f"threads is {threads}, expected 1 to {MAX_THREADS}")
        self.inputs = program.inputs
        self.classes = program.classes
        self.op_names = tuple(op.name for op in program.ops)
        self._outputs = tuple(program.tensors[output.tensor] for output in program.outputs)
        self.threads = threads
        self._make = partial(_make_engine, program, threads, isa_number(isa), guarded)
        self._turn = threads  # pictures a call into C: few, until the first call has been timed
        self._start()

    def _start(self) -> None:
        self._own_engine, self._process = self._make(), os.getpid()
        self._inside = Lock()  # held during a call into C
        _living.add(self)

    @property
    def _engine(self) -> Any:
        if self._process != os.getpid():
            self._start()
        return self._own_engine

    def _call(self) -> AbstractContextManager[Any]:
        return nullcontext() if _ended and current_thread() is main_thread() else self._inside

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel variant of every op, in order."""
        return tuple(self._engine.kernels)

    @property
    def together(self) -> tuple[bool, ...]:
        """Which ops images that run side by side go through together, in order."""
        return tuple(self._engine.together)

    @property
    def constant_bytes(self) -> int:
        """Bytes of the repacked constants in memory."""
        return int(self._engine.constant_bytes)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch memory a thread, besides the arena."""
        return int(self._engine.scratch_bytes)

    @property
    def batch(self) -> int:
        """Images that a thread runs side by side, where layers gain by that; 1 where none does."""
        return int(self._engine.batch)

    @property
    def batch_bytes(self) -> int:
        """Bytes that a thread takes besides, from the first call on that has several images for it."""
        return int(self._engine.batch_bytes)

    def _checked(self, images: Images) -> npt.NDArray[np.uint8]:
        """Return the pictures, (N, H, W, C), or (N, 1, 1, bytes) where there are several inputs."""
        given = each_input(images)
        expected = ", ".join(str(("N", *source.shape)).replace("'", "") for source in self.inputs)
        if [array.shape[1:] for array in given] != [source.shape for source in self.inputs] or any(
            array.dtype != np.uint8 or len(array) != len(given[0]) for array in given
        ):
            got = ", ".join(f"{array.dtype} of shape {array.shape}" for array in given)
            raise RunError(f"expected uint8 images of shape {expected}, got {got}")
        if len(given) == 1:
            return np.ascontiguousarray(given[0])
        flat = np.concatenate([array.reshape(len(array), -1) for array in given], axis=1)
        return np.ascontiguousarray(flat[:, None, None, :])

    def run(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the first output, flattened, of uint8 images (N, H, W, C): of a classifier the logits.

        float32 (N, classes).
        """
        first = self.run_all(images)[0]
        return first.reshape(len(first), math.prod(first.shape[1:]))

    def run_all(self, images: Images) -> tuple[npt.NDArray[np.float32], ...]:
        """Return every output, float32 (N, H, W, C) each, of uint8 images (N, H, W, C).

        A program with several inputs takes a tuple of these, in their order.
        """
        pixels = self._checked(images)
        found = tuple(np.empty((len(pixels), *tensor.shape), np.float32) for tensor in self._outputs)
        offsets = [tensor.offset for tensor in self._outputs]
        engine, at = self._engine, 0
        # In turns of about a tenth of a second, since Python hears of Ctrl-C only between calls into C.
        while at < len(pixels):
            count = min(self._turn, len(pixels) - at)
            with self._call():
                started = time.perf_counter()
                engine.run(pixels[at : at + count], [part[at : at + count] for part in found], offsets)
                seconds = time.perf_counter() - started
            if count == self._turn:
                each = count / max(seconds, 1e-6) * _TURN_SECONDS / self.threads  # pictures of a thread
                side_by_side = min(int(engine.batch), int(10 * each))  # of slow networks for a second
                self._turn = self.threads * max(1, int(each), side_by_side)
            at += count
        return found

    def profile(self, images: Images, repeats: int = 100) -> npt.NDArray[np.float64]:
        """Return nanoseconds of every op, float64 (repeats, ops), of images (N, H, W, C) on one thread.

        Raises:
            RunError: if there are more than `batch` images, for so many do not run side by side, or none.
        """
        pixels, engine = self._checked(images), self._engine
        if not 1 <= len(pixels) <= self.batch:
            raise RunError(f"got {len(pixels)} images to profile side by side, expected 1 to {self.batch}")
        with self._call():
            return np.asarray(engine.profile(pixels, repeats))


_living: WeakSet[NativeProgram] = WeakSet()
_ended = False


@atexit.register
def _end() -> None:
    """Wait for the calls of other threads, and let none of them begin another while the interpreter ends.

    A thread that comes back from C then would be ended in the middle of C++, which takes the process down.
    """
    global _ended
    _ended = True
    for program in list(_living):
        if program._process == os.getpid():
            program._inside.acquire()


def _make_engine(program: Program, threads: int, isa: int, guarded: bool) -> Any:
    try:
        return _native().Engine(program.to_bytes(), isa, threads, guarded)
    except (ValueError, RuntimeError, MemoryError) as error:  # the last two: no thread, no memory
        said = str(error) or type(error).__name__
        raise RunError(
            f"the native runtime cannot run {program.name} with {threads} threads: {said}"
        ) from None


def supports(program: Program) -> tuple[str, ...]:
    """Return why this machine cannot run `program` natively; empty if it can."""
    try:
        _native()
    except RunError as error:
        return (str(error),)
    return ()


def build(program: Program, *, threads: int = 1) -> Run:
    """Return the native engine's run of `program`; see `NativeProgram`."""
    return NativeProgram(program, threads=threads).run_all
