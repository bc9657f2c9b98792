"""Shortcuts of a whole detector: found, scored with the detector's own loss, removed, counted.

The backbone with its pyramid is what is analysed; names are the detector's own, so are its plans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bitskip.detection.composites import Target
from bitskip.detection.metrics import average_precision, detect
from bitskip.detection.parts import backbone_of
from bitskip.errors import BitskipError, DataError, PruningError, in_one_line
from bitskip.nn.batch_norm import batch_norms, keeping_statistics, reestimate_batch_norm
from bitskip.pruning import Analysis, Gain, Score, Shortcut, ShortcutGates, analyse, compare
from bitskip.pruning.score import student_t

Batch = tuple[Tensor, Sequence[Target]]


class DetectionBatches(Protocol):
    """What detectors are trained and judged on: `Composites`, `FolderBatches`."""

    device: torch.device

    def batch(self, index: int, count: int) -> tuple[Tensor, list[Target]]:
        """Return pictures float32 (count, 3, S, S) in 0..1 and their targets."""


class BackboneOnly(nn.Module):
    """A detector's backbone under the name that it has there; it takes normalised pictures (N, 3, H, W)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone_of(detector)

    def forward(self, x: Tensor) -> Any:
        """Return the feature maps by name."""
        return self.backbone(x)


def analyse_detector(detector: nn.Module, example: Tensor) -> Analysis:
    """Return the shortcuts of a detector; `example` is a normalised picture (1, 3, H, W).

    Peaks and traffic are those of the backbone with its pyramid.
    """
    return analyse(BackboneOnly(detector), example)


def compare_detectors(
    before: nn.Module, after: nn.Module, example: Tensor, *, timed: bool = False
) -> list[Gain]:
    """Return what changed: parameters of the whole detector, the rest of its backbone with the pyramid."""
    gains = compare(BackboneOnly(before).eval(), BackboneOnly(after).eval(), example, timed=timed)
    whole = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    found = []
    for gain in gains:
        if gain.name == "parameters":
            gain = dataclasses.replace(gain, before=whole[0], after=whole[1], remark="of the whole detector")
        elif gain.unit == "seconds":
            gain = dataclasses.replace(gain, remark=f"backbone and pyramid, {gain.remark}")
        found.append(gain)
    return found


@torch.no_grad()
def own_loss(detector: nn.Module, batch: Batch, seed: int = 0) -> float:
    """Return the sum of a detector's own losses on a batch, with batch norm as in inference.

    The detector draws which proposals it learns from; `seed` makes that draw the same.
    """
    modes = {module: module.training for module in detector.modules()}
    detector.train()
    for norm in batch_norms(detector).values():
        norm.eval()
    pictures, targets = batch
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            losses = detector(list(pictures), [dict(target) for target in targets])
    finally:
        for module, training in modes.items():
            module.training = training
    return float(torch.stack([loss.float() for loss in losses.values()]).sum())


@torch.no_grad()
def score_detector(
    detector: Any,
    shortcuts: Iterable[Shortcut],
    batches: Sequence[Batch],
    *,
    calibration: Sequence[Batch] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, Score]:
    """Score each shortcut of a detector: close it alone, re-estimate batch norm, and judge.

    `loss_change` is of the detector's own loss, `kl` the mean squared change of its maps relative to their
    variance, and `accuracy_change` that of AP50 over all batches.

    Args:
        detector: trained, of torchvision's kinds; left as it is.
        shortcuts: from `analyse_detector`.
        batches: pictures (N, 3, H, W) in 0..1 and targets, to judge on.
        calibration: batches for batch norm; `batches` if None.
        progress: called before each shortcut and at the end with how many are done, of how many, and the id.

    Raises:
        PruningError: if there are no shortcuts or no batches.
        DataError: if a label is beyond the detector's classes.
    """
    wanted = list(shortcuts)
    if not wanted:
        raise PruningError(f"{type(detector).__name__} has no shortcuts to score")
    if not batches:
        raise PruningError("scoring needs at least one batch; got none")
    check_classes(detector, _largest_label(batches))
    check_runs(detector, batches[0])
    gates = ShortcutGates(detector, wanted)
    model: Any = gates.model
    model.eval()
    pictures = [_normalised(model, batch[0]) for batch in (calibration or batches)]
    scores = {}
    with keeping_statistics(model):
        reestimate_batch_norm(BackboneOnly(model), pictures, len(pictures))
        before = _judged(model, batches)
    for done, entry in enumerate(wanted):
        progress(done, len(wanted), entry.id)
        with keeping_statistics(model):
            gates.set(entry.id, 0.0)
            reestimate_batch_norm(BackboneOnly(model), pictures, len(pictures))
            after = _judged(model, batches)
            gates.set(entry.id, 1.0)
        losses = [b - a for a, b in zip(before.losses, after.losses, strict=True)]
        changes = [_distance(a, b) for a, b in zip(before.maps, after.maps, strict=True)]
        scores[entry.id] = Score(
            entry.id,
            *_mean(losses),
            *_mean(changes),
            accuracy_change=after.ap50 - before.ap50,
            accuracy_ci=None,
        )
    progress(len(wanted), len(wanted), "")
    return scores


def check_classes(detector: nn.Module, kinds: int) -> None:
    """Raise DataError if data has more kinds of objects than the detector knows beside the background."""
    classes = classes_of(detector)
    if classes is not None and kinds >= classes:
        raise DataError(
            f"the data has {kinds} kinds of objects, but the detector has {classes} classes with the "
            f"background; build it with --classes {kinds + 1}"
        )


def check_runs(detector: nn.Module, batch: Batch) -> None:
    """Raise PruningError unless the detector finds boxes, any or none, and yields losses on a batch."""
    try:
        detect(detector, [batch])
        own_loss(detector, batch)
    except BitskipError:
        raise
    except Exception as error:  # whatever a detector with parts of the user's own raises
        shape = "x".join(map(str, batch[0].shape[1:]))
        why = in_one_line(error)
        raise PruningError(
            f"{type(detector).__name__} does not run on pictures of {shape} ({why}); make its "
            "parts fit each other"
        ) from None


def classes_of(detector: Any) -> int | None:
    """Return a detector's classes with the background, where its parts say so."""
    predictor = getattr(getattr(detector, "roi_heads", None), "box_predictor", None)
    if predictor is not None and hasattr(predictor, "cls_score"):
        return int(predictor.cls_score.out_features)
    head = getattr(getattr(detector, "head", None), "classification_head", None)
    count = getattr(head, "num_classes", getattr(head, "num_columns", None))
    return None if count is None else int(count)


# -- the pieces -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Judged:
    losses: list[float]
    maps: list[list[Tensor]]
    ap50: float


def _judged(model: Any, batches: Sequence[Batch]) -> _Judged:
    losses = [own_loss(model, batch, seed) for seed, batch in enumerate(batches)]
    maps = []
    for pictures, _ in batches:
        found = backbone_of(model)(_normalised(model, pictures))
        maps.append([found] if isinstance(found, Tensor) else list(found.values()))
    return _Judged(losses, maps, average_precision(*detect(model, batches)).ap50)


def _largest_label(batches: Iterable[Batch]) -> int:
    labels = [target["labels"] for _, targets in batches for target in targets]
    found = [int(each.max()) for each in labels if len(each)]
    if not found:
        raise DataError("no picture has an object to judge on")
    return max(found)


def _normalised(detector: Any, pictures: Tensor) -> Tensor:
    """Return pictures as the detector's backbone gets them."""
    images, _ = detector.transform(list(pictures))
    tensors: Tensor = images.tensors
    return tensors


def _distance(before: list[Tensor], after: list[Tensor]) -> float:
    parts = [
        float((b - a).square().mean() / a.var().clamp_min(1e-12)) for a, b in zip(before, after, strict=True)
    ]
    return sum(parts) / len(parts)


def _mean(values: list[float]) -> tuple[float, float | None]:
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, None
    deviation = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    return mean, student_t(count - 1) * deviation / count**0.5
