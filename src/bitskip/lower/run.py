"""From a finished run's folder to its Program: weights, normalisation and class names in one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from torch import nn

from bitskip.data import ImageSet
from bitskip.errors import FileFormatError, LoweringError
from bitskip.lower import lower
from bitskip.program import Program
from bitskip.training.run import load_run

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
    path = run / "weights.safetensors" if run.is_dir() else run
    with safe_open(path, framework="np") as stream:
        metadata = stream.metadata() or {}
    try:
        mean, std = (tuple(float(v) for v in metadata[key].split(",")) for key in ("mean", "std"))
    except (KeyError, ValueError):
        raise FileFormatError(f"{path} does not say how its pictures were normalised") from None
    names = tuple(metadata["class_names"].split("\n")) if metadata.get("class_names") else ()
    return lower(
        model,
        mean,
        std,
        input_shape=input_shape,
        name=name,
        activations=activations,
        dense=dense,
        calibration=calibration,
        class_names=names,
        progress=progress,
    )
