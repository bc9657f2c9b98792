"""What an aarch64 program executes between two marks, and the cycles that schedule models expect of it.

qemu-aarch64 logs every block that it enters (Debian's has no plugins). Cycles: llvm-mca simulates each block
on LLVM's models of the cores, which were made from Arm's optimization guides, with data in the first-level
cache and every branch predicted: what a core could reach, not what one was seen to do. The variable LLVM_MCA
names another llvm-mca than the one on the path; models of Neoverse N1 and N2 need LLVM 17.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MCA = os.environ.get("LLVM_MCA", "llvm-mca")
TOOLS = ("qemu-aarch64-static", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", MCA)


@dataclass(frozen=True)
class Core:
    """A core with a schedule model in LLVM."""

    cpu: str  # as for -mcpu
    has: tuple[str, ...] = ()  # of what a kernel's name may end in


CORES = {
    "Cortex-A53": Core("cortex-a53"),
    "Cortex-A72": Core("cortex-a72"),
    "Cortex-A55": Core("cortex-a55", ("neondot",)),
    "Neoverse N1": Core("neoverse-n1", ("neondot",)),
    "Cortex-A510": Core("cortex-a510", ("neondot", "neoni8mm")),
    "Neoverse N2": Core("neoverse-n2", ("neondot", "neoni8mm")),
}
HOT = 0.002  # blocks with a smaller part of all instructions are counted at one instruction a cycle
Blocks = Counter[tuple[int, int]]  # (address, instructions): how often


def executed(
    program: Path, arguments: Sequence[str], log: Path, library: Path | None
) -> tuple[list[Blocks], list[str]]:
    """Run a program and return the blocks executed between calls of its function `now`, two and two.

    Args:
        program: static, not position-independent.
        arguments: after its name.
        log: a file to be written and removed.
        library: whose functions count, but for those that plan and pack; None: XNNPACK's and `main`.

    Returns:
        The blocks, and the lines that the program wrote.
    """
    symbols = _symbols(program)
    wanted = _timed(library) if library else {s for _, _, s in symbols if s.startswith("xnn_") or s == "main"}
    spans = [
        (a, n)
        for a, n, s in symbols
        if n and (s in wanted or s == "now" or re.match(r"_*mem(cpy|set|move)", s))
    ]
    mark = next(a for a, _, s in symbols if s == "now")
    done = subprocess.run(
        [TOOLS[0], "-cpu", "max,pauth-impdef=on", "-d", "in_asm,exec,nochain", "-D", str(log),
         "-dfilter", ",".join(f"{a:#x}+{n:#x}" for a, n in sorted(set(spans))), str(program), *arguments],
        capture_output=True, text=True, check=False, timeout=1800, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} failed under {TOOLS[0]}: {done.stderr[-500:]}")
    blocks = list(_between_marks(log, mark))
    log.unlink()
    return blocks, done.stdout.splitlines()


def instructions(blocks: Blocks) -> int:
    """Return how many were executed."""
    return sum(size * times for (_, size), times in blocks.items())


def cycles(blocks: Blocks, text: dict[int, str], core: str) -> float:
    """Return the cycles that LLVM's model of a core expects.

    Args:
        blocks: of one convolution.
        text: instructions by address, of `disassembled`.
        core: a key of CORES.
    """
    all_of_them = instructions(blocks)
    if all_of_them == 0:
        raise RuntimeError("nothing was executed between the marks")
    hot = [b for b, times in blocks.items() if b[1] * times >= HOT * all_of_them]
    regions = []
    for number, (at, size) in enumerate(hot):
        body = "\n".join(text[at + 4 * i] for i in range(size))
        regions.append(f"# LLVM-MCA-BEGIN {number}\n{body}\n# LLVM-MCA-END {number}\n")
    done = subprocess.run(
        [TOOLS[3], "-mtriple=aarch64", f"-mcpu={CORES[core].cpu}", "-mattr=+dotprod,+i8mm", "-iterations=100",
         "-resource-pressure=false", "-instruction-info=false", "-"],
        input="".join(regions), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    found = [int(n) / 100 for n in re.findall(r"^Total Cycles:\s+(\d+)", done.stdout, re.M)]
    if done.returncode != 0 or len(found) != len(hot):
        raise RuntimeError(f"llvm-mca has no answer for {core}: {done.stderr[:500]}")
    simulated = sum(each * blocks[block] for each, block in zip(found, hot, strict=True))
    return simulated + sum(size * n for (at, size), n in blocks.items() if (at, size) not in set(hot))


def disassembled(program: Path) -> dict[int, str]:
    """Return a program's instructions by address, without targets of branches, which mca takes for errors."""
    lines = _call(TOOLS[2], "-d", "--no-show-raw-insn", str(program))
    text = {}
    for line in lines.splitlines():
        found = re.match(r"^\s+([0-9a-f]+):\t(.*)$", line)
        if found:
            words = re.sub(r"\s*//.*", "", found[2])
            words = re.sub(r"\b[0-9a-f]+ <[^>]*>", "0", words)
            text[int(found[1], 16)] = words
    return text


def _symbols(program: Path) -> list[tuple[int, int, str]]:
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [tTwWiI] (\S+)$", _call("nm", "-S", str(program)), re.M)
    return [(int(a, 16), int(n, 16), name) for a, n, name in found]


def _timed(library: Path) -> set[str]:
    """The functions of a static library that run when an operation runs."""
    names: set[str] = set()
    for part in re.split(r"\n(?=\S+\.o:\n)", _call("nm", str(library))):
        if not re.match(r"\s*(pack|plan|plan_\w+|open|program|cpu|dispatch|drill)\.c\.o:", part):
            names.update(re.findall(r" [tT] (\S+)$", part, re.M))
    return names


def _between_marks(log: Path, mark: int) -> Iterator[Blocks]:
    sizes: dict[int, int] = {}
    blocks: Blocks = Counter()
    at, size, counting = 0, 0, False
    entered = re.compile(r"^Trace \d+: 0x[0-9a-f]+ \[[0-9a-f]+/([0-9a-f]+)/")
    with log.open() as lines:
        for line in lines:
            if line.startswith("0x"):  # an instruction of a block that is translated
                at = at or int(line[2 : line.index(":")], 16)
                size += 1
            elif line.startswith("Trace"):
                found = entered.match(line)
                if found is None:
                    raise RuntimeError(f"a line of the log is not understood: {line!r}")
                address = int(found[1], 16)
                if address == mark:
                    if counting:
                        yield blocks
                    blocks, counting = Counter(), not counting
                elif counting:
                    blocks[address, sizes[address]] += 1
            elif at:
                sizes[at] = size
                at, size = 0, 0


def _call(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout
