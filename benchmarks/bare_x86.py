"""Static x86-64 programs on an emulated processor that this machine need not be: Bochs, without a system.

Bochs executes AVX-512 and AMX; `boards/x86` has a ROM that enters 64-bit mode and a supervisor that answers
the few system calls of a static Linux program. Its clock counts executed instructions, one a nanosecond:
programs that time themselves count instructions. Instructions are not cycles.

`make test-x86` builds a Bochs with AMX; Debian's (2.7) has AVX-512 alone.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "boards" / "x86"
# What XCR0 enables: x87 and SSE; AVX; masks and ZMM; tiles
SSE, AVX, ZMM, TILES = 0x3, 0x4, 0xE0, 0x60000
EVERY_STATE = SSE | AVX | ZMM | TILES


@dataclass(frozen=True)
class Finished:
    """What a program wrote, and its exit status; 128 and more: an exception of the processor."""

    output: str
    status: int


def find_bochs() -> str | None:
    """Return the emulator: what the variable BOCHS names, or `bochs` on the path."""
    named = os.environ.get("BOCHS")
    return named or shutil.which("bochs")


def missing() -> str:
    """Return which tool is not there, in words, or an empty string."""
    if find_bochs() is None:
        return "needs Bochs: `make test-x86` builds it, the variable BOCHS names it"
    return next((f"needs {tool}" for tool in ("gcc", "ld", "objcopy") if shutil.which(tool) is None), "")


def build_board(work: Path) -> None:
    """Compile the ROM and the supervisor into the folder `work`.

    Raises:
        RuntimeError: if a compiler fails.
    """
    work.mkdir(parents=True, exist_ok=True)
    _call(
        "gcc", "-O2", "-ffreestanding", "-fno-pic", "-no-pie", "-fcf-protection=none", "-mgeneral-regs-only",
        "-mno-red-zone", "-fno-stack-protector", "-nostdlib", "-T", FOLDER / "supervisor.ld",
        "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", FOLDER / "supervisor.c", FOLDER / "entry.S",
        "-o", work / "supervisor.elf"
    )  # fmt: skip
    _call("objcopy", "-O", "binary", work / "supervisor.elf", work / "supervisor.bin")
    _call("gcc", "-c", f"-Wa,-I{work}", FOLDER / "reset.S", "-o", work / "reset.o")
    _call(
        "ld",
        "-Ttext=0xffff0000",
        "-e",
        "start16",
        "--oformat",
        "binary",
        "-o",
        work / "rom.bin",
        work / "reset.o",
    )


def run_program(
    program: Path,
    arguments: Sequence[str],
    work: Path,
    *,
    model: str = "sapphire_rapids",
    state: int = EVERY_STATE,
    file: Path | None = None,
    seconds: int = 600,
) -> Finished:
    """Run a static program on an emulated processor.

    Args:
        program: an ELF file linked with `-static -no-pie`.
        arguments: after its name.
        work: where `build_board` built.
        model: of Bochs: `sapphire_rapids`, `tigerlake`, `corei7_skylake_x`, ...
        state: what XCR0 enables where the processor has it, as an operating system would.
        file: what the program reads when it opens a file, whatever the name.
        seconds: after which it is stopped.

    Raises:
        RuntimeError: if the emulator does not start, or the program does not end in time.
    """
    words = b"".join(word.encode() + b"\0" for word in [program.name, *arguments])
    code, data = program.read_bytes(), file.read_bytes() if file else b""
    options = struct.pack("<QQQII", state, len(code), len(data), len(arguments) + 1, 0) + words
    disk = b"".join(_padded(part, 512) for part in (_padded(options, 4096), code, data))
    (work / "disk.img").write_bytes(_padded(disk, 16 * 63 * 512))  # whole cylinders
    (work / "disk.img.lock").unlink(missing_ok=True)  # left behind where a run was stopped
    (work / "vga.bin").write_bytes(b"\x55\xaa\x01".ljust(512, b"\0"))  # Bochs wants one; nothing runs it
    (work / "bochsrc").write_text(
        f"""display_library: nogui
memory: guest=256, host=256
romimage: file={work.resolve() / "rom.bin"}, address=0xffff0000
vgaromimage: file={work.resolve() / "vga.bin"}
vga: extension=none
ata0-master: type=disk, path={work.resolve() / "disk.img"}, mode=flat
cpu: count=1, model={model}, ips=1000000000, reset_on_triple_fault=0, ignore_bad_msrs=0
clock: sync=none
port_e9_hack: enabled=1
log: {work.resolve() / "bochs.log"}
panic: action=fatal
"""
    )
    bochs = find_bochs()
    if bochs is None:
        raise RuntimeError(missing())
    try:
        done = subprocess.run(
            [bochs, "-q", "-f", str(work / "bochsrc")], capture_output=True, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        raise RuntimeError(f"{program.name} did not end in {seconds} s on {model}: {said[-500:]}") from None
    output = done.stdout.decode(errors="replace")
    found = re.search(r"\n\[exit (\d+)\]\n", output)
    if not found:
        log = work / "bochs.log"
        why = (
            log.read_text(errors="replace")[-1500:] if log.exists() else done.stderr.decode(errors="replace")
        )
        raise RuntimeError(f"{program.name} did not run on {model}: {output[-300:]} {why}")
    return Finished(output[: found.start()], int(found[1]))


def _padded(part: bytes, unit: int) -> bytes:
    return part.ljust(-(-len(part) // unit) * unit, b"\0")


def _call(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed: {done.stderr[-2000:]}")
