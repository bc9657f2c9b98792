"""What several pictures in one call save: ResNet14's networks with random constants, layer by layer.

    cmake -S . -B build/c -DBITSKIP_PYTHON=OFF -DBITSKIP_TESTS=ON && cmake --build build/c
    python benchmarks/batch.py -o benchmarks/results/batch-zen3.json        # a minute
    python benchmarks/batch.py --table benchmarks/results/batch-zen3.json   # into docs/runtime.md

native/tests/network.c times every layer alone and over eight pictures side by side, in turns, by processor
time; the least counts, so that a shared machine gives the figures of a quiet one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.errors import RunError
from bitskip.files import read_json, write_json, write_text
from bitskip.machine import machine

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "runtime.md"
MARKED = re.compile(r"<!-- batches -->\n.*?<!-- end of batches -->", re.DOTALL)


def table(report: dict[str, Any]) -> str:
    """Return the marked part of docs/runtime.md."""
    lines = [
        "<!-- batches -->",
        f"{report['machine']['cpu']}, ResNet14, one thread, milliseconds a picture: sums of the least",
        f"processor times of its layers; load average {report['load_average']:.1f}.",
        "",
        "| network | kernels | alone | eight side by side | ratio | layers together | of the time alone |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for found in report["results"]:
        both = [ms for _, ms, _, together in found["ops"] if together]
        lines.append(
            f"| {found['network']} | {found['isa']} | {found['ms']:.2f} | {found['ms_side_by_side']:.2f} "
            f"| {found['ratio']:.2f} | {len(both)} | {sum(both) / found['ms']:.0%} |"
        )
    return "\n".join([*lines, "<!-- end of batches -->"])


def main(
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
    program: Annotated[Path, typer.Option(help="The timing program.")] = ROOT / "build/c/bitskip_network",
    rounds: Annotated[int, typer.Option(help="Rounds over all networks.")] = 40,
    results: Annotated[Path | None, typer.Option("--table", help="Write these results into the doc.")] = None,
) -> None:
    """Measure, print and write; or write what was measured into docs/runtime.md."""
    if results:
        old = DOC.read_text(encoding="utf-8")
        if not MARKED.search(old):
            raise RunError("docs/runtime.md has no marks of batches")
        write_text(DOC, MARKED.sub(lambda _: table(read_json(results)), old))
        return
    if not program.exists():
        raise RunError(f"there is no {program}; build it by cmake with -DBITSKIP_TESTS=ON")
    said = subprocess.run([program, str(rounds), "8"], check=True, capture_output=True, text=True).stdout
    report = {"machine": machine(), "load_average": os.getloadavg()[0], **json.loads(said)}
    for found in report["results"]:
        typer.echo(
            f"{found['network']:8s} {found['isa']:8s} {found['ms']:.3f} ms, ratio {found['ratio']:.3f}"
        )
    if out:
        write_json(out, report)


if __name__ == "__main__":
    typer.run(main)
