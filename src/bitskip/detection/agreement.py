"""How far two detectors agree: the boxes of one, found again by the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bitskip.detection.metrics import Detections
from bitskip.errors import DataError


@dataclass(frozen=True)
class Agreement:
    """Boxes of a reference that another detector finds again: of the same class, at IoU 0.5 or above."""

    boxes: int  # of the reference, with a score of at least `score`
    found: int
    mean_iou: float  # of those found
    score: float

    @property
    def recall(self) -> float:
        """Share of the reference's boxes that are found, 0..1; 1 if it has none."""
        return self.found / self.boxes if self.boxes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-serialisable values."""
        return asdict(self) | {"recall": self.recall}


def agreement(reference: Sequence[Detections], other: Sequence[Detections], score: float = 0.5) -> Agreement:
    """Compare the detections of two detectors on the same pictures.

    Boxes of the reference take turns, highest score first; each takes the box of the other detector that
    overlaps it most, has its class and has not been taken.

    Args:
        reference: boxes (K, 4), labels (K,) and scores (K,), a picture each.
        other: likewise; all its boxes count.
        score: boxes of the reference with a lower score are left out.

    Raises:
        DataError: for other numbers of pictures.
    """
    if len(reference) != len(other):
        raise DataError(f"got detections of {len(reference)} and of {len(other)} pictures")
    boxes, overlaps = 0, []
    for wanted, found in zip(reference, other, strict=True):
        kept = wanted["scores"] >= score
        order = wanted["scores"][kept].argsort(descending=True)
        own, labels = wanted["boxes"][kept][order], wanted["labels"][kept][order]
        boxes += len(own)
        table = iou(own, found["boxes"]) * (labels[:, None] == found["labels"][None])
        for row in range(len(own)):
            if table.shape[1] == 0:
                break
            best = int(table[row].argmax())
            overlap = float(table[row, best])
            if overlap >= 0.5:
                overlaps.append(overlap)
                table[:, best] = 0
    return Agreement(boxes, len(overlaps), sum(overlaps) / len(overlaps) if overlaps else 0.0, score)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of boxes (N, 4) and (M, 4), both x1, y1, x2, y2: (N, M)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp_min(1e-9)
