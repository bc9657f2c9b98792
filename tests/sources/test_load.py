"""Networks of libraries and of users' own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitskip.errors import BitskipError, RunError
from bitskip.sources.cost import cost_of_source
from bitskip.sources.load import IMAGENET, load_model, load_trained

NET = """
from torch import nn
from beside import WIDTH

class Net(nn.Sequential):
    input_size = 12

    def __init__(self, num_classes=5):
        super().__init__(nn.Conv2d(1, WIDTH, 3), nn.Flatten(), nn.Linear(WIDTH * 100, num_classes))

def sizeless():
    return nn.Conv2d(3, 4, 3)

def broken():
    raise ValueError("no such thing")

number = 3
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "beside.py").write_text("WIDTH = 2\n")
    return str(tmp_path / "net.py")


def test_a_python_file(net: str) -> None:
    loaded = load_model(f"{net}:Net")
    assert loaded.input_shape == (1, 12, 12)
    assert loaded.model(loaded.example()).shape == (1, 5)
    assert load_model(f"{net}:Net", classes=3).model(loaded.example()).shape == (1, 3)
    assert (loaded.short_name, loaded.from_library) == ("Net", True)
    cost = cost_of_source(f"{net}:Net")
    assert cost.macs == 10 * 10 * 2 * 3 * 3 + 200 * 5
    assert load_model(f"{net}:sizeless", input_size=8).input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Nt", {}, "does not define 'Nt'; did you mean 'Net'"),
        ("sizeless", {}, "give --input-size"),
        ("sizeless", {"classes": 3}, "takes no argument num_classes"),
        ("broken", {}, "failed: ValueError: no such thing"),
        ("number", {}, "is a int, expected a callable"),
    ],
)
def test_bad_python_files(net: str, name: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(BitskipError, match=said):
        load_model(f"{net}:{name}", **options)  # type: ignore[arg-type]


def test_a_file_that_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(BitskipError, match="bad.py failed: ModuleNotFoundError"):
        load_model(f"{tmp_path / 'bad.py'}:Net")


def test_classes_come_from_the_weights(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.save({"state_dict": resnet18(num_classes=3).state_dict()}, tmp_path / "w.pt")
    loaded = load_trained("torchvision:resnet18", weights=tmp_path / "w.pt", input_size=32)
    assert loaded.model(loaded.example()).shape == (1, 3)
    assert (loaded.classes, loaded.trained) == (3, True)
    assert loaded.notes == ("w.pt: taken from 'state_dict'", "w.pt has weights for 3 classes")
    with pytest.raises(BitskipError, match="'fc.weight' is .3, 512., expected .4, 512."):
        load_model("torchvision:resnet18", weights=tmp_path / "w.pt", classes=4)


def test_classes_of_a_detector_come_from_the_weights(tmp_path: Path) -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as build

    state = build(weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.save(state, tmp_path / "w.pt")
    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    loaded = load_model(name, weights=tmp_path / "w.pt")
    assert (loaded.task, loaded.classes) == ("detection", 4)
    assert loaded.input_shape == (3, 320, 320)


def test_timm_gives_its_own_settings() -> None:
    inception = load_model("timm:inception_v3")
    assert inception.input_shape == (3, 299, 299)
    assert inception.normalisation is not None
    assert inception.normalisation.mean == (0.5, 0.5, 0.5)
    assert inception.notes == (
        "timm's own settings: pictures of 299 pixels, mean 0.5,0.5,0.5, std 0.5,0.5,0.5",
    )
    resnet = load_model("timm:resnet18", classes=3, input_size=32)
    assert resnet.normalisation == IMAGENET
    assert resnet.model(resnet.example()).shape == (1, 3)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("timm:resnet18.none", "timm knows no weights 'resnet18.none'"),
        ("torchvision:resnet18_v2", "unknown torchvision model"),
        ("torchvision:ssdlite320_mobilenet_v3", "did you mean 'ssdlite320_mobilenet_v3_large'"),
    ],
)
def test_unknown_names(source: str, said: str) -> None:
    with pytest.raises(BitskipError, match=said):
        load_model(source)


def test_segmentation_has_one_output() -> None:
    loaded = load_model("torchvision:lraspp_mobilenet_v3_large", classes=2, input_size=64)
    assert loaded.task == "segmentation"
    assert loaded.model(loaded.example()).shape == (1, 2, 64, 64)


def test_random_weights_are_refused_where_trained_ones_are_needed() -> None:
    with pytest.raises(RunError, match="has random weights"):
        load_trained("torchvision:resnet18")
