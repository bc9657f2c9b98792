"""Recipes on few pictures: the schedule is set by steps, not by epochs.

A recipe's batch and epochs are meant for tens of thousands of pictures. Of 300, a batch of 128 makes two
steps an epoch, and fifteen epochs teach nothing. So batches shrink until an epoch has some steps, the rate
with them (in proportion for SGD, Goyal et al. 2017; by the square root for Adam, Malladi et al. 2022), and
epochs are added until there are enough steps.

From trained weights fewer and smaller steps are taken, on pictures of full size: large ones make a network
forget what a few hundred pictures cannot teach it again. Where it keeps its head too, since it knows all
classes, there is little left to learn.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from bitskip.data.batches import held_out_count
from bitskip.training.recipes import Recipe

Kept = Literal["fresh", "body", "all"]  # of trained weights: nothing, all but the head, the head too

MIN_STEPS = 1000  # of a training, for a network to learn much
_FEW = {"fresh": MIN_STEPS, "body": 400, "all": 400}  # fewer steps than these: few pictures
_STEPS = {"fresh": MIN_STEPS, "body": 400, "all": 60}  # that are then made
_RATE = {"fresh": 1.0, "body": 0.2, "all": 0.05}  # of the usual rate
_STEPS_AN_EPOCH = 10  # at least, if batches can be made small enough
_SMALLEST_BATCH = 16  # batch norm needs some pictures


def steps_of(recipe: Recipe, images: int) -> int:
    """Return the steps that `recipe` trains for on `images` training pictures, some of them held out."""
    count = images - held_out_count(recipe.validation_images, images)
    return recipe.epochs * max(1, count // recipe.batch_size)


def fit_recipe(
    recipe: Recipe, images: int, fixed: Collection[str] = (), kept: Kept = "fresh"
) -> tuple[Recipe, str]:
    """Return the recipe for a set of `images` training pictures, and one sentence on what was changed.

    Args:
        recipe: settled for the network.
        images: training pictures, before some are held out.
        fixed: keys that stay as they are, since somebody asked for their values.
        kept: what of trained weights training starts from.

    Returns:
        The recipe, unchanged with an empty sentence if it does as many steps as are needed.
    """
    if steps_of(recipe, images) >= _FEW[kept]:
        return recipe, ""
    least = _STEPS[kept]
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
    if kept != "fresh":
        if "learning_rate" not in fixed:
            changes["learning_rate"] = _RATE[kept] * changes.get("learning_rate", recipe.learning_rate)
        if "latent.learning_rate" not in fixed:
            latent = changes.get("latent", recipe.latent)
            rate = _RATE[kept] * latent.learning_rate
            changes["latent"] = latent.model_copy(update={"learning_rate": rate})
        if "resolution" not in fixed:
            changes["resolution"] = ()
    fitted = recipe.model_copy(update=changes)
    if "epochs" not in fixed:
        steps_an_epoch = steps_of(fitted, images) // fitted.epochs
        epochs = math.ceil(least / steps_an_epoch)
        if kept != "all":
            epochs = max(fitted.epochs, epochs)
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
