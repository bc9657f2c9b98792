"""The native runtime (native/bind/module.cpp): engines from the content of files, or from operations."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

def cpu_features() -> int:
    """Return the bits of the BSK_CPU_ constants that this machine has."""

def limit_cpu(allowed: int) -> None:
    """Hide features from engines made later, for tests; 0xffffffff shows all."""

def instruction_sets() -> list[tuple[str, int, int]]:
    """Return name, number to ask for (-1: comes with its family) and bit in `cpu_features` of each."""

def isa_available(isa: int) -> bool:
    """Return whether an instruction set can be asked for here."""

def check(content: bytes) -> str:
    """Return why `bsk_open` refuses the content of a file; empty if it does not."""

def conv_kernels() -> list[str]:
    """Return the names of the convolution kernels in this build, whether this machine can run them or not."""

def prefer_conv(name: str) -> None:
    """Take this convolution kernel wherever it can run, in engines made later; "" takes the usual ones."""

def tile_rate(name: str) -> float:
    """Return a convolution kernel's multiply-accumulates a nanosecond, its tile alone; 0 if it cannot run."""

class Engine:
    """A program with its memory and threads."""

    @overload
    def __init__(self, content: bytes, isa: int, threads: int = 1, guarded: bool = False) -> None: ...
    @overload
    def __init__(
        self,
        ops: Sequence[Mapping[str, Any]],
        arena_bytes: int,
        isa: int,
        threads: int = 1,
        guarded: bool = False,
    ) -> None: ...
    def run(
        self, images: npt.NDArray[np.uint8], outs: list[npt.NDArray[np.float32]], offsets: list[int]
    ) -> None:
        """Run uint8 images (N, H, W, C); fill each (N, H, W, C) of `outs` from the arena at its offset."""

    def profile(self, images: npt.NDArray[np.uint8], repeats: int) -> list[list[float]]:
        """Return nanoseconds of every operation on all images, at most `batch`, a row a pass."""

    def write(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Write into the first thread's arena, for tests of single operations."""

    def read(self, offset: int, bytes: int) -> bytes:
        """Read from the first thread's arena."""

    def run_op(self, op: int, part: int = 0, parts: int = 1) -> None:
        """Run one part of one operation of an engine without an input picture."""

    @property
    def kernels(self) -> list[str]:
        """The kernel variant of every operation."""

    @property
    def together(self) -> list[bool]:
        """Which operations images that run side by side go through together."""

    @property
    def constant_bytes(self) -> int:
        """Bytes of the repacked constants."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch memory a thread."""

    @property
    def batch(self) -> int:
        """Images that a thread runs side by side; 1 where that gains nothing."""

    @property
    def batch_bytes(self) -> int:
        """Bytes that a thread takes besides, once a call has several images."""
