"""Exported networks on this machine: gcc and clang, every level of optimisation, 64 and 32 bits."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

COMPILERS = ("gcc", "clang")
LEVELS = ("-O0", "-O1", "-O2", "-O3")
WIDTHS = ("-m64", "-m32")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
_DRIVER = Path(__file__).parent / "boards" / "host.c"


def missing(compiler: str, width: str) -> str:
    """Return what is not installed here, or an empty string."""
    if shutil.which(compiler) is None:
        return compiler
    program = b"#include <stdio.h>\nint main(void) { return 0; }"
    command = [compiler, width, "-x", "c", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input=program, capture_output=True)
    return "" if done.returncode == 0 else "gcc-multilib"


def compile_driver(folder: Path, compiler: str, *flags: str) -> Path:
    """Compile an exported folder named `net` with a program that classifies what it reads.

    Raises:
        RuntimeError: if it does not compile, or not without a warning.
    """
    binary = folder / "driver"
    command = [compiler, *WARNINGS, *flags, "-Isrc", "src/net.c", str(_DRIVER), "-o", binary.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{compiler} {' '.join(flags)} failed: {done.stderr[-2000:]}")
    return binary


def run_driver(binary: Path, pictures: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.float32]:
    """Return logits (N, classes) of uint8 pictures (N, H, W, C).

    Raises:
        RuntimeError: if it fails.
    """
    done = subprocess.run([binary.absolute()], input=pictures.tobytes(), capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{binary} failed: {done.stderr.decode()[-2000:]}")
    return np.frombuffer(done.stdout, np.float32).reshape(len(pictures), classes)


def wrong_pictures(
    folder: Path, pictures: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> dict[str, int]:
    """Return how many pictures have a wrong bit, by compiler, level and width, of those installed."""
    found = {}
    for compiler, width in itertools.product(COMPILERS, WIDTHS):
        if missing(compiler, width):
            continue
        for level in LEVELS:
            got = run_driver(compile_driver(folder, compiler, level, width), pictures, expected.shape[1])
            different = (got.view(np.uint32) != expected.view(np.uint32)).any(axis=1)
            found[f"{compiler} {level} {width}"] = int(different.sum())
    return found
