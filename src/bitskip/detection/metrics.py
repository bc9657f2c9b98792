"""Average precision of detectors, by pycocotools: COCO's own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.errors import DataError, RunError

Detections = dict[str, Tensor]  # boxes (K, 4), labels (K,), scores (K,); of targets no scores


@dataclass(frozen=True)
class Precision:
    """COCO's average precisions, shares 0..1, and how many pictures they are of."""

    map: float  # mean over IoU 0.50 to 0.95
    ap50: float  # at IoU 0.50
    ap75: float
    pictures: int
    objects: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-serialisable values."""
        return asdict(self)


@torch.no_grad()
def detect(
    detector: nn.Module, batches: Iterable[tuple[Tensor, Sequence[Detections]]]
) -> tuple[list[Detections], list[Detections]]:
    """Run a detector over batches; returns its detections and the targets, a picture each, on the CPU.

    Args:
        detector: of torchvision's kinds; put in evaluation mode and given its mode back.
        batches: pictures (N, 3, H, W) in 0..1 on the detector's device, and their targets.
    """
    training = detector.training
    detector.eval()
    found: list[Detections] = []
    wanted: list[Detections] = []
    try:
        for pictures, targets in batches:
            outputs = detector(list(pictures))
            for output, target in zip(outputs, targets, strict=True):
                found.append({key: output[key].float().cpu() for key in ("boxes", "scores", "labels")})
                wanted.append({key: target[key].cpu() for key in ("boxes", "labels")})
    finally:
        detector.train(training)
    return found, wanted


def average_precision(found: Sequence[Detections], wanted: Sequence[Detections]) -> Precision:
    """Return the average precisions of detections against targets, picture by picture.

    Raises:
        RunError: if pycocotools is not installed.
        DataError: if there are no pictures, no object in any, or other numbers of pictures.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise RunError("pycocotools is not installed; pip install 'bitskip[detect]'") from None
    if len(found) != len(wanted) or not wanted:
        raise DataError(f"got detections of {len(found)} pictures for targets of {len(wanted)}")
    annotations: list[dict[str, Any]] = [
        {"image_id": at, "category_id": int(label), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for at, target in enumerate(wanted)
        for box, label in zip(_xywh(target["boxes"]), target["labels"].tolist(), strict=True)
    ]
    if not annotations:
        raise DataError("no picture has an object, so there is no precision to measure")
    truth = {
        "info": {},
        "images": [{"id": at} for at in range(len(wanted))],
        "annotations": [entry | {"id": number} for number, entry in enumerate(annotations, 1)],
        "categories": [{"id": label} for label in sorted({int(e["category_id"]) for e in annotations})],
    }
    results = [
        {"image_id": at, "category_id": int(label), "bbox": box, "score": float(score)}
        for at, detections in enumerate(found)
        for box, label, score in zip(
            _xywh(detections["boxes"]),
            detections["labels"].tolist(),
            detections["scores"].tolist(),
            strict=True,
        )
    ]
    stats = [0.0] * 3
    if results:
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO()
            reference.dataset = truth
            reference.createIndex()
            evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        stats = [float(value) for value in evaluation.stats[:3]]
    return Precision(stats[0], stats[1], stats[2], len(wanted), len(annotations))


def _xywh(boxes: Tensor) -> list[list[float]]:
    corners = boxes.reshape(-1, 4).double()
    values: list[list[float]] = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
    return values
