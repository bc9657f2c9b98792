"""How far each network is from what its kernels could do here: time by part, beside their measured ceilings.

    python benchmarks/ceilings.py DIR -o benchmarks/results/ceilings-zen3.json   # about a minute
    python benchmarks/ceilings.py --table benchmarks/results/ceilings-zen3.json  # into docs/runtime.md

DIR is what `runtime.py prepare` made. A kernel's ceiling is its innermost loop alone, on data in the
first-level cache, measured in the same run. `kernels_alone_us` is a network whose convolutions all ran at
their ceilings, and which did nothing else: no conversion of inputs, no transforms, no epilogues, no weights
from further away. Times are the least of their samples, for what disturbs a run only ever adds.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import runtime_peers
import typer
from synthetic import resnet14

from bitskip.backends.native import NativeProgram, available_isas, tile_rate
from bitskip.bench.speed import macs_of, native_timers
from bitskip.bench.timing import alternate
from bitskip.errors import RunError
from bitskip.files import read_json, write_json, write_text
from bitskip.machine import machine
from bitskip.program import Program

DOC = Path(__file__).resolve().parent.parent / "docs" / "runtime.md"
MARKED = re.compile(r"<!-- ceilings -->\n.*?<!-- end of ceilings -->", re.DOTALL)
GOALS = {  # name in DIR or synthetic.py: what it is, and how many times the fastest int8 engine it should be
    "w1a1-none": ("w1a1, no shortcuts", 5.0),
    "resnet14-binary-none-int8-int8.bitskip": ("w1, no shortcuts", 2.5),
    "hybrid-w1a1": ("w1a1, int8 middle stage", 2.0),
    "resnet14-hybrid-all-int8-int8.bitskip": ("w1, int8 middle stage", 1.8),
    "resnet14-full-all-int8-int8.bitskip": ("int8", 1.1),
}
ROUNDS, REPEATS = 10, 60  # of everything in turn, and of a network in a round


class Parts:
    """The least microseconds of a network's layers, over rounds."""

    def __init__(self, program: Program, isa: str) -> None:
        self.program = program
        self.engine = NativeProgram(program, 1, isa)
        self.image = np.random.default_rng(0).integers(0, 256, (1, *program.input_shape)).astype(np.uint8)
        self.us = np.full(len(program.ops), np.inf)
        self.engine.profile(self.image, 30)

    def measure(self) -> None:
        """Take one round."""
        self.us = np.minimum(self.us, self.engine.profile(self.image, REPEATS).min(axis=0) / 1e3)

    def beside(self, rates: dict[str, float | None]) -> dict[str, Any]:
        """Return the layers' times beside those of their kernels alone, at MACs a nanosecond by kernel."""
        layers = []
        names = zip(self.program.ops, self.engine.op_names, self.engine.kernels, self.us, strict=True)
        for op, name, kernel, us in names:
            macs, rate = macs_of(self.program, op), rates[kernel]
            alone = macs / rate / 1e3 if macs and rate else 0.0
            layers.append({"layer": name, "kernel": kernel, "us": float(us), "kernel_alone_us": alone})
        return {
            "us": float(self.us.sum()),
            "kernels_alone_us": sum(layer["kernel_alone_us"] for layer in layers),
            "layers": layers,
        }


def measure(directory: Path, isa: str) -> dict[str, Any]:
    """Return all networks and the fastest int8 engine, which take turns for their whole times."""
    programs = {n: Program.load(directory / n) if n.endswith(".bitskip") else resnet14(n) for n in GOALS}
    networks = {name: Parts(program, isa) for name, program in programs.items()}
    rates: dict[str, float | None] = {
        kernel: None for one in networks.values() for kernel in one.engine.kernels
    }
    for _ in range(ROUNDS):
        for one in networks.values():
            one.measure()
        for kernel, best in rates.items():
            rate = tile_rate(kernel)
            rates[kernel] = max(rate, best or 0.0) if rate else None
    parts = {name: one.beside(rates) for name, one in networks.items()}
    timers = {name: native_timers(program, (isa,), 1, 1)[isa] for name, program in programs.items()}
    with ExitStack() as stack:
        workers, _ = runtime_peers.start(directory, 1, stack)
        peers = {name: worker.time for name, (worker, _) in workers.items() if "int8" in name.split()}
        if not peers:
            raise RunError(f"no int8 engine runs from {directory}; `runtime.py prepare` makes them")
        found = alternate(timers | peers, 10, 0.25)
    least = {name: spread.min_ms for name, spread in found.items()}
    peer = min(peers, key=least.__getitem__)
    return {
        "machine": machine(), "load_average": os.getloadavg()[0], "isa": isa,
        "peer": peer, "peer_ms": least[peer],
        "ceilings_macs_per_ns": {name: rate for name, rate in rates.items() if rate},
        "networks": {name: {"ms": least[name], **parts[name]} for name in programs},
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """Return the marked part of docs/runtime.md; beside the peer only where the machine was not shared."""
    peer, load = report["peer_ms"], report["load_average"]
    alone = load < report["machine"]["cores"]
    note = (
        f"x: times faster than {report['peer']} ({peer:.2f} ms) in the same run"
        if alone
        else "other work shared the machine, so no engine of others stands beside"
    )
    rows = [
        "<!-- ceilings -->",
        f"{report['machine']['cpu']}, {report['isa']}, one picture, one thread, least times;",
        f"load average {load:.1f} at the end; {note}.",
        "",
        "| network | ms | ms in kernels at their ceilings | reached |"
        + (" x now | x, at most | goal |" if alone else ""),
        "|---|--:|--:|--:|" + ("--:|--:|--:|" if alone else ""),
    ]
    for name, found in report["networks"].items():
        most, (title, goal) = found["kernels_alone_us"] / 1e3, GOALS[name]
        more = f" {peer / found['ms']:.2f} | {peer / most:.2f} | {goal} |" if alone else ""
        rows.append(f"| {title} | {found['ms']:.2f} | {most:.2f} | {most / found['ms']:.0%} |{more}")
    return "\n".join([*rows, "<!-- end of ceilings -->"])


def main(
    directory: Annotated[Path | None, typer.Argument(help="What `runtime.py prepare` made.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
    isa: Annotated[str, typer.Option(help="Instruction set.")] = available_isas()[-1],
    results: Annotated[Path | None, typer.Option("--table", help="Write these results into the doc.")] = None,
) -> None:
    """Measure, or write what was measured into docs/runtime.md."""
    if directory:
        report = measure(directory, isa)
        typer.echo(table(report))
        if out:
            write_json(out, report)
    if results:
        report = read_json(results)
        text, found = MARKED.subn(lambda _: table(report), DOC.read_text(encoding="utf-8"))
        if found != 1:
            raise RunError(f"docs/runtime.md has {found} parts between ceilings marks, expected 1")
        write_text(DOC, text)


if __name__ == "__main__":
    typer.run(main)
