"""Recipes on few pictures: the schedule is set by steps, not by epochs.

A recipe's batch and epochs are meant for tens of thousands of pictures. Of 300, a batch of 128 makes two
steps an epoch, and fifteen epochs teach nothing. So batches shrink until an epoch has some steps, the rate
with them (in proportion for SGD, Goyal et al. 2017; by the square root for Adam, Malladi et al. 2022), and
epochs are added until there are enough steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from bitskip.data.batches import held_out_count
from bitskip.training.recipes import Recipe

__all__ = ["MIN_STEPS", "fit_recipe", "steps_of"]

MIN_STEPS = 1000  # of a training, for a network to learn much
_MIN_STEPS_TRAINED = 400  # for one that starts from trained weights
_RATE_TRAINED = 0.2  # of the usual rate, for such a one: it is to keep most of what it knows
_STEPS_AN_EPOCH = 10  # at least, if batches can be made small enough
_SMALLEST_BATCH = 16  # batch norm needs some pictures


def steps_of(recipe: Recipe, images: int) -> int:
    """Return the steps that `recipe` trains for on `images` training pictures, some of them held out."""
    count = images - held_out_count(recipe.validation_images, images)
    return recipe.epochs * max(1, count // recipe.batch_size)


def fit_recipe(
    recipe: Recipe, images: int, fixed: Collection[str] = (), trained: bool = False
) -> tuple[Recipe, str]:
    """Return the recipe for a set of `images` training pictures, and one sentence on what was changed.

    Args:
        recipe: settled for the network.
        images: training pictures, before some are held out.
        fixed: keys that stay as they are, since somebody asked for their values.
        trained: whether training starts from trained weights, which takes fewer and smaller steps.

    Returns:
        The recipe, unchanged with an empty sentence if it does as many steps as are needed.
    """
    least = _MIN_STEPS_TRAINED if trained else MIN_STEPS
    if steps_of(recipe, images) >= least:
        return recipe, ""
    count = images - held_out_count(recipe.validation_images, images)
    changes: dict[str, Any] = {}
    batch = recipe.batch_size
    if "batch_size" not in fixed:
        while batch // 2 >= _SMALLEST_BATCH and count // batch < _STEPS_AN_EPOCH:
            batch //= 2
        if batch != recipe.batch_size:
            changes["batch_size"] = batch
            ratio = batch / recipe.batch_size
            if "learning_rate" not in fixed:
                own = ratio if recipe.optimizer == "sgd" else math.sqrt(ratio)
                changes["learning_rate"] = recipe.learning_rate * own
            if "latent.learning_rate" not in fixed:
                rate = recipe.latent.learning_rate * math.sqrt(ratio)
                changes["latent"] = recipe.latent.model_copy(update={"learning_rate": rate})
    if trained and "learning_rate" not in fixed:
        changes["learning_rate"] = _RATE_TRAINED * changes.get("learning_rate", recipe.learning_rate)
    fitted = recipe.model_copy(update=changes)
    if "epochs" not in fixed:
        steps_an_epoch = steps_of(fitted, images) // fitted.epochs
        epochs = max(fitted.epochs, math.ceil(least / steps_an_epoch))
        fitted = fitted.model_copy(update={"epochs": epochs})
    return fitted, _sentence(recipe, fitted, count, steps_of(fitted, images), least)


def _sentence(recipe: Recipe, fitted: Recipe, count: int, steps: int, least: int) -> str:
    said = f"only {count:,} pictures to train on: {fitted.epochs} epochs of batches of {fitted.batch_size}"
    if fitted.batch_size != recipe.batch_size:
        said += f" (recipe '{recipe.name}': {recipe.batch_size})"
    said += f", {steps:,} steps"
    if steps < least:
        said += f"; {least:,} and more are needed to learn much, so leave out --epochs or raise it"
    return said
