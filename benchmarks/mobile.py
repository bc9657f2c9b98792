"""MobileNets and EfficientNet-B0 at 224 pixels: the native runtime beside ONNX Runtime, one thread.

    python benchmarks/mobile.py --out benchmarks/results/mobile.json

Weights are random, with batch norms measured on noise: speed does not depend on them. The packed network and
its ONNX export, in fp32 and in int8 (QDQ), take turns. `ratio`: ONNX Runtime's median over the packed one's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import models

from bitskip.backends.native import NativeProgram
from bitskip.backends.onnx.target import model_of
from bitskip.files import write_json
from bitskip.lower import lower
from bitskip.machine import machine
from bitskip.program import Program

NETWORKS = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
SIDE = 224


def programs(name: str) -> dict[str, Program]:
    """Return the network packed in fp32 and in int8."""
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name).train()
    pictures = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model(torch.from_numpy(pictures / np.float32(127) - 1).permute(0, 3, 1, 2))
    how: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_shape": (3, SIDE, SIDE)}
    int8 = {"activations": "int8", "dense": "int8", "calibration": pictures}
    return {"fp32": lower(model.eval(), **how), "int8": lower(model, **how, **int8)}


def onnxruntime_of(program: Program) -> Callable[[Any], Any]:
    """Return a call of the program's ONNX export, weights as they are, on one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    weights = "int8" if program.dense == "int8" else "fp32"
    content = model_of(program, weights=weights)[0].SerializeToString()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of each call: they take turns."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for at in range(rounds + 2):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if at >= 2:
                times[key].append((time.perf_counter() - start) * 1e3)
    return {key: {"median_ms": statistics.median(all_), "least_ms": min(all_)} for key, all_ in times.items()}


def row(name: str, rounds: int) -> dict[str, Any]:
    """Return the times of one network."""
    picture = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    normalised = np.ascontiguousarray(
        (picture / np.float32(127.5) - 1).transpose(0, 3, 1, 2).astype(np.float32)
    )
    calls: dict[str, Callable[[], Any]] = {}
    for precision, program in programs(name).items():
        native, peer = NativeProgram(program), onnxruntime_of(program)
        calls[f"bitskip {precision}"] = lambda native=native: native.run(picture)
        calls[f"onnxruntime {precision}"] = lambda peer=peer: peer(normalised)
    times = timed(calls, rounds)
    ratios = {
        precision: times[f"onnxruntime {precision}"]["median_ms"] / times[f"bitskip {precision}"]["median_ms"]
        for precision in ("fp32", "int8")
    }
    return {"network": name, "times": times, "ratio": ratios}


def main() -> None:
    """Time all networks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    rows = [row(name, arguments.rounds) for name in NETWORKS]
    values = {
        "machine": machine(),
        "pixels": SIDE,
        "threads": 1,
        "rounds": arguments.rounds,
        "networks": rows,
    }
    write_json(arguments.out, values)


if __name__ == "__main__":
    main()
