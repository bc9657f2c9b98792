"""Training: recipes, the LightningModule, and runs that resume."""

from __future__ import annotations

from bitskip.training.recipes import Recipe, load_recipe, recipe_names
from bitskip.training.run import Hardware, RunResult, evaluate, is_first_process, load_run, train

__all__ = [
    "Hardware",
    "Recipe",
    "RunResult",
    "evaluate",
    "is_first_process",
    "load_recipe",
    "load_run",
    "recipe_names",
    "train",
]
