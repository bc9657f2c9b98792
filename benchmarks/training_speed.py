"""How much of a training step goes into loading and augmenting, and how near a run comes to a bare loop.

In one process, alternating and repeated: (1) making an augmented batch, (2) a bare forward-backward-step loop
on one fixed batch, (3) Lightning's training epoch as `bitskip train` runs it. Medians, with the spread. On a
GPU the bare loop is one CUDA graph, and the epoch is a run's third: its first records the graph.

    python benchmarks/training_speed.py resnet14-hybrid-none --width 0.25 -o training_speed.json
    python benchmarks/training_speed.py resnet14-full-all --width 1 --accelerator gpu --batch-size 512
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F

from bitskip.cli.options import gpus_of, read_images, say
from bitskip.data.batches import Augmentation, Batches, Normalisation
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.nn import build
from bitskip.spec import resolve_spec
from bitskip.training import Hardware, load_recipe, train
from bitskip.training.captured import tensor_rates
from bitskip.training.hardware import versions
from bitskip.training.optim import make_optimizers


def measure(
    model: Annotated[str, typer.Argument(help="A named model or a spec file.")] = "resnet14-hybrid-none",
    width: Annotated[float, typer.Option(help="Factor on every width.")] = 0.25,
    steps: Annotated[int, typer.Option(help="Steps a measurement.")] = 40,
    repeats: Annotated[int, typer.Option(help="Measurements of each kind, alternating.")] = 5,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures a step; the recipe's if not given.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    data: Annotated[str | None, typer.Option(help="As for `bitskip train`.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Time augmentation, a bare loop and a real run beside each other."""
    spec = resolve_spec(model).scaled(width)
    gpu = gpus_of(accelerator) > 0
    device = "cuda" if gpu else "cpu"
    changes: dict[str, Any] = {"epochs": 3 if gpu else 1, "validation_images": 0}
    if batch_size is not None:
        changes["batch_size"] = batch_size
    recipe = load_recipe("paper", spec.name, changes)
    images = read_images(data)
    batch = recipe.batch_size
    count = min(steps * batch, len(images.train_images))
    few = dataclasses.replace(
        images, train_images=images.train_images[:count], train_labels=images.train_labels[:count]
    )
    how = recipe.augmentation
    batches = Batches(
        few.train_images,
        few.train_labels,
        Normalisation.of(few.train_images),
        batch,
        Augmentation(how.crop, how.padding, how.flip, how.cutout),
        device=device,
    )
    hardware = Hardware(accelerator, "1")
    precision = hardware.lightning_precision(spec)
    network = build(spec, recipe.dropout).to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(network, recipe)
    pictures, labels = next(iter(batches))

    def step() -> None:
        # Without the cache of cast weights, which a graph would take for constants.
        mixed = precision == "bf16-mixed"
        with torch.autocast(device, torch.bfloat16, enabled=mixed, cache_enabled=not gpu):
            loss = F.cross_entropy(network(pictures).float(), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    run_step = _graph_of(step, optimizers) if gpu else step

    def bare() -> None:
        for _ in range(len(batches)):
            run_step()
        _wait(gpu)

    def loading() -> None:
        for _ in batches:
            pass
        _wait(gpu)

    def lightning() -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = train(spec, recipe, few, Path(folder), hardware=hardware, progress_bar=False)
        return float(result.history[-1]["seconds"])

    seconds: dict[str, list[float]] = {"loading": [], "bare": [], "lightning": []}
    bare()  # warm up
    for repeat in range(repeats):
        seconds["loading"].append(_timed(loading))
        seconds["bare"].append(_timed(bare))
        seconds["lightning"].append(lightning())
        say(f"repeat {repeat + 1}/{repeats}")
    per_step = {name: [1000 * value / len(batches) for value in values] for name, values in seconds.items()}
    result = {
        "benchmark": "training_speed",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "model": spec.name,
        "accelerator": torch.cuda.get_device_name() if gpu else "cpu",
        "arithmetic": str(precision),
        "batch_size": batch,
        "steps": len(batches),
        "repeats": repeats,
        "milliseconds_a_step": {name: _summary(values) for name, values in per_step.items()},
        "images_per_second": {
            name: round(1000 * batch / statistics.median(values), 1) for name, values in per_step.items()
        },
        "loading_share_of_a_step": statistics.median(per_step["loading"])
        / statistics.median(per_step["lightning"]),
        "run_over_bare_loop": statistics.median(
            a / b for a, b in zip(per_step["lightning"], per_step["bare"], strict=True)
        ),
    }
    if out is not None:
        write_json(out, result)
    typer.echo(
        f"{spec.name}, {precision}: bare loop {result['images_per_second']['bare']:,.0f} images/s, "
        f"run {result['images_per_second']['lightning']:,.0f} images/s; "
        f"loading and augmentation {result['loading_share_of_a_step']:.1%} of a step"
    )


def _graph_of(step: Callable[[], None], optimizers: list[torch.optim.Optimizer]) -> Callable[[], None]:
    """Return `step` as one CUDA graph."""
    tensor_rates(optimizers, torch.device("cuda"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def _wait(gpu: bool) -> None:
    if gpu:
        torch.cuda.synchronize()


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


if __name__ == "__main__":
    typer.run(measure)
