"""The data that a detector is judged on and trained with: a folder's, or composites where none is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import torch

from bitskip.data import ImageSet
from bitskip.detection.composites import Composites, CompositeSettings
from bitskip.detection.data import DetectionSet, FolderBatches
from bitskip.detection.photographs import load_photographs
from bitskip.errors import DataError

EPOCH = 1000  # composites that are called an epoch, since there is no end of them
Split = Literal["train", "held_out", "test"]


def standard_composites(
    images: ImageSet,
    split: Split,
    size: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    photographs: Path | None = None,
) -> Composites:
    """Return composites of a set of 32-pixel pictures.

    `test` has test pictures on photographs of its own; `held_out` the last tenth of the training pictures on
    the training photographs, which `train` does not see.

    Args:
        images: with pictures of 32 pixels, such as CIFAR-10.
        split: see above.
        size: height = width of a composite, in pixels.
        seed: of what is drawn.
        device: where composites are made.
        photographs: file of `save_photographs`; None to read them from scikit-image and scikit-learn.

    Raises:
        DataError: for pictures of another size, or composites too small for one object.
    """
    if size < 32:
        raise DataError(f"composites of {size} pixels are too small for objects of 32; choose a larger size")
    held_out = len(images.train_images) // 10
    if split == "test":
        objects, labels = images.test_images, images.test_labels
    elif split == "held_out":
        objects, labels = images.train_images[-held_out:], images.train_labels[-held_out:]
    else:
        objects, labels = images.train_images[:-held_out], images.train_labels[:-held_out]
    settings = CompositeSettings(size=size, scale=(1.0, min(4.0, size / 32)))
    backgrounds = load_photographs("test" if split == "test" else "train", photographs)
    return Composites(objects, labels, backgrounds, settings, seed=seed, device=device)


def held_out_of(
    data: DetectionSet, size: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[FolderBatches, FolderBatches]:
    """Split a set into batches to train with and a tenth to judge on, every tenth picture.

    Raises:
        DataError: if there are fewer than ten pictures.
    """
    if len(data.pictures) < 10:
        raise DataError(
            f"{data.name} has {len(data.pictures)} pictures, expected at least 10: a tenth is held out"
        )
    judged = dataclasses.replace(data, pictures=data.pictures[::10])
    rest = tuple(entry for at, entry in enumerate(data.pictures) if at % 10)
    training = dataclasses.replace(data, pictures=rest)
    return (
        FolderBatches(training, size, seed=seed, device=device),
        FolderBatches(judged, size, seed=None, device=device),
    )
