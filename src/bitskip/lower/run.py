"""From a finished run's folder to its Program: weights, normalisation and class names in one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from bitskip.data import ImageSet
from bitskip.data.batches import Normalisation
from bitskip.errors import DataError, FileFormatError, LoweringError
from bitskip.lower import lower
from bitskip.program import Program
from bitskip.spec import NetworkSpec
from bitskip.training.folder import class_names, load_run, weights_file, weights_metadata


def calibration_pictures(
    images: ImageSet, count: int, trained_on: tuple[str, ...] = ()
) -> npt.NDArray[np.uint8]:
    """Return `count` training pictures, the same ones each time.

    Args:
        images: the data set.
        count: how many; all there are if it has fewer.
        trained_on: names of the classes that the network was trained on; nothing if they are not known.

    Raises:
        LoweringError: if `count` is below 1.
        DataError: if the network was trained on other classes: ranges of other pictures would be wrong.
    """
    if count < 1:
        raise LoweringError(f"calibration takes at least 1 picture, got {count}")
    if trained_on and trained_on != images.class_names:
        raise DataError(
            f"int8 ranges come from pictures as in training, but {images.name} has the classes "
            f"{_some(images.class_names)}, and the run was trained on {_some(trained_on)}; name its data "
            "with --data"
        )
    order = np.random.default_rng(0).permutation(len(images.train_images))
    return np.ascontiguousarray(images.train_images[order[:count]])


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")


def lower_run(
    run: Path,
    *,
    model: nn.Module | None = None,
    input_shape: tuple[int, int, int] | None = None,
    name: str | None = None,
    activations: str = "fp32",
    dense: str = "fp32",
    calibration: npt.NDArray[np.uint8] | None = None,
    shared_scales: bool = False,
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
        network, model = load_run(run)
        if not isinstance(network, NetworkSpec):  # a module that does not say itself what it is
            input_shape = input_shape or (network.input_channels, network.input_size, network.input_size)
            name = name or network.baseline
    metadata = weights_metadata(run)
    known = Normalisation.from_metadata(metadata)
    if known is None:
        raise FileFormatError(f"{weights_file(run)} does not say how its pictures were normalised")
    return lower(
        model,
        known.mean,
        known.std,
        input_shape=input_shape,
        name=name,
        activations=activations,
        dense=dense,
        calibration=calibration,
        shared_scales=shared_scales,
        class_names=class_names(metadata),
        progress=progress,
    )
