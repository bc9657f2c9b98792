"""From a finished run's folder to its Program: weights, normalisation and class names in one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from bitskip.data import ImageSet
from bitskip.data.batches import Normalisation
from bitskip.errors import FileFormatError, LoweringError
from bitskip.lower import lower
from bitskip.program import Program
from bitskip.training.run import load_run, weights_file, weights_metadata

__all__ = ["calibration_pictures", "lower_run"]


def calibration_pictures(images: ImageSet, count: int) -> npt.NDArray[np.uint8]:
    """Return `count` training pictures, the same ones each time.

    Raises:
        LoweringError: if `count` is below 1.
    """
    if count < 1:
        raise LoweringError(f"calibration takes at least 1 picture, got {count}")
    order = np.random.default_rng(0).permutation(len(images.train_images))
    return np.ascontiguousarray(images.train_images[order[:count]])


def lower_run(
    run: Path,
    *,
    model: nn.Module | None = None,
    input_shape: tuple[int, int, int] | None = None,
    name: str | None = None,
    activations: str = "fp32",
    dense: str = "fp32",
    calibration: npt.NDArray[np.uint8] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Program:
    """Return the program of a finished run.

    Args:
        run: its folder, or its `weights.safetensors`.
        model: its network, if that has been loaded: a pruned one may be no network of a spec.
        input_shape: see `bitskip.lower.lower`; so are the others.
        name: of the program.
        activations: `fp32` or `int8`.

    Raises:
        RunError: if the folder holds no finished run.
        FileFormatError: if its weights cannot be read.
        LoweringError: if the network cannot run as asked for.
    """
    if model is None:
        _, model = load_run(run)
    metadata = weights_metadata(run)
    known = Normalisation.from_metadata(metadata)
    if known is None:
        raise FileFormatError(f"{weights_file(run)} does not say how its pictures were normalised")
    names = tuple(metadata["class_names"].split("\n")) if metadata.get("class_names") else ()
    return lower(
        model,
        known.mean,
        known.std,
        input_shape=input_shape,
        name=name,
        activations=activations,
        dense=dense,
        calibration=calibration,
        class_names=names,
        progress=progress,
    )
