"""Re-estimating batch norm statistics, which no longer hold once a shortcut is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.errors import PruningError


def inputs_of(batch: Any) -> Tensor:
    """Return the pictures of a batch: the batch itself, or its first part."""
    tensor = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(tensor, Tensor):
        raise PruningError(f"a batch must be a tensor or start with one, got {type(tensor).__name__}")
    return tensor


def _is_frozen(module: nn.Module) -> bool:
    """Whether this is torchvision's or timm's FrozenBatchNorm: statistics and weights as buffers."""
    buffers = dict(module.named_buffers(recurse=False))
    return type(module).__name__.startswith("FrozenBatchNorm") and {"running_mean", "weight"} <= set(buffers)


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Return the batch norms with running statistics, frozen ones too, by their paths."""
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None)
        or _is_frozen(module)
    }


@contextmanager
def keeping_statistics(model: nn.Module) -> Iterator[None]:
    """Put the running statistics back as they were at the end."""
    saved = {
        name: {key: value.clone() for key, value in module.named_buffers(recurse=False)}
        for name, module in batch_norms(model).items()
    }
    try:
        yield
    finally:
        found = batch_norms(model)
        for name, buffers in saved.items():
            for key, value in buffers.items():
                getattr(found[name], key).copy_(value)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Any], max_batches: int = 100) -> int:
    """Replace BN's running statistics by plain means over batches; returns how many batches were used.

    Everything but BN stays in evaluation mode, so dropout is off. Frozen batch norms are estimated too, and
    frozen again with the new statistics.

    Args:
        model: changed in place; its modes are kept.
        batches: pictures, or tuples that start with them.
        max_batches: stop after this many.

    Raises:
        PruningError: if there are no batches, or one is too small to have a variance.
    """
    norms = batch_norms(model)
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    stand_ins: dict[str, nn.BatchNorm2d] = {}
    momenta: dict[str, float | None] = {}
    model.eval()
    for name, module in norms.items():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            stand_ins[name] = _thawed(module)
            model.set_submodule(name, stand_ins[name])
        norm: Any = stand_ins.get(name, module)
        momenta[name] = norm.momentum
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    count = 0
    try:
        for batch in islice(batches, max_batches):
            model(inputs_of(batch))
            count += 1
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise PruningError(
            "batch norm statistics need batches of at least 2 examples; got one of 1"
        ) from None
    finally:
        for name, module in norms.items():
            if name in stand_ins:
                for key in ("running_mean", "running_var"):
                    getattr(module, key).copy_(getattr(stand_ins[name], key))
                model.set_submodule(name, module)
            else:
                module.momentum = momenta[name]  # type: ignore[assignment]
        for module, training in modes.items():
            module.training = training
    if count == 0:
        raise PruningError("batch norm statistics need at least one batch; got none")
    return count


def _thawed(frozen: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps).to(frozen.weight)
    norm.weight.copy_(frozen.weight)
    norm.bias.copy_(frozen.bias)
    return norm
