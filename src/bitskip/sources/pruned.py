"""Pruning a loaded model with data: batches, refit without training, and what is left on disk.

A pruned run of bitskip keeps the metadata of its weights, with the spec of what is left, so every command
that takes a run's weights takes it. Where no spec says what is left (shortened shortcuts, other libraries'
networks), the metadata says what was pruned, and `load_model` carries out the plan beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitskip.data import ImageSet
from bitskip.data.batches import Augmentation, Batches, Normalisation, split_validation
from bitskip.errors import DataError, PruningError
from bitskip.files import write_json, write_text
from bitskip.nn import ResNet, follows_its_spec
from bitskip.pruning import (
    Plan,
    Recovery,
    RecoverySettings,
    analyse,
    prune_without_training,
    recover,
    remove_shortcuts,
    save_pruned,
)
from bitskip.pruning.schedule import decayed_groups
from bitskip.sources.load import LoadedModel
from bitskip.training import evaluate


def batches_for(loaded: LoadedModel, images: ImageSet, batch_size: int) -> tuple[Batches, Batches]:
    """Return training batches (random flips and crops) and batches of held-out training pictures.

    They are made on the model's device. Held out are pictures that the model's run held out too, and all are
    normalised as the model expects.

    Raises:
        DataError: if the pictures do not fit the model, or its run held none out.
    """
    if batch_size < 1:
        raise DataError(f"batch size is {batch_size}, expected at least 1")
    if images.image_size != loaded.input_shape[1]:
        raise DataError(
            f"{images.name} has pictures of {images.image_size} pixels, but {loaded.name} takes "
            f"{loaded.input_shape[1]}; choose another --input-size or data set"
        )
    outputs = loaded.model(loaded.example())
    classes = outputs.shape[-1] if hasattr(outputs, "shape") else None
    if classes != images.classes:
        raise DataError(
            f"{images.name} has {images.classes} classes, but {loaded.name} has {classes} outputs; "
            "give a model trained on this data"
        )
    held_out = loaded.held_out_of(images)
    if not held_out:
        raise DataError(
            f"{loaded.name} was trained on every training picture of its data, or there are fewer than ten, "
            "so none is left to judge on; train it with validation_images above 0"
        )
    train, validation = split_validation(images.train_images, images.train_labels, held_out)
    normalisation = loaded.normalisation or Normalisation.of(images.train_images)
    pictures, labels = images.train_images, images.train_labels
    augmented = Augmentation()
    return (
        Batches(pictures[train], labels[train], normalisation, batch_size, augmented, device=loaded.device),
        Batches(pictures[validation], labels[validation], normalisation, batch_size, device=loaded.device),
    )


def prune_loaded(
    loaded: LoadedModel, plan: Plan, sets: tuple[Batches, Batches] | None, max_batches: int = 20
) -> tuple[nn.Module, dict[str, float]]:
    """Carry out a plan; with training and held-out batches also refit, and measure the accuracy of each step.

    Returns the pruned model and accuracies (0..1) on the held-out pictures by step; empty without batches.

    Raises:
        PruningError: if the plan is for another model, or what it leaves could not be loaded again.
    """
    check_source(loaded)
    if sets is None:
        return remove_shortcuts(loaded.model, plan), {}
    plan.check(loaded.model)
    training, held_out = sets
    outcome = prune_without_training(
        loaded.model,
        plan,
        analyse(loaded.model, loaded.example()),
        training,
        lambda network: evaluate(network, held_out)[0],
        max_batches=max_batches,
    )
    return outcome.model, outcome.measures


def recover_loaded(
    loaded: LoadedModel,
    plan: Plan,
    sets: tuple[Batches, Batches],
    settings: RecoverySettings,
    *,
    seed: int = 0,
    folder: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Recovery:
    """Close the plan's gates while training with Adam, and judge on the held-out pictures.

    Args:
        loaded: the trained model.
        plan: of it.
        sets: training and held-out batches, from `batches_for`.
        settings: the schedule; its momentum is not used.
        seed: of order and augmentation.
        folder: where the state is kept, and resumed from.
        on_epoch: called after each epoch with its history entry.

    Raises:
        PruningError: if the plan is for another model, or what it leaves could not be loaded again.
    """
    check_source(loaded)
    training, held_out = sets
    training.seed = seed
    torch.manual_seed(seed)
    return recover(
        loaded.model.to(memory_format=torch.channels_last),
        plan,
        training,
        settings,
        evaluate=lambda network: evaluate(network, held_out)[0],
        optimizer=lambda network: torch.optim.Adam(
            decayed_groups(network.parameters(), settings.weight_decay), settings.learning_rate
        ),
        folder=folder,
        asked={"seed": seed, "batch_size": training.batch_size, "pictures": training.digest()},
        on_epoch=on_epoch,
    )


def check_source(loaded: LoadedModel) -> None:
    """A second plan upon one that no spec describes would have no architecture to start from."""
    if not loaded.source:
        raise PruningError(
            f"{loaded.run} is pruned already, and no spec describes what is left; prune the original by one "
            "plan for all its shortcuts"
        )


def write_pruned(
    folder: Path, loaded: LoadedModel, pruned: nn.Module, plan: Plan, report: dict[str, Any]
) -> None:
    """Write weights, plan and report; if a spec says what is left, that too."""
    metadata: dict[str, str] = {}
    if loaded.run is not None:
        from safetensors import safe_open

        with safe_open(loaded.run, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
    original = metadata.pop("spec", loaded.source)
    metadata.pop("pruned_from", None)
    if isinstance(pruned, ResNet) and follows_its_spec(pruned):
        metadata["spec"] = pruned.spec.to_json()
        write_text(folder / "spec.json", pruned.spec.to_json() + "\n")
    elif original:
        metadata |= {"pruned_from": original, "input_size": str(loaded.input_shape[1])}
        if loaded.classes is not None:
            metadata["classes"] = str(loaded.classes)
    metadata["held_out"] = str(loaded.held_out)
    if loaded.normalisation is not None:
        for name in ("mean", "std"):
            metadata.setdefault(name, ",".join(map(str, getattr(loaded.normalisation, name))))
    save_pruned(folder, pruned, plan, metadata)
    write_json(folder / "report.json", report)
