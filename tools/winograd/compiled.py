"""Compiles this folder's C files when they are first used."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

from bitskip.errors import RunError
from bitskip.machine import machine

# Floating-point exceptions are not looked at, and code that must not raise one too many is not vectorised.
FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


def library(file: str, contract: str) -> ctypes.CDLL:
    """Compile `file`, once for each text of it, processor and compiler, and load it.

    `contract` is GCC's -ffp-contract: `fast` fuses a multiplication and an addition, `off` rounds as torch.
    """
    source = Path(__file__).with_name(file)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *FLAGS, f"-ffp-contract={contract}", str(source)]
    key = repr((source.read_bytes(), command, sorted(machine().items())))
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"bitskip-{source.stem}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it, or set TMPDIR")
    built = folder / f"{name}.so"
    if not built.is_file():
        part = folder / f"{name}-{os.getpid()}.part"
        try:
            done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False)
            said = done.stderr.strip().splitlines()
        except OSError as error:
            said = [str(error)]
        if not part.is_file():
            raise RunError(
                f"{file} does not compile with '{' '.join(compiler)}' (GCC or Clang with OpenMP is "
                f"expected; choose one with CC): {said[0] if said else 'no reason given'}"
            )
        part.replace(built)
    return ctypes.CDLL(str(built))


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Return where each tensor's numbers lie."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
