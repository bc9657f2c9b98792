"""This runtime beside its peers on ResNet14, in one run, alternating; medians with the spread.

Two steps, because peers live in environments of their own:

    python benchmarks/runtime.py prepare DIR     # needs bitskip[train], onnx, onnxruntime: writes DIR/*.onnx
    python benchmarks/runtime.py measure DIR     # measures whichever of the peers can be imported here

Peers: onnxruntime (fp32, int8 by quantize_static), OpenVINO (the same two files), PyTorch. Networks of this
runtime have random constants (see synthetic.py); a `*.bitskip` file in DIR is measured too. Set
ONEDNN_MAX_CPU_ISA and the like from outside; the settings found are written with the results.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from synthetic import NETS, resnet14

from bitskip.program import Program
from bitskip.runtime.native import NativeProgram, available_isas, cpu_features

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Run = Callable[[], object]


@app.command()
def prepare(directory: Path) -> None:
    """Export ResNet14 to ONNX, fp32 and int8 (QDQ, per channel)."""
    import onnxruntime.quantization as quantization
    import torch
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from bitskip.nn import build
    from bitskip.spec import named_spec

    directory.mkdir(parents=True, exist_ok=True)
    model = build(named_spec("resnet14-full-all")).eval()
    example = torch.randn(1, 3, 32, 32)
    fp32 = directory / "resnet14-fp32.onnx"
    torch.onnx.export(model, (example,), str(fp32), dynamo=False, input_names=["x"], opset_version=17)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [{"x": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(16)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    # Without this step biases stay computed values, and neither peer finds its int8 kernels.
    simplified = directory / "resnet14-simplified.onnx"
    quant_pre_process(str(fp32), str(simplified))
    quantization.quantize_static(
        str(simplified), str(directory / "resnet14-int8.onnx"), Pictures(), per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    torch.jit.trace(model, example).save(str(directory / "resnet14-fp32.pt"))


def ours(threads: int, isas: tuple[str, ...], nets: tuple[str, ...], files: list[Path]) -> dict[str, Run]:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    runs: dict[str, Run] = {}
    programs = {net: resnet14(net) for net in nets} | {path.name: Program.load(path) for path in files}
    for net, program in programs.items():
        for isa in isas:
            native = NativeProgram(program, threads, isa)
            runs[f"bitskip {net} {isa}"] = lambda native=native: native.run(image)
    return runs


def onnxruntime_peers(threads: int, directory: Path) -> dict[str, Run]:
    import onnxruntime

    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    runs: dict[str, Run] = {}
    for kind in ("fp32", "int8"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = str(directory / f"resnet14-{kind}.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        runs[f"onnxruntime {kind}"] = lambda s=session, n=name: s.run(None, {n: x})
    return runs


def openvino_peers(threads: int, directory: Path) -> dict[str, Run]:
    import openvino

    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    runs: dict[str, Run] = {}
    core = openvino.Core()
    for kind in ("fp32", "int8"):
        how = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        for label, extra in (("", {"INFERENCE_PRECISION_HINT": "f32"}), (" bf16 allowed", {})):
            if kind == "int8" and label:
                continue
            compiled = core.compile_model(str(directory / f"resnet14-{kind}.onnx"), "CPU", how | extra)
            request = compiled.create_infer_request()
            runs[f"openvino {kind}{label}"] = lambda r=request: r.infer({0: x}, share_inputs=True)
    return runs


def torch_peers(threads: int, directory: Path) -> dict[str, Run]:
    import torch

    torch.set_num_threads(threads)
    x = torch.randn(1, 3, 32, 32)
    model = torch.jit.freeze(torch.jit.load(str(directory / "resnet14-fp32.pt")).eval())

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return {"pytorch fp32": run}


def alternate(runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Time every run for `seconds` a round, one after the other, `rounds` times."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(20):
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            until = time.perf_counter() + seconds
            while (start := time.perf_counter()) < until:
                run()
                samples[name].append((time.perf_counter() - start) * 1e3)
    result = {}
    for name, values in samples.items():
        tenths = statistics.quantiles(values, n=10)
        result[name] = {
            "n": len(values), "median_ms": statistics.median(values),
            "p10_ms": tenths[0], "p90_ms": tenths[-1],
            "min_ms": min(values),
        }  # fmt: skip
    return result


def layers(net: str, isa: str) -> list[dict[str, Any]]:
    program = resnet14(net)
    native = NativeProgram(program, 1, isa)
    image = np.zeros((1, *program.input_shape), np.uint8)
    native.profile(image, 50)
    medians = np.median(native.profile(image, 300), axis=0) / 1e3
    return [
        {"op": op, "kernel": kernel, "median_us": round(float(us), 2)}
        for op, kernel, us in zip(native.op_names, native.kernels, medians, strict=True)
    ]


def machine() -> dict[str, Any]:
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "model\t"))
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for package in ("numpy", "onnxruntime", "openvino", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    settings = {k: v for k, v in os.environ.items() if k.startswith(("ONEDNN", "DNNL", "OMP", "BITSKIP_ISA"))}
    return {
        "commit": commit, "cpu": cpu[:2], "features": cpu_features(), "python": platform.python_version(),
        "versions": versions, "settings": settings, "date": datetime.datetime.now(datetime.UTC).isoformat(),
        "load_average": os.getloadavg(),
    }  # fmt: skip


@app.command()
def measure(
    directory: Path,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds over all engines.")] = 5,
    seconds: Annotated[float, typer.Option(help="Time for an engine in a round.")] = 0.2,
    isa: Annotated[list[str] | None, typer.Option(help="Of this runtime; default: all but scalar.")] = None,
    net: Annotated[list[str] | None, typer.Option(help=f"Of this runtime: {', '.join(NETS)}.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Measure everything that can be imported here."""
    isas = tuple(isa or [name for name in available_isas() if name != "scalar"])
    runs = ours(threads, isas, tuple(net or NETS), sorted(directory.glob("*.bitskip")))
    missing = []
    for peers in (onnxruntime_peers, openvino_peers, torch_peers):
        try:
            runs |= peers(threads, directory)
        except (ImportError, RuntimeError) as error:  # not installed, or not able to run with these settings
            missing.append(f"{peers.__name__}: {error}".strip())
    results = alternate(runs, rounds, seconds)
    report = {
        "what": "ResNet14 (420M MACs), one 32x32 picture",
        "threads": threads, "rounds": rounds, "seconds": seconds,
        **machine(), "missing": missing, "results": results,
        "layers": {
            f"{net} {name}": layers(net, name) for net in ("w1a1", "int8", "w1", "fp32") for name in isas
        },
    }  # fmt: skip
    for name, r in sorted(results.items(), key=lambda item: item[1]["median_ms"]):
        typer.echo(
            f"{name:38} {r['median_ms']:8.3f} ms   ({r['p10_ms']:.3f} .. {r['p90_ms']:.3f}, n {r['n']:.0f})"
        )
    for reason in missing:
        typer.echo(f"not measured: {reason}")
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")


@app.command()
def table(files: list[Path]) -> None:
    """Print results files as Markdown tables, fastest first."""
    for path in files:
        report = json.loads(path.read_text())
        cpu = ", ".join(report["cpu"])
        settings = ", ".join(f"{k}={v}" for k, v in report["settings"].items()) or "no settings"
        typer.echo(
            f"{report['what']}, threads: {report['threads']}; {cpu}; {settings}; "
            f"commit {report['commit'][:10]}\n"
        )
        typer.echo("| engine and network | median ms | 10% .. 90% | fastest | n |\n|---|---|---|---|---|")
        for name, r in sorted(report["results"].items(), key=lambda item: item[1]["median_ms"]):
            shown = name.replace(".bitskip", "").replace("resnet14-", "")
            spread = f"{r['p10_ms']:.3f} .. {r['p90_ms']:.3f}"
            typer.echo(f"| {shown} | {r['median_ms']:.3f} | {spread} | {r['min_ms']:.3f} | {r['n']:.0f} |")
        typer.echo("")


if __name__ == "__main__":
    app()
