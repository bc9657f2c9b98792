"""How close a training comes to the bare loop of the same step: pictures a second.

    python benchmarks/training_speed.py --accelerator gpu --out benchmarks/results/training_speed.json

`bitskip` is `bitskip.training.train` with the recipe `paper` on random pictures: the fastest epoch after
the first two, with all that an epoch does. `bare` is forward, backward and Adam on one batch, as a CUDA graph
on a GPU and from Python on a CPU: nothing drawn, nothing counted. Both in turns in one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bitskip.data import ImageSet
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.nn import build
from bitskip.spec import named_spec
from bitskip.training import Hardware, load_recipe, train
from bitskip.training.run import versions


def bare(name: str, width: float, batch: int, compiled: bool, gpu: bool, seconds: float = 2.0) -> float:
    """Return pictures a second of the step alone."""
    device = "cuda" if gpu else "cpu"
    net: Any = build(named_spec(name).scaled(width), 0.05).train()
    net.to(device, memory_format=torch.channels_last)
    forward = torch.compile(net, dynamic=False) if compiled else net
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, capturable=gpu, fused=True)
    pictures = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=gpu, cache_enabled=False):
            loss = F.cross_entropy(forward(pictures).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    run = step
    if gpu:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        run = graph.replay
    for _ in range(3):
        run()
    if gpu:
        torch.cuda.synchronize()
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for _ in range(10):
            run()
            done += 1
        if gpu:
            torch.cuda.synchronize()
    return done * batch / (time.monotonic() - began)


def ours(name: str, width: float, images: ImageSet, epochs: int, hardware: Hardware, **changes: Any) -> float:
    """Return pictures a second of the fastest epoch after the first two."""
    spec = named_spec(name)
    recipe = load_recipe("paper", spec, {"epochs": epochs, "validation_images": 0, **changes})
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            spec.scaled(width), recipe, images, Path(folder), hardware=hardware, progress_bar=False
        )
    steps = len(images.train_images) // recipe.batch_size
    return steps * recipe.batch_size / min(entry["seconds"] for entry in result.history[2:])


def main() -> None:
    """Measure and write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--model", default="resnet14-full-all")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--compile", action="store_true", help="measure compiled steps too")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    gpu = asked.accelerator == "gpu"
    if gpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; leave out --accelerator gpu")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (asked.pictures, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 10, asked.pictures)
    images = ImageSet(
        "random", pictures, labels, pictures[:1000], labels[:1000], tuple(map(str, range(10)))
    )
    rows = []
    for compiled in (False, True) if asked.compile else (False,):
        for batch in asked.batches:
            hardware = Hardware(asked.accelerator, "1", compile=compiled)
            row: dict[str, Any] = {"model": asked.model, "width": asked.width}
            row |= {"batch": batch, "compiled": compiled}
            row["bare"] = bare(asked.model, asked.width, batch, compiled, gpu)
            row["bitskip"] = ours(asked.model, asked.width, images, asked.epochs, hardware, batch_size=batch)
            row["share"] = row["bitskip"] / row["bare"]
            print(json.dumps(row), flush=True)  # noqa: T201
            rows.append(row)
    if asked.out:
        device = torch.cuda.get_device_name() if gpu else "cpu"
        values = {"device": device, "machine": machine(), "versions": versions(), "rows": rows}
        write_json(asked.out, values)


if __name__ == "__main__":
    main()
