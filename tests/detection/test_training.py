"""The small detector: trained, made 1-bit, without shortcuts, saved and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitskip.detection.checkpoint import DetectorFile, load_detector, save_detector
from bitskip.detection.composites import Composites, CompositeSettings
from bitskip.detection.metrics import average_precision, detect
from bitskip.detection.networks import binarise, classifier_of, small_faster_rcnn
from bitskip.detection.training import DetectorTraining, recover_detector, train_backbone, train_detector
from bitskip.errors import DataError, FileFormatError, PruningError, RunError, SpecError
from bitskip.nn import binary_layers
from bitskip.pruning import analyse, plan_shortcuts

COLOURS = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)


@pytest.fixture(scope="module")
def data() -> Composites:
    objects = np.broadcast_to(COLOURS[:, None, None], (2, 32, 32, 3))
    photo = np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8)
    settings = CompositeSettings(size=64, objects=(0, 2), scale=(1.0, 1.5))
    return Composites(objects, np.array([0, 1], np.int64), [photo], settings)


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    return small_faster_rcnn(3, 64).eval()


def test_training_lowers_the_loss(data: Composites) -> None:
    torch.manual_seed(0)
    detector = small_faster_rcnn(3, 64)
    entries: list[dict[str, float]] = []
    train_backbone(classifier_of(detector, 2), data, DetectorTraining(2, 4), 32, entries.append)
    train_detector(detector, data, DetectorTraining(6, 4, 5e-4), report=entries.append)
    assert {"step", "loss", "seconds", "accuracy"} == set(entries[0])
    assert {"loss_classifier", "loss_objectness"} <= set(entries[-1])
    assert entries[-1]["loss"] < entries[-2]["loss"]
    assert not detector.training


def test_the_schedule_ends_in_time(data: Composites) -> None:
    detector = small_faster_rcnn(3, 64)
    entries: list[dict[str, float]] = []
    settings = DetectorTraining(10_000, 2, seconds=0.2)
    train_detector(detector, data, settings, report=entries.append)
    assert [entry["step"] for entry in entries] == [0]
    assert (settings.rate(0), settings.rate(0.05), settings.rate(1)) == (0, 1, 0)


def test_training_goes_on_where_it_stopped(data: Composites, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 3:
            raise Stopped

    entries: list[dict[str, float]] = []

    def trained(state: Path, fail: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        detector = small_faster_rcnn(3, 64, width=0.25)
        torch.manual_seed(1)
        entries.clear()
        report = stop if fail else entries.append
        train_detector(detector, data, DetectorTraining(4, 2), report=report, state=state)
        return detector.state_dict()

    whole = trained(tmp_path / "whole")
    last = entries[-1]
    assert last["step"] == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitskip.detection.training.EVERY", 0.0)
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", fail=True)  # three steps are kept, the fourth is lost
    torch.manual_seed(99)
    for kept in ("parts", "whole"):  # one is stopped, the other at its end
        again = trained(tmp_path / kept)
        assert all(torch.equal(again[name], value) for name, value in whole.items())
        assert entries[-1] == last | {"seconds": entries[-1]["seconds"]}  # said again, where nothing was left
    with pytest.raises(RunError, match="the state of another training"):
        train_detector(small_faster_rcnn(3, 64), data, DetectorTraining(4, 2), state=tmp_path / "whole")
    (tmp_path / "whole").write_bytes(b"none")
    with pytest.raises(RunError, match="whole cannot be read"):
        trained(tmp_path / "whole")


def test_hybrid_without_shortcuts(data: Composites, detector: Any, tmp_path: Path) -> None:
    import copy

    hybrid = copy.deepcopy(detector)
    changed = binarise(hybrid, ["layer4"])
    assert changed == [f"backbone.body.layer4.{block}.conv{at}" for block in (0, 1) for at in (1, 2)]
    plan = plan_shortcuts(
        hybrid, analyse(hybrid, torch.zeros(1, 3, 64, 64)), [f"backbone.body.layer{n}.{b}"
        for n in (2, 3) for b in (0, 1)], shorten=False,
    )  # fmt: skip
    before = {key: value.clone() for key, value in hybrid.state_dict().items()}
    entries: list[dict[str, float]] = []
    pruned = recover_detector(
        hybrid, plan, data, DetectorTraining(3, 2), teacher=detector, report=entries.append
    )
    assert "teacher" in entries[-1]
    for key, value in hybrid.state_dict().items():
        torch.testing.assert_close(value, before[key])
    assert len(analyse(pruned, torch.zeros(1, 3, 64, 64)).shortcuts) == 4
    files = save_detector(
        tmp_path, "hybrid", pruned, DetectorFile(3, 64, "resnet18", ("layer4",), plan.to_dict())
    )
    bits = 512 * 256 * 3 * 3 + 3 * 512 * 512 * 3 * 3
    whole = sum(parameter.numel() for parameter in pruned.parameters())
    stored = sum(file.stat().st_size for file in files)
    assert bits // 8 + 2 * (whole - bits) < stored < bits // 8 + 2 * (whole - bits) + 100_000
    again, about = load_detector(files[0])
    assert (about.binary, len(binary_layers(again))) == (("layer4",), 4)
    pictures = data.batch(0, 2)[0]
    with torch.no_grad():
        maps, wanted = again.backbone(pictures), pruned.backbone(pictures)  # type: ignore[operator]
    for name in wanted:
        scale = float(wanted[name].abs().max())
        assert float((maps[name] - wanted[name]).abs().max()) < 0.02 * scale


def test_damaged_files_are_said(detector: Any, tmp_path: Path) -> None:
    files = save_detector(tmp_path, "d", detector, DetectorFile(3, 64))
    assert len(files) == 2
    assert all(file.stat().st_size < 16 * 2**20 for file in files)
    files[1].write_bytes(b"none")
    with pytest.raises(FileFormatError, match=r"d-2.safetensors cannot be read"):
        load_detector(files[0])
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_detector(files[1])


def test_wrong_stages_and_numbers(detector: Any) -> None:
    with pytest.raises(PruningError, match="no part 'layer5', .* did you mean 'layer4'"):
        binarise(detector, ["layer5"])
    with pytest.raises(PruningError, match="'bn1' has no 3x3 convolution"):
        binarise(detector, ["bn1"])
    with pytest.raises(SpecError, match="backbone is 'resnet50'"):
        small_faster_rcnn(3, backbone="resnet50")
    with pytest.raises(SpecError, match="width is 2, expected 1/64 to 1"):
        small_faster_rcnn(3, width=2)
    with pytest.raises(RunError, match="expected at least 1"):
        DetectorTraining(0)


class Cheat(nn.Module):
    """Finds what it is told to find."""

    def __init__(self, answers: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Return the answers for so many pictures."""
        return self.answers[: len(pictures)]


def test_precision_is_cocos(data: Composites) -> None:
    pictures, targets = data.batch(0, 8)
    right = [t | {"scores": torch.ones(len(t["labels"]))} for t in targets]
    found, wanted = detect(Cheat(right), [(pictures, targets)])
    perfect = average_precision(found, wanted)
    assert (perfect.map, perfect.ap50, perfect.pictures) == (1.0, 1.0, 8)
    # Boxes moved by a fifth of their side: IoU 0.8 / 1.2 = 0.67, right at 0.50 to 0.65, 4 of 10 thresholds.
    moved = [
        t
        | {"boxes": t["boxes"] + torch.tensor([1, 0, 1, 0]) * 0.2 * (t["boxes"][:, 2:3] - t["boxes"][:, :1])}
        for t in right
    ]
    shifted = average_precision(moved, wanted)
    assert (shifted.ap50, shifted.ap75) == (1.0, 0.0)
    assert shifted.map == pytest.approx(0.4)
    nothing = [{key: value[:0] for key, value in t.items()} for t in right]
    assert average_precision(nothing, wanted).map == 0
    with pytest.raises(DataError, match="no picture has an object"):
        average_precision(right, nothing)
    with pytest.raises(DataError, match="detections of 1 pictures for targets of 8"):
        average_precision(right[:1], wanted)
