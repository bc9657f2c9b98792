"""The networks that `edge.py` counts on emulated boards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends.c99.cores import CORES
from bitskip.backends.c99.target import choose_placement
from bitskip.errors import LoweringError
from bitskip.program import Program
from bitskip.zoo.catalog import models_folder

RESULTS = Path(__file__).parent.parent / "results" / "edge"
RESNET8 = "mlperf-resnet8"
MOBILENET = "mobilenet-32px"
W1A1 = "resnet14-w1a1-none"


def _zoo(name: str) -> Callable[[], Program]:
    return lambda: Program.load(models_folder() / f"{name}.bitskip")


def lowered(model: Any, shape: tuple[int, int, int], name: str) -> Program:
    """Return `model` packed in int8, calibrated on noise: for counting."""
    from bitskip.lower import lower

    height, width, channels = shape
    pictures = np.random.default_rng(0).integers(0, 256, (64, height, width, channels)).astype(np.uint8)
    options = {"activations": "int8", "dense": "int8", "calibration": pictures, "name": name}
    return lower(
        model, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), input_shape=(channels, height, width), **options
    )


def _untrained_resnet8() -> Program:
    import torch

    from bitskip.nn.baselines import build_baseline

    torch.manual_seed(0)
    return lowered(build_baseline("mlperf-resnet8").eval(), (32, 32, 3), RESNET8)


def _untrained_w1a1() -> Program:
    import torch

    from bitskip.nn import build
    from bitskip.spec import named_spec

    torch.manual_seed(0)
    spec = dataclasses.replace(named_spec("resnet14-binary-none"), name="w1a1-none", precision=("w1a1",) * 3)
    return lowered(build(spec).eval(), (32, 32, 3), spec.name)


def _untrained_mobilenet() -> Program:
    """A MobileNetV1 (Howard et al. 2017) for 32 x 32 pictures, in int8."""
    import torch
    from torch import nn

    def conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    layers, width = conv(3, 16, 3, 1, 1), 16
    for outputs, stride in ((32, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1)):
        layers += conv(width, width, 3, stride, width) + conv(width, outputs, 1, 1, 1)
        width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return lowered(model.eval(), (32, 32, 3), MOBILENET)


NETWORKS: dict[str, Callable[[], Program]] = {
    "edge-m4-w1": _zoo("edge-m4-w1"),
    "edge-m4-int8-first": _zoo("edge-m4-int8-first"),
    "edge-32k": _zoo("edge-32k"),
    "edge-16k": lambda: Program.load(RESULTS / "edge-16k.bitskip"),
    "resnet14-binary-all-x0.25": _zoo("resnet14-binary-all-x0.25-int8"),
    "resnet14-hybrid-all-x0.25": _zoo("resnet14-hybrid-all-x0.25-int8"),
    "resnet14-full-all-x0.25": _zoo("resnet14-full-all-x0.25-int8"),
    W1A1: _untrained_w1a1,
    RESNET8: _untrained_resnet8,
    MOBILENET: _untrained_mobilenet,
}


UNTRAINED = {W1A1, RESNET8, MOBILENET}  # their numbers count, their answers mean nothing


def smallest_arena(program: Program, core: str) -> int:
    """Return the smallest arena that `--arena-bytes` can ask for."""
    try:
        return choose_placement(program, CORES[core], 1)[0].arena_bytes
    except LoweringError as error:
        return int(str(error).split()[-2])
