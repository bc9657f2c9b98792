"""Detectors whose backbone runs natively, and how far they agree with their own torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitskip.detection import attach, pack_backbone
from bitskip.detection.agreement import agreement, iou
from bitskip.detection.networks import binarise, small_faster_rcnn
from bitskip.detection.packed import calibration_of
from bitskip.errors import DataError, SpecError
from bitskip.sources.load import load_model

SIZE = 64


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    made = small_faster_rcnn(3, SIZE)
    with torch.no_grad():
        made.backbone(torch.randn(4, 3, SIZE, SIZE))
    binarise(made, ["layer4"])
    return made.eval()


def pictures(count: int = 2, height: int = SIZE) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, height, SIZE), generator=generator) / 255 for _ in range(count)]


@pytest.mark.parametrize(
    ("part", "names"), [("backbone", "P2 P3 P4 P5 P6"), ("backbone.body", "C2 C3 C4 C5")]
)
def test_boxes_are_those_of_torch(detector: Any, part: str, names: str, tmp_path: Path) -> None:
    program = pack_backbone(detector, SIZE, part=part)
    assert [output.name for output in program.outputs] == names.split()
    program.save(tmp_path / "b.bitskip")
    before = {name: id(module) for name, module in detector.named_modules()}
    attached = attach(detector, tmp_path / "b.bitskip")
    assert before == {name: id(module) for name, module in detector.named_modules()}
    with torch.no_grad():
        expected, found = detector(pictures()), attached(pictures())
    for wanted, got in zip(expected, found, strict=True):
        assert len(wanted["boxes"]) > 0
        shared = agreement([wanted], [got], 0.0)
        assert shared.recall > 0.95  # of boxes of almost one score, other ones may be left out
        assert shared.mean_iou > 0.99


def test_int8(detector: Any) -> None:
    calibration = calibration_of(torch.stack(pictures(4)))
    program = pack_backbone(detector, SIZE, activations="int8", dense="int8", calibration=calibration)
    attached = attach(detector, program)
    x = detector.transform(pictures())[0].tensors
    with torch.no_grad():
        wanted, got = detector.backbone(x), attached.backbone(x)
    assert list(wanted) == list(got)
    for name in wanted:
        error = float((wanted[name] - got[name]).abs().max() / wanted[name].abs().max())
        assert 0 < error < 0.2


def test_pictures_that_are_not_square_are_padded(detector: Any) -> None:
    attached = attach(detector, pack_backbone(detector, SIZE))
    with torch.no_grad():
        found = attached(pictures(1, height=40))[0]
    assert float(found["boxes"][:, 3].max()) <= 40


def test_what_does_not_fit_is_said(detector: Any) -> None:
    program = pack_backbone(detector, SIZE)
    other = load_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", input_size=SIZE).model
    with pytest.raises(SpecError, match="FasterRCNN.backbone gives .*, but the detector's backbone gives"):
        attach(other, program)
    with pytest.raises(SpecError, match="has no part 'backbone.neck'"):
        pack_backbone(detector, SIZE, part="backbone.neck")
    with pytest.raises(SpecError, match="is not a detector of torchvision's kinds"):
        attach(torch.nn.Conv2d(3, 4, 1), program)
    with pytest.raises(SpecError, match="cannot be trained; train the original"):
        attach(detector, program).train()(
            pictures(), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 2
        )


def test_agreement_counts_each_box_once() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert float(iou(box, torch.tensor([[5.0, 0, 15, 10]]))) == pytest.approx(50 / 150)
    one = {"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    two = {key: torch.cat([value, value]) for key, value in one.items()}
    other = one | {"labels": torch.tensor([2])}
    low = one | {"scores": torch.tensor([0.4])}
    assert (agreement([two], [one]).boxes, agreement([two], [one]).found) == (2, 1)
    assert agreement([one], [two]).to_dict()["recall"] == 1
    assert agreement([one], [other]).found == 0
    assert (agreement([low], [one]).boxes, agreement([one], [low]).found) == (0, 1)
    with pytest.raises(DataError, match="of 1 and of 2 pictures"):
        agreement([one], [one, one])
