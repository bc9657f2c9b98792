"""Exported networks on emulated boards: builds, runs, and counts (QEMU 7.2 or newer).

`-icount shift=0` makes an instruction last one nanosecond, so that SysTick (25 MHz) counts 40 instructions a
tick and RISC-V's minstret every one; runs repeat exactly. Instructions are not cycles.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BOARDS_FOLDER = Path(__file__).parent / "boards"


@dataclass(frozen=True)
class Board:
    """An emulated board with its compiler."""

    core: str  # as for --cpu
    machine: tuple[str, ...]
    compiler: str
    flags: tuple[str, ...]
    script: str = "cortex-m.ld"
    objdump: str = "arm-none-eabi-size"

    def missing(self) -> str:
        """Return which tool is not installed, or an empty string."""
        return next(
            (t for t in (self.machine[0], self.compiler, self.objdump) if shutil.which(t) is None), ""
        )


def _cortex(core: str, machine: str, *flags: str, script: str = "cortex-m.ld") -> Board:
    emulator = ("qemu-system-arm", "-M", machine, "-nographic")
    return Board(core, emulator, "arm-none-eabi-gcc", (f"-mcpu={core}", "-mthumb", *flags), script)


BOARDS = {
    board.core: board
    for board in (
        _cortex("cortex-m0plus", "mps2-an385"),  # no M0+ board has the memory; its code runs on an M3
        _cortex("cortex-m3", "mps2-an385"),
        _cortex("cortex-m4", "mps2-an386"),
        _cortex("cortex-m7", "mps2-an500"),
        _cortex("cortex-m33", "mps2-an505", "-DTICK=50", script="cortex-m33.ld"),  # SysTick runs at 20 MHz
        Board(
            "rv32imc",
            ("qemu-system-riscv32", "-M", "virt", "-bios", "none", "-nographic"),
            "riscv64-unknown-elf-gcc",
            ("-march=rv32imc", "-mabi=ilp32", "-mno-relax", "--specs=picolibc.specs"),
            "riscv.ld",
            "riscv64-unknown-elf-size",
        ),
    )
}


@dataclass(frozen=True)
class Counted:
    """What one run on a board gave."""

    logits: npt.NDArray[np.float32]
    instructions: int  # of the first picture
    stack_bytes: int
    ops: tuple[int, ...] = ()  # instructions of each op, with `profile`


def run_on_board(
    board: Board,
    folder: Path,
    facts: Mapping[str, Any],
    pictures: npt.NDArray[np.uint8],
    classes: int,
    work: Path,
    *,
    level: str = "-O3",
    steps: Sequence[tuple[int, int]] = (),
) -> Counted:
    """Compile an exported folder for a board and run it on pictures.

    Args:
        board: where.
        folder: what `bitskip export --to c99` wrote.
        facts: what it says with `--json`.
        pictures: uint8 (N, H, W, C).
        classes: number of logits.
        work: a folder for what is built.
        level: of optimisation.
        steps: (op, steps) to be counted one by one after the pictures; layer by layer plans only.

    Raises:
        RuntimeError: if it does not compile or run.
    """
    name = facts["name"]
    work.mkdir(parents=True, exist_ok=True)
    profile = " ".join(
        f"{{ uint32_t s; int32_t y; clock_start(); s = now(); for (y = 0; y < {count}; y++) op_{at}(&run, y);"
        f' print_number("op {at}", since(s)); }}'
        for at, count in steps
    )
    sizes = {"NETWORK": name, "ARENA": facts["arena_bytes"], "INPUT": pictures[0].size, "CLASSES": classes}
    defines = [f"-D{key}={value}" for key, value in sizes.items()]
    if profile:
        (work / "profile.h").write_text(f"#define PROFILE {profile}\n")
        defines += ["-include", str(work / "profile.h")]
    elf = work / "network.elf"
    _call(
        [board.compiler, *board.flags, "-std=gnu99", level, "-nostartfiles", "-ffunction-sections", *defines,
         f"-I{folder / 'src'}", "-T", str(BOARDS_FOLDER / board.script), str(BOARDS_FOLDER / "harness.c"),
         "-Wl,--gc-sections", "-o", str(elf), "-lc", "-lgcc"]
    )  # fmt: skip
    np.ascontiguousarray(pictures).tofile(work / "pictures.bin")
    output = _emulate(board, work)
    numbers = _numbers(output)
    if numbers.get("pictures") != len(pictures):
        raise RuntimeError(
            f"{board.core} ran {numbers.get('pictures')} of {len(pictures)} pictures: {output[-300:]}"
        )
    logits = np.fromfile(work / "logits.bin", np.float32).reshape(len(pictures), classes)
    ops = tuple(numbers[f"op {at}"] for at, _ in steps)
    return Counted(logits, numbers["instructions"], numbers["stack"], ops)


def code_size(board: Board, folder: Path, name: str, work: Path, level: str = "-O3") -> dict[str, int]:
    """Return the bytes of code and of constants of NAME.c compiled alone."""
    work.mkdir(parents=True, exist_ok=True)
    unit = work / "network.o"
    _call(
        [
            board.compiler,
            *board.flags,
            "-std=c99",
            level,
            "-c",
            str(folder / "src" / f"{name}.c"),
            "-o",
            str(unit),
        ]
    )
    lines = _call([board.objdump, "-A", str(unit)])
    found = {"text": 0, "rodata": 0}
    for section, size in re.findall(r"^\.(text|rodata)\S*\s+(\d+)", lines, re.M):
        found[section] += int(size)
    return found


def count_cmsis_nn(board: Board, sources: Path, work: Path, level: str = "-O3") -> dict[str, int]:
    """Return what ResNet-8 takes through CMSIS-NN, from a copy of its repository outside this one.

    Returns:
        Instructions of `convolutions`, of the `rest`, of both (`instructions`), and the `buffer` in bytes.
    """
    work.mkdir(parents=True, exist_ok=True)
    folders = ("Convolution", "NNSupport", "BasicMath", "Pooling", "FullyConnected")
    files = [
        str(file)
        for folder in folders
        for file in sorted((sources / "Source" / f"{folder}Functions").glob("*.c"))
        if not re.search(r"f16|f32", file.name) and (folder == "NNSupport" or "_s8" in file.name)
    ]
    _call(
        [board.compiler, *board.flags, "-std=gnu11", level, "-ffunction-sections", "-nostartfiles",
         f"-I{sources / 'Include'}", f"-I{BOARDS_FOLDER}", "-T", str(BOARDS_FOLDER / board.script),
         str(BOARDS_FOLDER / "cmsis_resnet8.c"), *files, "-Wl,--gc-sections",
         "-o", str(work / "network.elf"), "-lc", "-lgcc"]
    )  # fmt: skip
    return _numbers(_emulate(board, work))


def _emulate(board: Board, work: Path) -> str:
    options = [
        "-semihosting-config",
        "enable=on,target=native",
        "-icount",
        "shift=0",
        "-kernel",
        "network.elf",
    ]
    return _call([*board.machine, *options], cwd=work)


def _numbers(output: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"^(\w+(?: \d+)?) (\d+)$", output, re.M)}


def _call(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=3600, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout + done.stderr
