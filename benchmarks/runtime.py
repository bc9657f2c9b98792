"""This runtime beside its peers on ResNet14, in one run, alternating; medians with the spread.

Two steps, because peers live in environments of their own:

    python benchmarks/runtime.py prepare DIR   # needs bitskip[train], onnx, onnxruntime, and a package index
    python benchmarks/runtime.py measure DIR   # measures whatever is there and says what is not, and why

Peers: onnxruntime, OpenVINO, LiteRT, PyTorch, Larq Compute Engine (see runtime_peers.py); each runs in a
process of its own and takes its turn there. Networks of this runtime: the `*.bitskip` files in DIR, which
`prepare` lowers from torch with random weights, and those of synthetic.py that no spec describes. Set
ONEDNN_MAX_CPU_ISA and the like from outside; the settings found are written with the results. Then `table`
shows results and `readme` writes them down.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import runtime_peers
import runtime_tables
import typer
from synthetic import NETS, resnet14

from bitskip.backends.native import NativeProgram, available_isas, cpu_features
from bitskip.bench.speed import measure_layers, native_timers
from bitskip.bench.timing import Timer, alternate, timer
from bitskip.errors import BitskipError
from bitskip.files import read_json, write_json
from bitskip.program import Conv2d, Program

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

SYNTHETIC = ("w1a1-none", "hybrid-w1a1")  # the others have a spec, so `prepare` lowers them
PROFILED = ("w1a1", "int8", "w1", "fp32")
BATCH = 8  # pictures a call, for two threads against one
Call = Callable[[], object]


@app.command()
def prepare(directory: Path) -> None:
    """Make the environments and the files of all peers in DIRECTORY, those that can be made here."""
    if runtime_peers.prepare(directory, typer.echo):
        typer.echo("what failed above is left out by `measure`; run `prepare` again to try again")


def conditions() -> dict[str, Any]:
    """Return what a result depends on beside the code."""
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "model\t"))
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    settings = {k: v for k, v in os.environ.items() if k.startswith(("ONEDNN", "DNNL", "OMP", "BITSKIP_ISA"))}
    return {
        "commit": commit, "cpu": cpu[:2], "cores": os.cpu_count(), "features": cpu_features(),
        "python": platform.python_version(), "settings": settings,
        "date": datetime.datetime.now(datetime.UTC).isoformat(), "load_average": os.getloadavg(),
    }  # fmt: skip


def two_threads(
    programs: dict[str, Program], isa: str, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Time every network at batch 8 with one thread and with two, in turns; ratios are those of medians.

    `apart` is what this machine allows: two engines of one thread that share nothing, each with half of the
    pictures, at once.
    """
    timers: dict[str, Timer] = {}
    with ThreadPoolExecutor(2) as pool:
        for name, program in programs.items():
            for threads in (1, 2):
                timers[f"{name} {threads}"] = native_timers(program, (isa,), threads, BATCH)[isa]
            timers[f"{name} apart"] = timer(partial(_at_once, pool, _halves(program, isa)))
        found = alternate(timers, rounds, seconds)
    made = {}
    for name in programs:
        one, two, apart = (found[f"{name} {how}"] for how in (1, 2, "apart"))
        made[f"bitskip {name} {isa}"] = {
            "one_thread": one.to_dict(), "two_threads": two.to_dict(), "ratio": one.median_ms / two.median_ms,
            "apart": apart.to_dict(), "ratio_apart": one.median_ms / apart.median_ms,
        }  # fmt: skip
    return made


def _halves(program: Program, isa: str) -> list[Call]:
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (BATCH // 2, *i.shape)).astype(np.uint8) for i in program.inputs)
    return [partial(NativeProgram(program, 1, isa).run, images) for _ in range(2)]


def _at_once(pool: ThreadPoolExecutor, calls: list[Call]) -> None:
    for done in [pool.submit(call) for call in calls]:
        done.result()


def layers(program: Program, isa: str) -> list[dict[str, Any]]:
    """Time every operation by itself; `macs` are a picture's multiply-accumulates in it."""
    macs: dict[str, int] = {}
    for op in program.ops:
        if isinstance(op, Conv2d):
            height, width, channels = program.tensors[op.outputs[0]].shape
            inputs = program.tensors[op.input].shape[2]
            macs[op.name] = height * width * channels * op.kernel[0] * op.kernel[1] * inputs
    return [
        {
            "op": layer.op, "kernel": layer.kernel, "median_us": round(layer.median_us, 2),
            "macs": macs.get(layer.op, 0),
        }
        for layer in measure_layers(program, isa)
    ]  # fmt: skip


@app.command()
def measure(
    directory: Path,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds over all engines.")] = 5,
    seconds: Annotated[float, typer.Option(help="Time for an engine in a round.")] = 0.2,
    isa: Annotated[list[str] | None, typer.Option(help="Of this runtime; default: all but scalar.")] = None,
    net: Annotated[list[str] | None, typer.Option(help=f"Of synthetic.py: {', '.join(NETS)}.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Measure everything that can run here."""
    isas = tuple(isa or [name for name in available_isas() if name != "scalar"] or available_isas())
    files = sorted(directory.glob("*.bitskip"))
    programs = {name: resnet14(name) for name in net or (SYNTHETIC if files else NETS)}
    programs |= {path.name: Program.load(path) for path in files}
    sizes: dict[str, int] = {}
    versions = {"bitskip": importlib.metadata.version("bitskip"), "numpy": np.__version__}
    timers: dict[str, Timer] = {}
    for name, program in programs.items():
        for chosen, take in native_timers(program, isas, threads, 1).items():
            timers[f"bitskip {name} {chosen}"] = take
            sizes[f"bitskip {name} {chosen}"] = len(program.to_bytes())
    start = conditions()
    with ExitStack() as stack:
        workers, missing = runtime_peers.start(directory, threads, stack)
        for name, (worker, size) in workers.items():
            timers[name], sizes[name], versions[worker.engine] = worker.time, size, worker.version
        died: dict[str, str] = {}
        found = alternate(timers, rounds, seconds, failed=died)
        missing += [f"{name}: {why}" for name, why in died.items()]
    scaling: dict[str, Any] = {}
    if (os.cpu_count() or 1) > 1:
        scaling = two_threads(programs, isas[-1], rounds, seconds)
    else:
        missing.append("two threads: this machine has one core")
    report = {
        "what": "ResNet14 (420M MACs), one 32x32 picture",
        "threads": threads, "rounds": rounds, "seconds": seconds,
        **start, "versions": versions, "load_average_after": os.getloadavg(), "missing": missing,
        "results": {name: {"bytes": sizes[name], **spread.to_dict()} for name, spread in found.items()},
        "batch": BATCH, "two_threads": scaling,
        "layers": {
            f"{name} {chosen}": layers(resnet14(name), chosen) for name in PROFILED for chosen in isas
        },
    }  # fmt: skip
    typer.echo(runtime_tables.full(report))
    if out:
        write_json(out, report)


@app.command()
def table(files: list[Path]) -> None:
    """Print results files as Markdown tables, fastest first."""
    for path in files:
        typer.echo(runtime_tables.full(read_json(path)))


@app.command()
def readme(results: Path) -> None:
    """Write the short table of RESULTS into README.md, and all results into benchmarks/results/README.md."""
    for path in runtime_tables.write(results):
        typer.echo(f"wrote {path}")


if __name__ == "__main__":
    try:
        app()
    except BitskipError as error:
        sys.exit(f"error: {error}")
