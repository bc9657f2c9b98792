"""What a detector costs: its backbone, pyramid and heads apart."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from bitskip.cost import Cost
from bitskip.detection.parts import DenseParts, part_of, region_heads
from bitskip.nn.count import count_module


def count_detector(detector: nn.Module, input_shape: tuple[int, int, int], name: str = "") -> Cost:
    """Return the cost of a detector of torchvision's kinds for one picture.

    Backbone, pyramid and the heads on maps run once a picture. The box head of a two-stage detector runs
    once a proposal, heads for masks and key points once a detected object: their rows hold the MACs of the
    most regions that the detector keeps, and a note says how many each takes. Non-maximum suppression,
    RoIAlign and resizing multiply no weights and are not counted. The peak is that of backbone, pyramid and
    heads on maps.

    Args:
        detector: left as it is; the meta device will do.
        input_shape: (3, H, W) of the picture as the backbone gets it, after the detector's own resizing.
        name: of the detector; that of its class if not given.

    Raises:
        SpecError: if it is not such a detector, or does not run on such a picture.
    """
    title = name or type(detector).__name__
    cost = count_module(DenseParts(detector).eval(), input_shape, title)
    rows, notes = list(cost.layers), list(cost.notes)
    height, width = input_shape[1:]
    notes.append(f"counted for pictures of {height} x {width} pixels after the detector's own resizing")
    for head in region_heads(detector):
        single = count_module(head.module, head.input_shape, title)
        rows += [
            dataclasses.replace(row, macs=None if row.macs is None else row.macs * head.regions)
            for row in single.layers
        ]
        each = "unknown" if single.macs is None else f"{single.macs:,}"
        notes.append(
            f"{head.name}: {each} MACs a {head.unit}, counted for the {head.regions:,} a picture that the "
            "detector keeps at most"
        )
    return dataclasses.replace(cost, layers=tuple(rows), notes=tuple(notes))


def parts_of(cost: Cost) -> dict[str, dict[str, Any]]:
    """Return parameters, bytes and MACs of each part of a detector's cost; None is unknown."""
    found: dict[str, dict[str, Any]] = {}
    for row in cost.layers:
        sums = found.setdefault(part_of(row.name), {"parameters": 0, "weight_bytes": 0, "macs": 0})
        for key, value in (
            ("parameters", row.parameters),
            ("weight_bytes", row.weight_bytes),
            ("macs", row.macs),
        ):
            sums[key] = None if sums[key] is None or value is None else sums[key] + value
    return found
