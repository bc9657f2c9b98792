"""Where a classifier is right and wrong: class by class, as a confusion matrix, and picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.runtime.accuracy import Z_95, Accuracy, Logits

Labels = npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Confusion:
    """How often pictures of each class were taken for each class: `matrix[true, predicted]`, int64."""

    class_names: tuple[str, ...]
    matrix: npt.NDArray[np.int64]

    @classmethod
    def of(cls, logits: Logits, labels: Labels, class_names: Sequence[str]) -> Confusion:
        """Count the answers in `logits` (N, classes) against `labels` (N,)."""
        count = len(class_names)
        cells = np.bincount(labels * count + logits.argmax(axis=1), minlength=count * count)
        return cls(tuple(class_names), cells.reshape(count, count).astype(np.int64))

    def accuracy_of(self, index: int) -> Accuracy | None:
        """Return how often pictures of a class are recognised; None if there are none of it."""
        images = int(self.matrix[index].sum())
        return Accuracy(int(self.matrix[index, index]), images) if images else None

    def taken_for(self, index: int) -> tuple[str, int] | None:
        """Return the wrong class that pictures of a class are taken for most often, and how often."""
        row = self.matrix[index].copy()
        row[index] = 0
        worst = int(row.argmax())
        return (self.class_names[worst], int(row[worst])) if row[worst] else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: `classes` with their figures, `confusion` with a row a true class."""
        classes: list[dict[str, Any]] = []
        for index, name in enumerate(self.class_names):
            found, taken = self.accuracy_of(index), self.taken_for(index)
            classes.append(
                {
                    "class": name,
                    "images": 0 if found is None else found.images,
                    "hits": 0 if found is None else found.hits,
                    "accuracy": None if found is None else found.share,
                    "interval_95": None if found is None else list(found.interval),
                    "taken_for": None if taken is None else {"class": taken[0], "images": taken[1]},
                }
            )
        return {"classes": classes, "confusion": self.matrix.tolist()}


def top_hits(logits: Logits, labels: Labels, k: int) -> int:
    """Return how many pictures have their class among the `k` likeliest; of equal logits the first counts."""
    right = logits[np.arange(len(labels)), labels][:, None]
    before = (logits > right).sum(axis=1)
    before += ((logits == right) & (np.arange(logits.shape[1]) < labels[:, None])).sum(axis=1)
    return int((before < k).sum())


@dataclass(frozen=True)
class Mistake:
    """A picture that was taken for a wrong class."""

    index: int  # of the picture
    label: int
    predicted: int
    probability: float  # that the model gives its wrong answer


def worst_mistakes(logits: Logits, labels: Labels, count: int) -> list[Mistake]:
    """Return the mistakes of which the model is surest, the surest first."""
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    sure = scores.max(axis=1) / scores.sum(axis=1)
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    return [Mistake(int(i), int(labels[i]), int(predicted[i]), float(sure[i])) for i in wrong]


def paired_difference(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Return how much more often `second` is right than `first` on the same pictures, with its 95% interval.

    Agresti and Min 2005: Wald's interval for matched pairs with half a picture added to each of four cells.
    """
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    count = len(first) + 2
    plus, minus = (gained + 0.5) / count, (lost + 0.5) / count
    half = Z_95 * float(np.sqrt((plus + minus - (plus - minus) ** 2) / count))
    centre = plus - minus
    return (gained - lost) / len(first), centre - half, centre + half
