"""Photographs to paste objects on: those that scikit-image and scikit-learn bring along."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from bitskip.errors import DataError, RunError

Photograph = npt.NDArray[np.uint8]  # (H, W, 3)
Split = Literal["train", "test"]

_SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
_SKLEARN = ("china.jpg", "flower.jpg")
NAMES = tuple(sorted(Path(name).stem for name in (*_SKIMAGE, *_SKLEARN)))
HELD_OUT = ("coffee", "flower", "gravel")  # backgrounds of test pictures alone
_LARGEST = 512  # pixels of the longer side


def load_photographs(split: Split, file: Path | None = None) -> tuple[Photograph, ...]:
    """Return the photographs of a split; no photograph is in both.

    The picture of a cat (`chelsea`) is left out, for nothing would say that it is one.

    Args:
        split: `test` for `HELD_OUT`, `train` for the others.
        file: written by `save_photographs`; None to read them from scikit-image and scikit-learn.

    Raises:
        RunError: if these packages are not installed.
        DataError: if the file or a photograph cannot be read.
    """
    names = [name for name in NAMES if (name in HELD_OUT) == (split == "test")]
    if file is None:
        return tuple(_read(name) for name in names)
    try:
        with np.load(file, allow_pickle=False) as values:
            return tuple(np.asarray(Image.open(io.BytesIO(values[name].tobytes()))) for name in names)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file} is not a file of photographs ({error}); write it anew") from None


def save_photographs(file: Path) -> None:
    """Write all photographs as JPEG into one `.npz`, for machines without scikit-image and scikit-learn."""
    encoded = {}
    for name in NAMES:
        stream = io.BytesIO()
        Image.fromarray(_read(name)).save(stream, "JPEG", quality=92)
        encoded[name] = np.frombuffer(stream.getvalue(), np.uint8)
    np.savez(file, **encoded)  # type: ignore[arg-type]


def _read(name: str) -> Photograph:
    path = _path(name)
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
            picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
            return np.asarray(picture)
    except OSError as error:
        raise DataError(f"cannot read the photograph {path}: {error}") from None


def _path(name: str) -> Path:
    for package, files, folder in (("skimage", _SKIMAGE, "data"), ("sklearn", _SKLEARN, "datasets/images")):
        file = next((entry for entry in files if Path(entry).stem == name), None)
        if file is None:
            continue
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise RunError(
                "the photographs of composites come with scikit-image and scikit-learn, and "
                f"{package} is not installed; pip install 'bitskip[detect]'"
            )
        return Path(found.origin).parent / folder / file
    raise DataError(f"there is no photograph '{name}'; expected one of {', '.join(NAMES)}")
