"""Executed instructions a multiply-accumulate, kernel by kernel (ARM, AVX-512, AMX).

    python benchmarks/instructions.py arm [--xnnpack COPY]
    python benchmarks/instructions.py x86
    python benchmarks/instructions.py tables

A whole 3x3 convolution is counted, in one thread: copying rows, unpacking weights, the tiles, the epilogue.
ARM: blocks logged by qemu-aarch64, beside XNNPACK's micro-kernels (from a copy of its repository elsewhere)
on the same shape, and the cycles of schedule models. x86: the clock of `bare_x86`, which counts instructions.
`tables` writes docs/runtime.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bare_x86 import build_board, missing, run_program
from executed_arm import CORES, MCA, TOOLS, cycles, disassembled, executed, instructions

from bitskip.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TYPES = ("bits_w1", "i8_w1", "i8_i8", "f32_f32")
CHANNELS = 64  # in and out
SIDES = {"arm": 8, "x86": 16}
XNNPACK = (
    "qs8-qc8w-igemm/gen/qs8-qc8w-igemm-4x16-minmax-fp32-neonv8-mlal-lane.c",
    "qs8-qc8w-igemm/gen/qs8-qc8w-igemm-2x8c8-minmax-fp32-asm-aarch64-neon-mlal.S",
    "qs8-qc8w-igemm/gen/qs8-qc8w-igemm-4x16c4-minmax-fp32-asm-aarch64-neondot-ld128.S",
    "qs8-qc8w-igemm/gen/qs8-qc8w-igemm-4x16c8-minmax-fp32-neoni8mm.c",
    "f32-igemm/gen/f32-igemm-6x8-minmax-asm-aarch64-neonfma-ld128.S",
)


def count_arm(work: Path, xnnpack: Path | None) -> dict[str, Any]:
    """Return a row a kernel, ours and XNNPACK's."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        raise SystemExit(f"counting on ARM needs {', '.join(lacking)}; install them by apt-get")
    cross = "aarch64-linux-gnu-gcc"
    _build(work, "-static", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
           f"-DCMAKE_C_COMPILER={cross}", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++")  # fmt: skip
    speed, library, side = work / "c" / "bitskip_speed", work / "c" / "libbitskip.a", SIDES["arm"]
    rows = []
    for types in TYPES:
        shape = ["1", types, str(CHANNELS), str(CHANNELS), str(side), "3", "1", "--scalar", "--json"]
        rows += _arm_rows("bitskip", speed, shape, work, library)
    if xnnpack:
        program = _build_xnnpack(xnnpack, work)
        rows += _arm_rows("xnnpack", program, [str(CHANNELS), str(side)], work, None)
    version = subprocess.run([cross, "--version"], capture_output=True, text=True, check=True).stdout
    models = subprocess.run([MCA, "--version"], capture_output=True, text=True, check=True).stdout
    return {"compiler": version.splitlines()[0], "models": models.splitlines()[0].strip(), "rows": rows}


def _arm_rows(
    engine: str, program: Path, arguments: Sequence[str], work: Path, library: Path | None
) -> list[dict[str, Any]]:
    blocks, lines = executed(program, arguments, work / "executed.log", library)
    facts = [json.loads(line) for line in lines]
    if len(facts) != len(blocks):
        raise RuntimeError(f"{program.name} named {len(facts)} kernels and timed {len(blocks)}")
    text = disassembled(program)
    rows = []
    for fact, counted in zip(facts, blocks, strict=True):
        row = {"engine": engine, "types": fact["types"], "variant": fact["variant"]}
        row |= {"macs": _macs(SIDES["arm"]), "instructions": instructions(counted)}
        needs = next((word for word in ("neondot", "neoni8mm") if word in fact["variant"]), None)
        able = [core for core, what in CORES.items() if needs is None or needs in what.has]
        row["cycles"] = {core: round(cycles(counted, text, core)) for core in able}
        rows.append(row)
    return rows


def _build_xnnpack(copy: Path, work: Path) -> Path:
    (work / "pthreadpool.h").write_text(
        "typedef struct pthreadpool *pthreadpool_t;\n"
    )  # all that is asked of it
    program = work / "xnnpack"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-O2", "-DNDEBUG", "-march=armv8.2-a+dotprod+i8mm+fp16", "-static",
         f"-I{copy}", f"-I{copy / 'include'}", f"-I{work}", str(ROOT / "benchmarks/boards/arm/xnnpack.c"),
         *(str(copy / "src" / source) for source in XNNPACK), "-o", str(program)],
        check=True,
    )  # fmt: skip
    return program


def count_x86(work: Path) -> dict[str, Any]:
    """Return a row a kernel: the least instructions of three calls, its clock included (under 300)."""
    if missing():
        raise SystemExit(missing())
    _build(work, "-static -no-pie")
    build_board(work / "board")
    rows = []
    for types in TYPES:
        shape = ["3", types, str(CHANNELS), str(CHANNELS), str(SIDES["x86"]), "3", "1", "--scalar", "--json"]
        done = run_program(work / "c" / "bitskip_speed", shape, work / "board", seconds=3000)
        for line in re.findall(r"^\{.*\}$", done.output, re.M):
            fact = json.loads(line)
            counted = round(1000 * fact["us"])
            rows.append({"engine": "bitskip", "types": types, "variant": fact["variant"],
                         "macs": _macs(SIDES["x86"]), "instructions": counted})  # fmt: skip
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    return {"compiler": version.splitlines()[0], "rows": rows}


def _macs(side: int) -> int:
    return side * side * CHANNELS * CHANNELS * 3 * 3


def _build(work: Path, link: str, *more: str) -> None:
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    subprocess.run(
        [cmake, "-S", str(ROOT), "-B", str(work / "c"), "-DBITSKIP_PYTHON=OFF", "-DBITSKIP_TESTS=ON",
         f"-DCMAKE_EXE_LINKER_FLAGS={link}", *more],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run(
        [cmake, "--build", str(work / "c"), "--target", "bitskip_speed"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def tables() -> str:
    """Return both tables as Markdown."""
    parts = []
    for name, title in (("arm", "NEON"), ("x86", "x86-64")):
        found = json.loads((RESULTS / f"instructions-{name}.json").read_text())
        cores, side = list(CORES) if name == "arm" else [], SIDES[name]
        made = ", ".join([found["compiler"], *([found["models"]] if cores else [])])
        parts.append(f"{title}: 3x3, {CHANNELS} to {CHANNELS} channels, {side} x {side} pixels; {made}.\n\n")
        head = ["kernel", "MACs an instruction", *cores]
        parts.append("| " + " | ".join(head) + " |\n|---|" + "--:|" * (len(head) - 1) + "\n")
        for row in sorted(
            found["rows"], key=lambda r: (TYPES.index(r["types"]), r["instructions"] / r["macs"])
        ):
            label = row["variant"] if row["engine"] == "bitskip" else f"XNNPACK {row['variant']}"
            cells = [label, f"{row['macs'] / row['instructions']:.2f}"]
            cells += [_rate(row, core) for core in cores]
            parts.append("| " + " | ".join(cells) + " |\n")
        parts.append("\n")
    return "".join(parts).rstrip()


def _rate(row: dict[str, Any], core: str) -> str:
    return f"{row['macs'] / row['cycles'][core]:.1f}" if core in row["cycles"] else "-"


def write_tables(page: Path) -> None:
    """Put the tables between their marks on a page."""
    text = page.read_text()
    start, end = "<!-- instructions -->\n", "<!-- end of instructions -->"
    before, rest = text.split(start)
    write_text(page, before + start + tables() + "\n" + end + rest.split(end)[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("arm", "x86", "tables"))
    parser.add_argument("--xnnpack", type=Path, help="a copy of XNNPACK's repository")
    parser.add_argument("--out", type=Path, help="the results file, where it is not to be the committed one")
    parser.add_argument("--work", type=Path, help="a folder for what is built, kept for the next time")
    asked = parser.parse_args(argv)
    if asked.what == "tables":
        write_tables(ROOT / "docs" / "runtime.md")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        found = count_arm(work, asked.xnnpack) if asked.what == "arm" else count_x86(work)
    found = {"date": datetime.now(UTC).date().isoformat(), **found}
    write_text(asked.out or RESULTS / f"instructions-{asked.what}.json", json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
