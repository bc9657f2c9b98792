"""A data set in memory, and fitting its classes to those that a model was trained on."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitskip.errors import DataError, nearest

Pictures = npt.NDArray[np.uint8]  # (N, H, W, C)
Labels = npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class ImageSet:
    """A whole data set in memory.

    `train_images` and `test_images` are uint8 (N, H, W, 3); labels are int64 (N,), indices into
    `class_names`. `name` says which data set it is, for reports.
    """

    name: str
    train_images: Pictures
    train_labels: Labels
    test_images: Pictures
    test_labels: Labels
    class_names: tuple[str, ...]
    test_names: tuple[str, ...] = ()  # the files of the test pictures, where each has its own
    test_rule: str = ""  # how test pictures were chosen among all; empty where they came as such
    source: str | None = None  # what `--data` would find it again by: an absolute path, or `mini`

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height = width of the pictures, in pixels."""
        return int(self.train_images.shape[1])

    def for_classes(
        self,
        known: Sequence[str],
        outputs: int,
        model: str,
        notice: Callable[[str], None] = lambda text: None,
    ) -> ImageSet:
        """Return the set with its labels counted as a model counts its classes, matched by name.

        Args:
            known: the model's class names in the order of its outputs; empty if it has none.
            outputs: how many classes the model has.
            model: what the model is called, for errors.
            notice: called with one sentence where names cannot be compared, or some of them have no pictures.

        Raises:
            DataError: if the set has a class that the model does not know.
        """
        if not known or are_numbers(known) or are_numbers(self.class_names):
            if self.classes != outputs:
                raise DataError(
                    f"{self.name} has {self.classes} classes, but {model} has {outputs}; name the data set "
                    "that it was trained on with --data"
                )
            if tuple(known) != self.class_names:
                unnamed = self.name if known and not are_numbers(known) else model
                notice(f"note: {unnamed} does not name its classes, so they are taken in the order they have")
            return self
        known = [composed(name) for name in known]
        strange = [name for name in self.class_names if name not in known]
        if strange:
            raise DataError(
                f"{self.name} has the class '{strange[0]}', which {model} does not know"
                f"{nearest(strange[0], known)}; it was trained on {some_names(known)}; name the data set "
                "that it was trained on with --data, or the folders as its classes"
            )
        tested = {self.class_names[label] for label in np.unique(self.test_labels)}
        untested = [name for name in known if name not in tested]
        if untested:
            notice(
                f"note: {self.name} has no test pictures of {some_names(untested)}: only {len(tested)} of "
                f"{outputs} classes are tested"
            )
        place = np.array([list(known).index(name) for name in self.class_names])
        return dataclasses.replace(
            self,
            train_labels=place[self.train_labels],
            test_labels=place[self.test_labels],
            class_names=tuple(known),
        )


def composed(name: str) -> str:
    """Return a name with its accents composed: a Mac's disk and Linux write the same name differently."""
    return unicodedata.normalize("NFC", name)


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names are only 0, 1, 2, ...: those of a set or model that has none."""
    return list(names) == [str(number) for number in range(len(names))]


def some_names(names: Sequence[str]) -> str:
    """Return the first names of several, and how many there are."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
