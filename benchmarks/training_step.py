"""A training step without and with the operations of tools/winograd, in turns in one process.

python benchmarks/training_step.py -o benchmarks/results/training_step.json
"""

from __future__ import annotations

import datetime
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F

from bitskip.cli.options import say
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.nn import RPReLU, SignQuantizer, build
from bitskip.spec import named_spec
from bitskip.training import load_recipe
from bitskip.training.hardware import versions
from bitskip.training.optim import make_optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "winograd"))
import convolution
import pointwise

BATCH = 128
CASES = ((1.0, 32), (1.0, 16), (0.25, 32), (0.25, 16))  # factor on every width, pixels
MODELS = ("resnet14-full-all", "resnet14-w1a1")


def measure(
    repeats: Annotated[int, typer.Option(help="Steps of each kind, in turns.")] = 9,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Time steps of training on a fixed batch, in float32."""
    rows = [_compare(model, width, size, repeats) for model in MODELS for width, size in CASES]
    result = {
        "benchmark": "training_step",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "models": MODELS,
        "batch_size": BATCH,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "rows": rows,
    }
    if out is not None:
        write_json(out, result)


def _compare(model: str, width: float, size: int, repeats: int) -> dict[str, Any]:
    spec = named_spec(model).scaled(width)
    recipe = load_recipe("modern", spec)
    network = build(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = make_optimizers(network, recipe)
    pictures = torch.randn(BATCH, spec.input_channels, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(spec.classes, (BATCH,))

    def step() -> float:
        started = time.perf_counter()
        loss = F.cross_entropy(network(pictures), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return 1000 * (time.perf_counter() - started)

    kinds = {
        "torch": (convolution.torch_conv2d, pointwise.bitskip_rprelu, pointwise.bitskip_sign),
        "winograd": (convolution.conv2d, pointwise.rprelu, pointwise.sign),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 1):
        for kind, functions in kinds.items():
            F.conv2d, RPReLU.forward, SignQuantizer.forward = functions
            taken = step()
            if repeat:  # the first warms up
                times[kind].append(taken)
    ratios = [a / b for a, b in zip(times["torch"], times["winograd"], strict=True)]
    say(f"{spec.name}, {size} px: {statistics.median(ratios):.2f} times faster")
    return {
        "model": spec.name,
        "pixels": size,
        "milliseconds_a_step": {
            kind: {
                "median": round(statistics.median(values), 1),
                "least": round(min(values), 1),
                "most": round(max(values), 1),
            }
            for kind, values in times.items()
        },
        "times_faster": {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        },
    }


if __name__ == "__main__":
    typer.run(measure)
