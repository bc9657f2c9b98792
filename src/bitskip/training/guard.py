"""A training that does not train is an error: gradients that do not arrive, losses that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from bitskip.errors import RunError, some_of
from bitskip.nn import BinaryLayer


def check_latent_gradients(layers: Mapping[str, BinaryLayer]) -> None:
    """Check, after a backward pass, that every 1-bit layer that is to learn has a gradient.

    Frozen layers and those whose estimator has no gradient (`none`) are left out, unless they compute with
    their real weights.

    Raises:
        RunError: if a latent weight has no gradient, one that is 0 everywhere, or one that is not finite.
    """
    dead, wild = [], []
    for name, layer in layers.items():
        if layer.frozen or not (layer.weight_quantizer.row.learns or layer.real_weights):
            continue
        grad = layer.weight.grad
        if grad is None or not bool(grad.any()):
            dead.append(name)
        elif not bool(torch.isfinite(grad).all()):
            wild.append(name)
    if dead:
        raise RunError(
            f"the 1-bit weights of {some_of(dead)} get no gradient (torch {torch.__version__}), so they "
            "would never learn; train without --compile, or with another torch, and report this"
        )
    if wild:
        raise RunError(
            f"the gradient of the 1-bit weights of {some_of(wild)} is not finite at the first step; choose a "
            "lower learning rate, or --precision 32-true"
        )


def check_finite(bad_step: int, steps_an_epoch: int, checkpoint: Path) -> None:
    """Check the step at which the loss was first not finite; negative if it always was.

    Raises:
        RunError: names the step, its epoch and the last good checkpoint.
    """
    if bad_step < 0:
        return
    epoch = bad_step // max(1, steps_an_epoch) + 1
    good = f"; the last good checkpoint is {checkpoint}" if checkpoint.is_file() else ""
    raise RunError(
        f"the loss is not finite at step {bad_step} (epoch {epoch}){good}; train with a lower learning rate "
        "(--set learning_rate=...) into another --out, or with --precision 32-true"
    )


def check_weights(model: torch.nn.Module, epoch: int, checkpoint: Path) -> None:
    """Check at the end of an epoch, counted from 1, that every weight is finite; raises RunError."""
    values = [(name, value) for name, value in model.state_dict().items() if value.is_floating_point()]
    sums = torch.stack([value.detach().abs().sum().float() for _, value in values])
    if bool(torch.isfinite(sums).all()):
        return
    names = [name for (name, _), good in zip(values, torch.isfinite(sums).tolist(), strict=True) if not good]
    good = f"; the last good checkpoint is {checkpoint}" if checkpoint.is_file() else ""
    raise RunError(
        f"weights of {some_of(names)} are not finite after epoch {epoch}{good}; train with a lower learning "
        "rate (--set learning_rate=...) into another --out, or with --precision 32-true"
    )
