"""How often a packed model is right, with the interval that the number of pictures allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.runtime.model import Model

TTA = ("none", "flip")  # test-time augmentation: none, or the mean over a picture and its mirror image

_BATCH = 64
Z_95 = 1.959963984540054  # 97.5% point of the normal distribution

Logits = npt.NDArray[np.float32]  # (N, classes)


@dataclass(frozen=True)
class Accuracy:
    """`hits` of `images` pictures, and the 95% Wilson interval of the share."""

    hits: int
    images: int

    @property
    def share(self) -> float:
        """Accuracy, 0..1."""
        return self.hits / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson_interval(self.hits, self.images)

    def to_dict(self, kind: str) -> dict[str, Any]:
        """Return the figures as JSON values, with the kind of test-time augmentation they hold for."""
        return {
            "kind": kind,
            "accuracy": self.share,
            "interval_95": list(self.interval),
            "hits": self.hits,
            "images": self.images,
        }


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95% score interval of a share (Wilson 1927), within 0..1."""
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"{hits} of {count} is not a share")
    share, z2 = hits / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def logits_of(
    model: Model,
    images: npt.NDArray[np.uint8],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    flip: bool = False,
) -> tuple[Logits, Logits]:
    """Return the logits of uint8 pictures (N, H, W, C), and, if `flip`, with their mirror images' added."""
    parts: list[Logits] = []
    mirrored: list[Logits] = []
    for at in range(0, len(images), _BATCH):
        pictures = images[at : at + _BATCH]
        parts.append(model.predict(pictures))
        if flip:
            mirrored.append(parts[-1] + model.predict(pictures[:, :, ::-1]))
        progress(min(at + _BATCH, len(images)), len(images))
    plain = np.concatenate(parts)
    return plain, np.concatenate(mirrored) if flip else plain


def measure(
    model: Model,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracy:
    """Return the accuracy of `model` on uint8 pictures (N, H, W, C) with int64 labels (N,), N > 0."""
    return _measure(model, images, labels, progress, flip=False)[0]


def measure_with_flip(
    model: Model,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Accuracy, Accuracy]:
    """Return the accuracy without and with test-time augmentation; arguments as in `measure`.

    With it, a picture's logits are the mean of its own and those of its left-right mirror image. It doubles
    the time of a prediction and is no property of the file, so it never stands in for the first figure.
    """
    return _measure(model, images, labels, progress, flip=True)


def _measure(
    model: Model,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None],
    flip: bool,
) -> tuple[Accuracy, Accuracy]:
    """Return the accuracy without augmentation and, if `flip`, with it (else the same again)."""
    both = logits_of(model, images, progress, flip=flip)
    plain, augmented = (int((logits.argmax(axis=1) == labels).sum()) for logits in both)
    return Accuracy(plain, len(images)), Accuracy(augmented, len(images))
