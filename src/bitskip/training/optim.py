"""Optimizers by the role of a parameter: latent weights, real weights, and everything without decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.nn import binary_layers
from bitskip.training.recipes import Recipe


class Bop(torch.optim.Optimizer):
    """Binary optimizer: flips a sign when the average gradient agrees with it strongly enough.

    m <- (1 - gamma) m + gamma g; w <- -w where w m > threshold.
    Helwegen et al. 2019, "Latent Weights Do Not Exist". The rate schedule scales gamma.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-4, threshold: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the averages and flip signs."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                    parameter.copy_(torch.where(parameter >= 0, 1.0, -1.0))
                average = state["average"].lerp_(parameter.grad, group["lr"])
                parameter.mul_(torch.where(parameter * average > group["threshold"], -1.0, 1.0))
        return loss


def real_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of real conv and linear layers."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a recipe: one for real parameters and, for 1-bit layers, one for the latents.

    Decay falls on conv and linear weights and, at its own strength, on latent weights; never on BN,
    biases, thresholds or activations. Each group remembers its peak rate under `peak`.
    """
    latents = [layer.weight for layer in binary_layers(model).values()]
    weights = real_weights(model)
    special = {id(p) for p in (*latents, *weights)}
    others = [p for p in model.parameters() if id(p) not in special]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    real: torch.optim.Optimizer
    # On CPUs Adam is a fifteenth of a small network's step parameter by parameter; elsewhere torch chooses.
    fused = True if all(p.device.type == "cpu" for p in model.parameters()) else None
    if recipe.optimizer == "adam":
        real = torch.optim.Adam(groups, lr=recipe.learning_rate, fused=fused)
    else:
        real = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    optimizers: list[torch.optim.Optimizer] = [real]
    if latents and recipe.latent.optimizer == "bop":
        optimizers.append(Bop(latents, recipe.latent.bop_gamma, recipe.latent.bop_threshold))
    elif latents:
        rate, decay = recipe.latent.learning_rate, recipe.latent.weight_decay
        optimizers.append(torch.optim.Adam(latents, rate, weight_decay=decay, fused=fused))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def schedule_factor(recipe: Recipe, progress: float) -> float:
    """Return the rate at `progress` (0..1 of training) as a factor of the peak rate."""
    peak_at = recipe.warmup
    if progress < peak_at:
        return progress / peak_at
    after = (progress - peak_at) / (1 - peak_at) if peak_at < 1 else 0.0
    match recipe.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * after))
        case "linear" | "triangular":
            return 1 - after
        case _:
            return 1.0
