"""The parts of `bitskip shortcuts` that are other for detectors: their data, their loss, their training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.cli.options import read_images, say

if TYPE_CHECKING:
    from torch import nn

    from bitskip.pruning import Analysis, Plan, Score
    from bitskip.sources.load import LoadedModel

_LARGEST_BATCH = 8  # pictures of a detector's size


class DetectorData:
    """Batches to train a detector with, and some to judge it on.

    Args:
        loaded: the detector.
        data: `composites`, or a folder in COCO's or VOC's format; None for composites.
        batch_size: pictures a batch; at most eight, and a line says so.
    """

    def __init__(self, loaded: LoadedModel, data: str | None, batch_size: int) -> None:
        from bitskip.detection.data import load_detection_set
        from bitskip.detection.shortcuts import check_classes
        from bitskip.detection.standard import EPOCH, held_out_of, standard_composites

        size, device = loaded.input_shape[1], loaded.device
        self.batch_size = min(batch_size, _LARGEST_BATCH)
        if self.batch_size < batch_size:
            say(f"note: batches of {self.batch_size} pictures, for they are a detector's")
        if data is None or data == "composites":
            images = read_images(None, 32)
            check_classes(loaded.model, images.classes)
            self.name, self.epoch, self.judged = f"composites of {images.name}", EPOCH, EPOCH
            self.training: Any = standard_composites(images, "train", size, device=device)
            self._held_out: Any = standard_composites(images, "held_out", size, seed=1, device=device)
        else:
            found = load_detection_set(Path(data))
            for note in found.notes:
                say(f"note: {found.name}: {note}")
            check_classes(loaded.model, len(found.class_names))
            self.name = found.name
            self.training, self._held_out = held_out_of(found, size, device=device)
            self.epoch, self.judged = len(self.training), len(self._held_out)

    def held_out(self, batches: int) -> list[Any]:
        """Return at most so many batches to judge on."""
        return self._several(self._held_out, min(batches, -(-self.judged // self.batch_size)))

    def calibration(self, batches: int) -> list[Any]:
        """Return at most so many training batches, for batch norm."""
        return self._several(self.training, min(batches, -(-self.epoch // self.batch_size)))

    def _several(self, source: Any, count: int) -> list[Any]:
        from bitskip.errors import PruningError

        if count < 1:
            raise PruningError(f"the number of batches is {count}, expected at least 1")
        return [source.batch(at, self.batch_size) for at in range(count)]


def analysis_of(loaded: LoadedModel) -> Analysis:
    """Return the shortcuts of a loaded network, a detector or not."""
    if loaded.task == "detection":
        from bitskip.detection.shortcuts import analyse_detector

        return analyse_detector(loaded.model, loaded.example())
    from bitskip.pruning import analyse

    return analyse(loaded.model, loaded.example())


def gains_of(loaded: LoadedModel, after: nn.Module, *, timed: bool = False) -> list[Any]:
    """Return what changed from a loaded network to `after`."""
    if loaded.task == "detection":
        from bitskip.detection.shortcuts import compare_detectors

        return compare_detectors(loaded.model, after, loaded.example(), timed=timed)
    from bitskip.pruning import compare

    return compare(loaded.model, after, loaded.example(), timed=timed)


def score_loaded(
    loaded: LoadedModel,
    data: str | None,
    batches: int,
    batch_size: int,
    out: Path,
    progress: Callable[[int, int, str], None],
) -> dict[str, Score]:
    """Score a detector's shortcuts by its own loss and write the scores."""
    from bitskip.detection.shortcuts import score_detector
    from bitskip.pruning.score import write_scores

    source = DetectorData(loaded, data, batch_size)
    scores = score_detector(
        loaded.model,
        analysis_of(loaded).shortcuts,
        source.held_out(batches),
        calibration=source.calibration(batches),
        progress=progress,
    )
    write_scores(out, loaded.model, scores)
    return scores


def recover_loaded_detector(
    loaded: LoadedModel,
    plan: Plan,
    data: str | None,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    teacher_weight: float,
    mixed: bool,
    folder: Path,
) -> tuple[nn.Module, dict[str, float]]:
    """Train a detector while the plan's shortcuts close; returns it and AP50 on held-out pictures.

    The state is kept in `folder`, and one found there is taken up.
    """
    from bitskip.detection.metrics import average_precision, detect
    from bitskip.detection.shortcuts import check_runs
    from bitskip.detection.training import DetectorTraining, recover_detector
    from bitskip.errors import PruningError
    from bitskip.pruning.recover import STATE_FILE
    from bitskip.sources.pruned import check_source

    check_source(loaded)
    if epochs < 1:
        raise PruningError(f"epochs is {epochs}, expected at least 1")
    source = DetectorData(loaded, data, batch_size)
    judged = source.held_out(16)
    check_runs(loaded.model, judged[0])
    settings = DetectorTraining(
        epochs * -(-source.epoch // source.batch_size),
        source.batch_size,
        learning_rate,
        mixed=mixed,
        teacher_weight=teacher_weight,
    )

    def show(entry: dict[str, float]) -> None:
        say(
            f"  step {entry['step']:.0f}/{settings.steps}, loss {entry['loss']:.3f}, {entry['seconds']:.0f} s"
        )

    before = average_precision(*detect(loaded.model, judged)).ap50
    pruned = recover_detector(
        loaded.model, plan, source.training, settings, report=show, state=folder / STATE_FILE
    )
    after = average_precision(*detect(pruned, judged)).ap50
    return pruned, {"before": before, "pruned": after}
