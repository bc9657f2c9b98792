"""COCO- and VOC-format folders, and batches of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitskip.detection.data import FolderBatches, load_coco, load_detection_set, load_voc
from bitskip.detection.standard import held_out_of
from bitskip.errors import DataError

Values = dict[str, Any]


def picture(path: Path, size: tuple[int, int], grey: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def values() -> Values:
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "images": [
            {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 2, "file_name": "b.png", "width": 20, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [-5, 0, 15, 25]},
            {"id": 3, "image_id": 1, "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1},
            {"id": 4, "image_id": 1, "category_id": 3, "bbox": [45, 0, 5, 5]},
        ],
    }


def coco(folder: Path, content: Values | str | None = None) -> Path:
    picture(folder / "val2017" / "a.png", (40, 20))
    picture(folder / "val2017" / "b.png", (20, 30))
    (folder / "annotations").mkdir()
    text = content if isinstance(content, str) else json.dumps(content or values())
    (folder / "annotations" / "instances_val2017.json").write_text(text)
    return folder


def test_coco(tmp_path: Path) -> None:
    data = load_detection_set(coco(tmp_path))
    assert (data.class_names, data.classes) == (("cat", "dog"), 3)
    first, second = data.pictures
    assert first.boxes == ((10, 5, 30, 15), (0, 0, 10, 20))  # cut at the edges
    assert (first.labels, second.boxes) == ((2, 1), ())
    assert data.notes == (
        "1 annotations left out: crowds",
        "1 annotations left out: boxes smaller than a pixel or outside their picture",
        "1 of 2 pictures have no object",
    )


def changed(**changes: Any) -> Values:
    return values() | changes


def annotation(**changes: Any) -> Values:
    return changed(annotations=[{"id": 9, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]} | changes])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [', "instances_val2017.json cannot be read as JSON"),
        ({"images": []}, "is not COCO's format: it lacks or misuses 'categories'"),
        (annotation(image_id=5), "annotation 9 is of picture 5, which the file does not list"),
        (annotation(category_id=1), "annotation 9 is of category 1, which the file does not list"),
        (annotation(bbox=[1, 2, 3]), "annotation 9 is not one"),
        (annotation(bbox=["x", 2, 3, 4]), "annotation 9 is not one"),
        (changed(images=[{"id": 1, "file_name": "no.png"}]), "annotation 2|there is no file 'no.png'"),
        (changed(annotations=[]), "has 2 pictures, but none has an object"),
        (changed(annotations=[], images=[]), "lists no picture"),
    ],
)
def test_broken_coco_is_one_sentence(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        load_coco(coco(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_several_splits_must_be_named(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    (folder / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(DataError, match="has several splits: .* name one by its split"):
        load_coco(folder)
    assert len(load_coco(folder, "val2017").pictures) == 2
    with pytest.raises(DataError, match="has no split 'test'"):
        load_coco(folder, "test")


VOC = """<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size>
<object><name>dog</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object>
</annotation>"""


def voc(folder: Path, text: str = VOC) -> Path:
    for name, content in (("a", text), ("b", "<annotation><filename>b.png</filename></annotation>")):
        picture(folder / "JPEGImages" / f"{name}.png", (40, 20))
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text(content)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    return folder


def test_voc(tmp_path: Path) -> None:
    data = load_detection_set(voc(tmp_path))
    assert data.class_names == ("dog",)
    assert [entry.boxes for entry in data.pictures] == [((10, 5, 30, 15),), ()]
    assert len(load_voc(tmp_path, "train").pictures) == 1
    with pytest.raises(DataError, match="no split 'tran'; its splits are train; did you mean 'train'"):
        load_voc(tmp_path, "tran")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</annotation>", "", "a.xml cannot be read as XML"),
        ("<xmin>11</xmin>", "", "object 'dog' has the box"),
        ("<name>dog</name>", "", "an object has no name"),
        ("a.png", "c.png", "there is no file 'c.png'"),
    ],
)
def test_broken_voc_is_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_voc(voc(tmp_path, VOC.replace(old, new)))


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is neither COCO"):
        load_detection_set(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        load_detection_set(tmp_path / "none")


def test_batches_are_scaled_and_padded(tmp_path: Path) -> None:
    data = load_coco(coco(tmp_path))
    batches = FolderBatches(data, 80, seed=None)
    pictures, targets = batches.batch(0, 2)
    assert pictures.shape == (2, 3, 80, 80)
    torch.testing.assert_close(targets[0]["boxes"][0], torch.tensor([20.0, 10, 60, 30]))
    assert targets[1]["boxes"].shape == (0, 4)
    torch.testing.assert_close(pictures[0, 0, 39, 79], torch.tensor(200 / 255))
    torch.testing.assert_close(pictures[0, 0, 41, 0], torch.tensor(114 / 255))
    with pytest.raises(DataError, match="has 2 pictures, and no batch 1 of 2"):
        batches.batch(1, 2)
    shuffled = FolderBatches(data, 80, seed=1)
    seen = [len(shuffled.batch(at, 1)[1][0]["labels"]) for at in range(4)]
    assert (sorted(seen[:2]), sorted(seen[2:])) == ([0, 2], [0, 2])
    with pytest.raises(DataError, match="expected at least 10"):
        held_out_of(data, 80)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    (folder / "val2017" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"cannot read the picture .*a.png"):
        FolderBatches(load_coco(folder), 80, seed=None).batch(0, 1)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Twenty pictures with one square each, in COCO's format."""
    images, annotations = [], []
    random = np.random.default_rng(0)
    for at in range(20):
        pixels = np.full((64, 64, 3), 90, np.uint8)
        x, y = random.integers(0, 32, 2).tolist()
        pixels[y : y + 32, x : x + 32] = (255, 0, 0) if at % 2 else (0, 0, 255)
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        images.append({"id": at, "file_name": f"{at}.png", "width": 64, "height": 64})
        annotations.append({"id": at, "image_id": at, "category_id": at % 2, "bbox": [x, y, 32, 32]})
    categories = [{"id": 0, "name": "blue"}, {"id": 1, "name": "red"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


NET = """
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock, ResNet

class Wild(nn.Module):
    out_channels = 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else self.conv(-x)

def detector(num_classes=3, head=16):
    body = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1)
    body.conv1.stride = (4, 4)
    backbone = BackboneWithFPN(body, {"layer1": "0", "layer2": "1"}, [64, 128], 16)
    anchors = AnchorGenerator(((16,), (32,), (48,)), ((1.0,),) * 3)
    return FasterRCNN(backbone, min_size=64, max_size=64, rpn_anchor_generator=anchors,
                      box_predictor=FastRCNNPredictor(head, num_classes),
                      box_head=TwoMLPHead(16 * 49, 16), rpn_pre_nms_top_n_test=50, rpn_post_nms_top_n_test=20)

def misfit():
    return detector(head=17)

def wild():
    anchors = AnchorGenerator(((32,),), ((1.0,),))
    return FasterRCNN(Wild(), 3, min_size=64, max_size=64, rpn_anchor_generator=anchors,
                      box_head=TwoMLPHead(8 * 49, 16))
"""


def test_shortcuts_of_a_detector_on_a_folder(
    large: Path, monkeypatch: pytest.MonkeyPatch, bitskip: Callable[..., Any]
) -> None:
    """list, score, plan, prune, recover, and the pruned detector taken again by its folder."""
    monkeypatch.chdir(large)
    (large / "net.py").write_text(NET)
    name = "net.py:detector"
    listed = json.loads(bitskip("shortcuts", "list", name, "--json").out)
    names = ["backbone.body.layer1.0", "backbone.body.layer2.0"]
    assert [entry["id"] for entry in listed["shortcuts"]] == names
    assert {gain["name"]: gain["after"] for gain in listed["without_all"]}["shortcuts"] == 0
    words = ("--data", ".", "--batch-size", "2", "--batches", "2", "--json")
    scored = json.loads(bitskip("shortcuts", "score", name, *words).out)
    assert [entry["id"] for entry in scored] == names
    assert all(entry["loss_ci"] is None for entry in scored)  # two pictures are held out: one batch
    assert all(entry["kl"] > 0 for entry in scored)
    bitskip("shortcuts", "plan", name, "--keep", "1", "--scores", "scores.json")
    pruned = bitskip("shortcuts", "prune", name, "plan.json", "--out", "pruned", "--json")
    assert json.loads(pruned.out)["gains"][0]["after"] == 1
    assert len(json.loads(bitskip("shortcuts", "list", "pruned", "--json").out)["shortcuts"]) == 1
    words = ("--data", ".", "--epochs", "1", "--batch-size", "8", "--out", "recovered", "--json")
    recovered = json.loads(bitskip("shortcuts", "recover", name, "plan.json", *words).out)
    assert set(recovered["held_out_ap50"]) == {"before", "pruned"}
    assert len(json.loads(bitskip("shortcuts", "list", "recovered", "--json").out)["shortcuts"]) == 1
    counted = json.loads(bitskip("count", name, "--json").out)
    assert counted["input_shape"] == [3, 64, 64]
    for words, message in (
        (("score", name, "--classes", "2", "--data", "."), "has 2 kinds of objects, but the detector has 2"),
        (("prune", name, "plan.json", "--out", "x", "--refit"), "--refit is for classifiers"),
        (("recover", name, "plan.json", "--out", "x", "--fade", "0.5"), "leave out --schedule"),
        (("score", name, "--data", "none"), "there is no folder none"),
        (("score", "net.py:misfit", "--data", "."), "FasterRCNN does not run on pictures of 3x64x64"),
        (("list", "net.py:wild"), "torch.fx can trace neither"),
        (("plan", name, "--keep", "backbone.body.layer3.0"), "no shortcut 'backbone.body.layer3.0'"),
    ):
        refused = bitskip("shortcuts", *words)
        assert refused.code == 2, words
        assert message in " ".join(refused.err.split())
