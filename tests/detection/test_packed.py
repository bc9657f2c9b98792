"""Detectors whose backbone runs natively, and how far they agree with their own torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitskip.detection import attach, pack_backbone
from bitskip.detection.agreement import agreement, iou
from bitskip.detection.metrics import average_precision
from bitskip.detection.networks import binarise, small_faster_rcnn
from bitskip.detection.packed import calibration_of
from bitskip.errors import DataError, LoweringError, SpecError
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


class OwnBackbone(torch.nn.Module):
    """A backbone of a user's own: one map, as it is, in a list, in grey, or by way of its values."""

    out_channels = 8

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, torch.nn.Conv2d(1 if kind == "grey" else 3, 8, 3, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x).relu()
        if self.kind == "values" and y.sum() < 0:
            return -y
        return [y] if self.kind == "list" else y


def own_detector(kind: str) -> Any:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    return FasterRCNN(
        OwnBackbone(kind),
        3,
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
    ).eval()


def test_a_backbone_of_ones_own() -> None:
    detector = own_detector("map")
    program = pack_backbone(detector, SIZE)
    assert [output.name for output in program.outputs] == ["P2"]
    x = detector.transform(pictures())[0].tensors
    with torch.no_grad():
        maps = attach(detector, program).backbone(x)
        assert list(maps) == ["0"]
        torch.testing.assert_close(maps["0"], detector.backbone(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("list", "OwnBackbone gives a list; expected a map"),
        ("grey", r"OwnBackbone does not take pictures \(1, 3, 64, 64\): .* to have 1 channels"),
        ("values", "OwnBackbone cannot be packed: torch.fx cannot trace its forward"),
    ],
)
def test_a_backbone_that_cannot_be_packed_is_named(kind: str, said: str) -> None:
    with pytest.raises((SpecError, LoweringError), match=said):
        pack_backbone(own_detector(kind), SIZE)


def test_a_picture_without_objects(detector: Any) -> None:
    """A detector that finds nothing gives empty boxes, which are all found again."""
    attached = attach(detector, pack_backbone(detector, SIZE))
    modes = detector.roi_heads.score_thresh
    detector.roi_heads.score_thresh = 1.0
    try:
        found = attached([torch.zeros(3, SIZE, SIZE)])
    finally:
        detector.roi_heads.score_thresh = modes
    assert found[0]["boxes"].shape == (0, 4)
    assert agreement(found, found).to_dict() == {
        "boxes": 0, "found": 0, "mean_iou": 0.0, "score": 0.5, "recall": 1.0
    }  # fmt: skip
    with pytest.raises(DataError, match="no picture has an object"):
        average_precision(found, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}])


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
