"""Runs docs/tutorial.md, block by block in a fresh folder: `python tools/tutorial.py`.

What the blocks print goes into docs/tutorial.json and from there into the page, so it says what was seen.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bitskip import __version__
from bitskip.machine import machine

ROOT = Path(__file__).resolve().parent.parent
PAGE, RECORD = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.json"
BLOCK = re.compile(r"```(sh|python)\n((?:(?!```).)*)```\n\n```text\n(?:(?!```).)*```", re.DOTALL)
BEGIN, END = "<!-- recorded -->", "<!-- end of recorded -->"
FIRST, LAST = 8, 4  # lines of a long output that the page shows


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and code of the blocks whose output the page shows."""
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def run_block(language: str, code: str, folder: Path) -> dict[str, Any]:
    """Run one block in `folder`; raises RuntimeError with what it printed if it fails."""
    words = ["sh", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    begun, before = time.perf_counter(), _cpu_seconds()
    end = subprocess.run(
        words, cwd=folder, env=os.environ | {"PATH": path}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if end.returncode != 0:
        raise RuntimeError(f"exit code {end.returncode} of\n{code}\n{end.stdout}")
    used = round(_cpu_seconds() - before, 1)
    output = end.stdout.replace(f"{folder}/", "")
    return {"code": code, "seconds": round(seconds, 1), "cpu_seconds": used, "output": output}


def _cpu_seconds() -> float:
    """Return what the blocks have taken of the processor so far, whoever else used it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_all(folder: Path) -> list[dict[str, Any]]:
    """Run the page's blocks in order in `folder`, which must be fresh."""
    (folder / "examples").symlink_to(ROOT / "examples")
    return [run_block(language, code, folder) for language, code in blocks(PAGE.read_text(encoding="utf-8"))]


def _shown(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines()]
    if len(lines) > FIRST + LAST + 1:
        lines[FIRST:-LAST] = ["..."]
    return "".join(f"{line}\n" for line in lines)


def page(text: str, record: dict[str, Any]) -> str:
    """Return the page with what was recorded in it."""
    steps = iter(record["steps"])

    def filled(match: re.Match[str]) -> str:
        return f"```{match[1]}\n{match[2]}```\n\n```text\n{_shown(next(steps)['output'])}```"

    before, _, rest = BLOCK.sub(filled, text).partition(BEGIN)
    steps_taken = record["steps"]
    longest = max(steps_taken, key=lambda step: step["seconds"])
    host = record["machine"]
    said = (
        f"Recorded {record['date']} with bitskip {record['bitskip']}, "
        f"on {host['cores']} cores of {host['cpu']} (load average {record['load']} before): "
        f"{longest['seconds']:.0f} s of training ({longest['cpu_seconds']:.0f} s of processor time), "
        f"{sum(step['seconds'] for step in steps_taken):.0f} s in all."
    )
    return f"{before}{BEGIN}\n{said}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Run the page, write the record, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--fill", action="store_true", help="only fill the page from the record that is there"
    )
    if not parser.parse_args().fill:
        load = round(os.getloadavg()[0], 1)
        with tempfile.TemporaryDirectory() as name:
            steps = run_all(Path(name).resolve())
        record = {
            "bitskip": __version__,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "load": load,
            "steps": steps,
        }
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    main()
