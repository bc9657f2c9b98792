"""Small networks whose batch norms, thresholds and activations hold nothing trivial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitskip.nn import LearnedThreshold, ResNet, RPReLU, build
from bitskip.spec import NetworkSpec

Module = TypeVar("Module", bound=nn.Module)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def pictures(count: int, spec: NetworkSpec, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pictures (N, H, W, C) for `spec`."""
    return pictures_of((count, spec.input_size, spec.input_size, spec.input_channels), seed)


def pictures_of(shape: tuple[int, int, int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pictures (N, H, W, C), smooth enough to differ from each other."""
    rng = np.random.default_rng(seed)
    count, height, width, channels = shape
    coarse = rng.integers(0, 256, (count, 4, 4, channels))
    fine = coarse.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width]
    return np.clip(fine + rng.normal(0, 20, fine.shape), 0, 255).astype(np.uint8)


def normalised(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return what training would feed: float32 (N, C, H, W)."""
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2).contiguous()


def random_network(spec: NetworkSpec, seed: int = 0) -> ResNet:
    """Build `spec` with random batch norms (statistics measured on pictures), thresholds and RPReLUs."""
    torch.manual_seed(seed)
    model = build(spec)
    return randomised(model, lambda step: normalised(pictures(16, spec, seed=100 + step)))


def randomised(model: Module, batch: Callable[[int], torch.Tensor], *, scales: bool = True) -> Module:
    """Give `model` random batch norms, thresholds and RPReLUs; statistics are those of four batches.

    Without `scales` batch norms keep theirs: in fifty layers random ones would leave nothing of a picture.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            if not scales:
                continue
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            # Some channels are turned over by a negative scale, and one is constant.
            module.weight.data[::3] *= -1
            module.weight.data[-1] = 0
        elif isinstance(module, RPReLU):
            module.shift_in.data.normal_(0, 0.2)
            module.slope.data.uniform_(0.05, 0.5)
            module.shift_out.data.normal_(0, 0.2)
        elif isinstance(module, LearnedThreshold):
            module.threshold.data.normal_(0, 0.2)
    model.train()
    with torch.no_grad():
        for step in range(4):
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.momentum = 1 / (step + 1)
            model(batch(step))
    return model.eval()


@torch.no_grad()
def torch_logits(model: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the float32 logits of torch evaluation."""
    logits: npt.NDArray[np.float32] = model(normalised(images)).numpy()
    return logits
