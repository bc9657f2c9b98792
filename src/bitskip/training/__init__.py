"""Training: recipes, the LightningModule, and runs that resume.

What a run left (`bitskip.training.folder`) is read without Lightning, so names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitskip.training.accuracy import evaluate
    from bitskip.training.folder import RunResult, load_run
    from bitskip.training.hardware import Hardware, is_first_process
    from bitskip.training.recipes import Recipe, load_recipe, recipe_names
    from bitskip.training.run import train
    from bitskip.training.start import what_is_kept

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
    "what_is_kept",
]

_PLACES = {
    "Hardware": "hardware",
    "evaluate": "accuracy",
    "is_first_process": "hardware",
    "RunResult": "folder",
    "load_run": "folder",
    "Recipe": "recipes",
    "load_recipe": "recipes",
    "recipe_names": "recipes",
    "train": "run",
    "what_is_kept": "start",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bitskip.training' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"bitskip.training.{_PLACES[name]}"), name)
