"""Starting values that a recipe asks for: whitening stem, zero gammas, weights of another run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitskip.data.batches import Augmentation, Batches
from bitskip.data.image_set import are_numbers
from bitskip.errors import RunError
from bitskip.nn.blocks import ResidualBlock
from bitskip.nn.layers import BinaryConv2d
from bitskip.training.module import Splits
from bitskip.training.recipes import Recipe

_WHITENING_IMAGES = 2000
_PATCH_VALUES = 64_000_000  # floats of patches held at a time


def prepare(
    model: nn.Module, recipe: Recipe, splits: Splits, warm_start: dict[str, Tensor] | None = None
) -> None:
    """Set the starting values of `model` in place."""
    if recipe.whitening:
        whiten_stem(_first_convolution(model), splits)
    if recipe.zero_gamma:
        for block in model.modules():
            if isinstance(block, ResidualBlock) and block.shortcut is not None and block.style == "standard":
                last = getattr(block, f"bn{block.depth}")
                nn.init.zeros_(last.weight)
    if warm_start is not None and not warm_start_from(model, warm_start):
        raise RunError(
            "no weight of the run to start from has the name and shape of one of this network's; start from "
            "a run of the same model and width, or leave out the warm start"
        )


def _first_convolution(model: nn.Module) -> nn.Module:
    """Return the convolution that reads the picture: the first, as all networks trained here list them."""
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d | BinaryConv2d))


@torch.no_grad()
def warm_start_from(model: nn.Module, weights: dict[str, Tensor]) -> int:
    """Copy the tensors whose name and shape agree; returns how many weights of layers were among them."""
    own = model.state_dict()
    taken = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(own | taken)
    return sum(value.dim() > 1 for value in taken.values())


def match_classes(
    weights: dict[str, Tensor],
    known: Sequence[str],
    wanted: Sequence[str],
    head: tuple[str, ...] = ("head.",),
) -> dict[str, Tensor]:
    """Return weights whose head counts the classes as `wanted` does.

    Args:
        weights: of a classifier, by name.
        known: the classes of its outputs; empty if nothing says so, then the head is left as it is.
        wanted: the classes of the network to start.
        head: what the names of the head's parameters begin with.

    Returns:
        The weights; rows of the head by class name, or no head where one of the classes is not known.
    """
    if not known or tuple(known) == tuple(wanted) or are_numbers(known) or are_numbers(wanted):
        return weights
    at = {name: index for index, name in enumerate(known)}
    rest = {name: value for name, value in weights.items() if not name.startswith(head)}
    if not set(wanted) <= set(at):
        return rest
    rows = [at[name] for name in wanted]
    # A batch norm's count of batches has no rows.
    return rest | {n: v[rows] if v.dim() else v for n, v in weights.items() if n.startswith(head)}


@torch.no_grad()
def whiten_stem(conv: nn.Module, splits: Splits, eps: float = 1e-2) -> None:
    """Fill the first filters with +/- the whitening of training patches; the rest stay as they are.

    The filters are the eigenvectors of the patches' covariance divided by the square root of their
    eigenvalues. Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.2. Trained on
    like any other weight here.
    """
    if not isinstance(conv, nn.Conv2d):
        return
    pictures, _ = next(
        iter(Batches(*splits.train, splits.normalisation, _WHITENING_IMAGES, Augmentation(0, flip="none")))
    )
    kernel = conv.kernel_size[0]
    size = conv.weight[0].numel()
    total, count = torch.zeros(size, size), 0
    # A few pictures at a time: a patch takes kernel x kernel times the room of its pixel.
    for some in torch.split(pictures, max(1, _PATCH_VALUES // (pictures[0, 0].numel() * size))):
        patches = some.unfold(2, kernel, 1).unfold(3, kernel, 1)  # (N, C, H', W', k, k)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
        total += patches.T @ patches
        count += len(patches)
    values, vectors = torch.linalg.eigh(total / count)
    filters = (vectors / (values + eps).sqrt()).T.flip(0)  # largest eigenvalue first
    both = torch.cat([filters, -filters]).reshape(-1, *conv.weight.shape[1:])
    filled = min(len(both), len(conv.weight))
    conv.weight[:filled] = both[:filled]
