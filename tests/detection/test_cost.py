"""What detectors cost, part by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from bitskip.detection.cost import count_detector, parts_of
from bitskip.errors import SpecError
from bitskip.sources.load import load_model


def test_faster_rcnn_is_counted_as_torchvision_states_it() -> None:
    """134.38 G for 800 pixels: the figure of torchvision's table of detectors."""
    loaded = load_model("torchvision:fasterrcnn_resnet50_fpn", on_meta=True)
    cost = count_detector(loaded.model, loaded.input_shape)
    assert round((cost.macs or 0) / 1e9, 2) == 134.38
    parts = parts_of(cost)
    proposal = 12544 * 1024 + 1024 * 1024 + 1024 * 91 + 1024 * 4 * 91
    assert parts["heads on proposals"]["macs"] == 1000 * proposal
    assert cost.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert sum(part["parameters"] for part in parts.values()) == cost.parameters
    assert any(f"{proposal:,} MACs a proposal" in note for note in cost.notes)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 64),
        ("retinanet_resnet50_fpn_v2", 64),
        ("fcos_resnet50_fpn", 64),
        ("ssdlite320_mobilenet_v3_large", 320),
        ("maskrcnn_resnet50_fpn", 64),
    ],
)
def test_every_parameter_belongs_to_a_part(name: str, size: int, bitskip: Callable[..., Any]) -> None:
    options = () if size == 320 else ("--input-size", str(size))
    cost = json.loads(bitskip("count", f"torchvision:{name}", *options, "--json").out)
    loaded = load_model(f"torchvision:{name}", on_meta=True)
    assert cost["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert cost["input_shape"] == [3, size, size]
    counted = count_detector(loaded.model, (3, size, size))
    assert "other" not in parts_of(counted)
    assert all(part["macs"] for part in parts_of(counted).values())


def test_a_table_of_parts(bitskip: Callable[..., Any]) -> None:
    out = bitskip("count", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn").out
    for part in ("backbone", "pyramid", "heads on maps", "heads on proposals"):
        assert part in out
    assert "150 a picture" in " ".join(out.split())


def test_other_modules_are_refused() -> None:
    with pytest.raises(SpecError, match="Sequential is not a detector of torchvision's kinds"):
        count_detector(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8))


def test_a_fixed_size(bitskip: Callable[..., Any]) -> None:
    said = bitskip("count", "torchvision:ssdlite320_mobilenet_v3_large", "--input-size", "64")
    assert said.code == 2
    assert "brings every picture to 320 pixels" in said.err
