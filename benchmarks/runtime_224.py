"""ResNet18 and ResNet50 at 224 pixels beside peers: one thread, all in turns, processor time.

    python benchmarks/runtime_224.py -o benchmarks/results/runtime-224-zen3.json   # five minutes
    python benchmarks/runtime_224.py --table benchmarks/results/runtime-224-zen3.json   # into docs/runtime.md

Weights and pictures are random: behind a ReLU more activations are large than in trained networks, so int8
layers on AVX2 sum pairs in 16 bits, not fours (docs/runtime.md). Peers run the architecture in fp32 and,
quantized by onnxruntime, in int8.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from bitskip.backends.native import NativeProgram, available_isas
from bitskip.bench.export import export
from bitskip.bench.peers import PEERS
from bitskip.bench.process import Worker
from bitskip.bench.timing import Timer, alternate, timer
from bitskip.errors import RunError
from bitskip.files import read_json, write_json, write_text
from bitskip.lower import lower
from bitskip.machine import machine
from bitskip.nn import build
from bitskip.program import Program
from bitskip.spec import named_spec

DOC = Path(__file__).resolve().parent.parent / "docs" / "runtime.md"
BEGIN, END = "<!-- 224 pixels -->", "<!-- end of 224 pixels -->"
NETWORKS = ("resnet18", "resnet50")
OURS = {"int8": "full-all", "w1": "binary-all", "hybrid": "hybrid-all"}


def packed(name: str, pixels: int) -> Program:
    """Return a named model lowered with int8 activations and dense layers."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, pixels, pixels, 3)).astype(np.uint8)
    torch.manual_seed(0)
    model = build(named_spec(name)).train()
    with torch.no_grad():  # batch norms measured on noise, so that values stay in range through the depth
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model(torch.from_numpy(pictures / np.float32(127) - 1).permute(0, 3, 1, 2))
    return lower(model.eval(), activations="int8", dense="int8", calibration=pictures)


def beside_peers(network: str, isa: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Return milliseconds a picture of ours and of every peer that is installed."""
    timers: dict[str, Timer] = {}
    for kind, model in OURS.items():
        program = packed(f"{network}-{model}-224px", 224)
        picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
        engine = NativeProgram(program, 1, isa)
        timers[f"bitskip {kind}"] = timer(lambda run=engine.run, x=picture: run(x), processor=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        missing = export(named_spec(f"{network}-full-all-224px"), Path(folder))
        for peer in PEERS:
            try:
                timers[peer.name] = stack.enter_context(
                    Worker(peer.engine, Path(folder) / peer.file, 1, processor=True)
                ).time
            except RunError as error:
                missing.append(f"{peer.name}: {error}")
        found = alternate(timers, rounds, seconds, failed=(died := {}))
    best = min(
        (s.min_ms for n, s in found.items() if n.endswith("int8") and "bitskip" not in n), default=None
    )
    return {
        "missing": missing + [f"{name}: {why}" for name, why in died.items()],
        "results": {name: spread.to_dict() for name, spread in found.items()},
        "x_int8": {name: best / spread.min_ms for name, spread in found.items()} if best else {},
    }


def table(report: dict[str, Any]) -> str:
    """Return the marked part of docs/runtime.md."""
    lines = [
        BEGIN,
        f"{report['machine']['cpu']}, {report['isa']}, one picture, one thread; processor time, load average",
        f"{report['load_average']:.1f}; x int8: times faster than the fastest int8 engine of others, by",
        "fastest times.",
        "",
        "| network | engine | median ms | fastest ms | x int8 |",
        "|---|---|--:|--:|--:|",
    ]
    for network, found in report["networks"].items():
        for name, spread in sorted(found["results"].items(), key=lambda item: item[1]["min_ms"]):
            ratio = f"{found['x_int8'][name]:.2f}" if found["x_int8"] else ""
            times = f"{spread['median_ms']:.1f} | {spread['min_ms']:.1f}"
            lines.append(f"| {network} | {name} | {times} | {ratio} |")
    return "\n".join([*lines, END])


def main(
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="Default: both.")] = None,
    isa: Annotated[str, typer.Option(help="Instruction set.")] = available_isas()[-1],
    rounds: Annotated[int, typer.Option(help="Rounds over all engines.")] = 5,
    seconds: Annotated[float, typer.Option(help="Time for an engine in a round.")] = 0.5,
    results: Annotated[Path | None, typer.Option("--table", help="Write these results into the doc.")] = None,
) -> None:
    """Measure, print and write; or write what was measured into docs/runtime.md."""
    if results:
        old = DOC.read_text(encoding="utf-8")
        if BEGIN not in old or END not in old:
            raise RunError("docs/runtime.md has no marks of 224 pixels")
        start, end = old.index(BEGIN), old.index(END) + len(END)
        write_text(DOC, old[:start] + table(read_json(results)) + old[end:])
        return
    report: dict[str, Any] = {"machine": machine(), "isa": isa, "threads": 1, "rounds": rounds}
    report["networks"] = {}
    for name in network or NETWORKS:
        report["networks"][name] = found = beside_peers(name, isa, rounds, seconds)
        for engine, spread in sorted(found["results"].items(), key=lambda item: item[1]["min_ms"]):
            ratio = f"{found['x_int8'][engine]:.2f}" if found["x_int8"] else ""
            times = f"{spread['median_ms']:9.2f} ms, fastest {spread['min_ms']:9.2f}"
            typer.echo(f"{name:10s} {engine:20s} {times}  x int8 {ratio}")
        for reason in found["missing"]:
            typer.echo(f"not measured: {reason}")
    report["load_average"] = os.getloadavg()[0]
    if out:
        write_json(out, report)


if __name__ == "__main__":
    typer.run(main)
