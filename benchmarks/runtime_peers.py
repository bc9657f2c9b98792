"""The peers of `runtime.py`: their environments, their files, and the processes that run them.

Everything lies in one directory DIR: an environment in DIR/<name>, the networks beside them, and notes.json,
which keeps why something could not be made.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends.native import cpu_features
from bitskip.bench.export import export
from bitskip.bench.process import Worker
from bitskip.errors import BitskipError, RunError
from bitskip.spec import named_spec

HERE = Path(__file__).parent
MODELS = "resnet14"


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, since its packages do not live with ours."""

    packages: tuple[str, ...]
    python: tuple[int, int] | None = None  # version it needs, or None for any


ENVIRONMENTS = {
    "lce": Environment(
        ("larq-compute-engine==0.16.0", "larq==0.14.0", "tensorflow==2.16.1", "tf-keras==2.16.0"), (3, 11)
    ),
    "openvino": Environment(("openvino==2026.4.1", "nncf==3.4.0")),
    "litert": Environment(("ai-edge-litert==2.3.0",)),
}


@dataclass(frozen=True)
class Peer:
    """An engine with a network: who runs it, and what has to be there."""

    name: str
    engine: str  # a key of bitskip.bench.worker.LOADERS
    module: str  # what must be importable
    file: str  # in DIR
    made_by: str  # the step of `prepare` that writes the file
    options: dict[str, Any] = field(default_factory=dict)
    feature: str | None = None  # of the CPU, without which it is the same as another


# LCE's indirect kernels are not its default; on x86 they are several times faster, so both are measured.
PEERS = (
    Peer("onnxruntime fp32", "onnxruntime", "onnxruntime", f"{MODELS}-fp32.onnx", "export"),
    Peer("onnxruntime int8", "onnxruntime", "onnxruntime", f"{MODELS}-int8.onnx", "export"),
    Peer("openvino fp32", "openvino", "openvino", f"{MODELS}-fp32.onnx", "export"),
    Peer(
        "openvino fp32 bf16 allowed", "openvino", "openvino", f"{MODELS}-fp32.onnx", "export",
        {"precision": None}, "amx",
    ),
    Peer("openvino int8", "openvino", "openvino", f"{MODELS}-int8.onnx", "export"),
    Peer("openvino int8 nncf", "openvino", "openvino", f"{MODELS}-int8-nncf.xml", "openvino models"),
    Peer("openvino binary", "openvino", "openvino", f"{MODELS}-binary.xml", "openvino models"),
    Peer("litert fp32", "litert", "ai_edge_litert", f"{MODELS}-fp32.tflite", "tflite models"),
    Peer("litert int8", "litert", "ai_edge_litert", f"{MODELS}-int8.tflite", "tflite models"),
    Peer("pytorch fp32", "pytorch", "torch", f"{MODELS}-fp32.pt", "export"),
    Peer("lce float", "lce", "larq_compute_engine", f"{MODELS}-lce-float.tflite", "tflite models"),
    Peer("lce hybrid", "lce", "larq_compute_engine", f"{MODELS}-lce-hybrid.tflite", "tflite models"),
    Peer(
        "lce hybrid indirect", "lce", "larq_compute_engine", f"{MODELS}-lce-hybrid.tflite", "tflite models",
        {"indirect": True},
    ),
    Peer("lce binary", "lce", "larq_compute_engine", f"{MODELS}-lce-binary.tflite", "tflite models"),
    Peer(
        "lce binary indirect", "lce", "larq_compute_engine", f"{MODELS}-lce-binary.tflite", "tflite models",
        {"indirect": True},
    ),
)  # fmt: skip

# Networks of ours to lower: the model, activations, dense layers.
LOWERED = (
    ("w1a1", "int8", "int8"),
    ("w1a1", "fp32", "fp32"),
    ("binary-none", "int8", "int8"),
    ("binary-all", "int8", "int8"),
    ("binary-all", "fp32", "fp32"),
    ("hybrid-all", "int8", "int8"),
    ("full-all", "int8", "int8"),
    ("full-all", "fp32", "fp32"),
)


def prepare(directory: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Make environments and files; return for each step that failed why. Every step is tried."""
    directory.mkdir(parents=True, exist_ok=True)
    steps: dict[str, Callable[[], object]] = {
        "export": lambda: _export(directory),
        "lowered networks": lambda: _lower(directory),
        **{f"{name} environment": lambda name=name: _environment(directory, name) for name in ENVIRONMENTS},
        "tflite models": lambda: _run_in(directory, "lce", "peer_models_tflite.py"),
        "openvino models": lambda: _run_in(directory, "openvino", "peer_models_openvino.py"),
    }
    notes: dict[str, str] = {}
    for name, step in steps.items():
        say(f"{name} ...")
        try:
            step()
        except (BitskipError, ImportError, OSError) as error:
            notes[name] = " ".join(str(error).split())
            say(f"{name}: {notes[name]}")
    (directory / "notes.json").write_text(json.dumps(notes, indent=1) + "\n")
    return notes


def _export(directory: Path) -> None:
    for reason in export(named_spec(f"{MODELS}-full-all"), directory, prefix=f"{MODELS}-"):
        raise RunError(reason)


def _lower(directory: Path) -> None:
    import torch

    from bitskip.lower import lower
    from bitskip.nn import build

    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    for model, activations, dense in LOWERED:
        torch.manual_seed(0)
        network = build(named_spec(f"{MODELS}-{model}")).eval()
        program = lower(network, activations=activations, dense=dense, calibration=pictures)
        program.save(directory / f"{MODELS}-{model}-{activations}-{dense}.bitskip")


def _python(directory: Path, name: str) -> Path:
    return directory / name / "bin" / "python"


def _environment(directory: Path, name: str) -> None:
    wanted = ENVIRONMENTS[name]
    base: str | None = sys.executable
    if wanted.python and sys.version_info[:2] != wanted.python:
        version = ".".join(map(str, wanted.python))
        base = shutil.which(f"python{version}")
        if base is None:
            raise RunError(f"it needs Python {version}, and no python{version} is on the PATH")
    python = _python(directory, name)
    if not python.exists():
        _run([base, "-m", "venv", str(directory / name)])
    _run([str(python), "-m", "pip", "install", "--quiet", *wanted.packages])


def _run_in(directory: Path, name: str, script: str) -> None:
    python = _python(directory, name)
    if not python.exists():
        raise RunError(f"there is no {name} environment")
    _run([str(python), str(HERE / script), str(directory)])


def _run(words: list[Any]) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
        raise RunError(f"{' '.join(map(str, words[1:4]))} ended with code {ended.returncode}: {errors[-1]}")


def start(directory: Path, threads: int, stack: ExitStack) -> tuple[dict[str, tuple[Worker, int]], list[str]]:
    """Start a process for every peer that can run here.

    Returns:
        By name the worker and the bytes of its file; and a sentence for each peer that is missing.
    """
    try:
        notes: dict[str, str] = json.loads((directory / "notes.json").read_text())
    except FileNotFoundError:
        notes = {}
    workers: dict[str, tuple[Worker, int]] = {}
    missing: list[str] = []
    for peer in PEERS:
        if peer.feature and peer.feature not in cpu_features():
            continue
        path = directory / peer.file
        try:
            if not path.exists():
                why = notes.get(peer.made_by, f"run `python benchmarks/runtime.py prepare {directory}`")
                raise RunError(f"there is no {peer.file}: {why}")
            python = _python(directory, peer.engine)
            if not python.exists():
                if importlib.util.find_spec(peer.module) is None:
                    why = notes.get(f"{peer.engine} environment", f"`prepare {directory}` makes one")
                    raise RunError(
                        f"{peer.module} cannot be imported and there is no environment for it: {why}"
                    )
                python = Path(sys.executable)
            worker = stack.enter_context(
                Worker(peer.engine, path, threads, str(python), **peer.options)
            )  # fmt: skip
        except RunError as error:
            missing.append(f"{peer.name}: {error}")
            continue
        weights = path.with_suffix(".bin")
        beside = weights.stat().st_size if path.suffix == ".xml" and weights.exists() else 0
        workers[peer.name] = (worker, path.stat().st_size + beside)
    return workers, missing
