"""The nine variants as packed files of the zoo, measured again on this machine, beside a study's own runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitskip.errors import DataError
from bitskip.program import Program
from bitskip.results.study import Results
from bitskip.runtime import Model
from bitskip.runtime.accuracy import Accuracy, logits_of
from bitskip.spec import PAPER_VARIANTS
from bitskip.zoo import card_of, model_path, zoo_names

if TYPE_CHECKING:
    import numpy.typing as npt

    from bitskip.data import ImageSet  # reports read results without torch

_IMAGES, _SECONDS = 1000, 3.0  # test pictures at most, and seconds for each network
_TIMED = 20  # pictures, one after the other


@dataclass(frozen=True)
class PackedResult:
    """What a packed network reached on a part of the test set, and what its card says of the whole."""

    name: str  # in the zoo
    model: str
    hits: int  # pictures that were right here
    images: int  # pictures that were tried here
    card_accuracy: float  # on the whole test set
    file_bytes: int
    milliseconds: float  # a picture, pictures one after the other, one thread

    @property
    def here(self) -> Accuracy:
        """Accuracy of the part that was tried."""
        return Accuracy(self.hits, self.images)


def packed_results(results: Results) -> tuple[PackedResult, ...]:
    """Return what `measure_packed` found beside a study's runs; empty if nothing was measured."""
    return results.extra_of("packed", PackedResult)


def measure_packed(
    images: ImageSet, progress: Callable[[str], None] = lambda name: None
) -> tuple[PackedResult, ...]:
    """Classify test pictures, spread evenly over the set, with each full-width variant that the zoo holds.

    Returns:
        One result a network, in the paper's order; none where the classes are not the zoo's.
    """
    cards = {card.model: card for card in map(card_of, zoo_names()) if card.model in PAPER_VARIANTS}
    measured = []
    for name in PAPER_VARIANTS:
        card = cards.get(name)
        if card is None:
            continue
        progress(card.name)
        program = Program.load(model_path(card.name))
        try:
            ours = images.for_classes(program.class_names, program.classes, card.name)
        except DataError:
            return ()
        model = Model(program)  # with one thread: another core may train
        milliseconds = milliseconds_a_picture(model, ours.test_images)
        total = len(ours.test_images)
        count = max(1, min(total, _IMAGES, int(1000 * _SECONDS / milliseconds)))
        chosen = np.arange(count) * total // count
        logits, _ = logits_of(model, ours.test_images[chosen])
        hits = int((logits.argmax(axis=1) == ours.test_labels[chosen]).sum())
        measured.append(
            PackedResult(card.name, name, hits, count, card.test_accuracy, card.file_bytes, milliseconds)
        )
    return tuple(measured)


def milliseconds_a_picture(model: Model, pictures: npt.NDArray[np.uint8]) -> float:
    """Return the median time of single pictures (N, H, W, C), which a busy machine disturbs least."""
    seconds = []
    for picture in pictures[:_TIMED]:
        started = time.perf_counter()
        model.predict(picture[None])
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds), 3)
