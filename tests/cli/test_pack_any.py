"""pack and what follows it for networks that no spec describes."""

from __future__ import annotations

import dataclasses
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bitskip.errors import FileFormatError
from bitskip.nn import build
from bitskip.program import Program
from bitskip.pruning import Plan, analyse, plan_shortcuts, remove_shortcuts
from bitskip.runtime import load
from bitskip.sources.load import load_model
from bitskip.spec import named_spec
from bitskip.training import load_run

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no pictures are at hand `pack` keeps fp32, which is what is compared here."""
    monkeypatch.delenv("BITSKIP_DATA", raising=False)


def normalised(images: np.ndarray, mean: float, std: float) -> torch.Tensor:
    return ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("library") / "resnet18.safetensors"
    save_file(resnet18(weights=None).state_dict(), path)
    return path


def test_a_library_model_from_weights_to_classes(weights: Path, tmp_path: Path, bitskip: Command) -> None:
    """Packed, inspected, run and timed as networks with a spec are."""
    out = tmp_path / "m.bitskip"
    words = ("--weights", str(weights), "--input-size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    packed = json.loads(bitskip("pack", "torchvision:resnet18", *words, "-o", str(out), "--json").out)
    assert (packed["name"], packed["input_shape"], packed["classes"]) == ("resnet18", [32, 32, 3], 1000)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    model = load_model("torchvision:resnet18", weights=weights).model
    with torch.no_grad():
        expected = model(normalised(images, 0.5, 0.2)).numpy()
    np.testing.assert_allclose(load(out).predict(images), expected, atol=1e-4 * np.abs(expected).max())
    table = bitskip("inspect", str(out)).out
    assert "layer4.1.conv2" in table
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    ran = json.loads(bitskip("run", str(out), str(tmp_path / "0.png"), "--json").out)
    assert ran["results"][0]["top"][0]["index"] == int(expected[0].argmax())
    assert json.loads(bitskip("bench", str(out), "--seconds", "0.01", "--json").out)
    refused = bitskip("eval", str(out), "--data", "mini")
    assert "has 10 classes, but" in refused.err


def test_library_models_are_normalised_as_imagenet_unless_told(
    weights: Path, tmp_path: Path, bitskip: Command
) -> None:
    out = tmp_path / "m.bitskip"
    bitskip("pack", "torchvision:resnet18", "--weights", str(weights), "--input-size", "32", "-o", str(out))
    program = Program.load(out)
    assert (program.mean, program.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_run(folder: Path) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    spec = named_spec("resnet14-hybrid-all-x0.125")
    model = build(spec)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 32, 32))
    metadata = {"spec": spec.to_json(), "mean": "0.5,0.5,0.5", "std": "0.2,0.2,0.2"}
    save_file(model.state_dict(), folder / "weights.safetensors", metadata)
    return folder


def test_a_run_with_shortened_shortcuts(tmp_path: Path, bitskip: Command) -> None:
    """No spec says what it is, so it must not load as the network that its weights would fit as well."""
    run = write_run(tmp_path / "run")
    _, model = load_run(run)
    plan = plan_shortcuts(model, analyse(model, torch.randn(2, 3, 32, 32)), keep="none")
    entries = tuple(dataclasses.replace(entry, action="shorten") for entry in plan.shortcuts)
    dataclasses.replace(plan, shortcuts=entries).save(tmp_path / "plan.json")
    bitskip("shortcuts", "prune", str(run), str(tmp_path / "plan.json"), "--out", str(tmp_path / "pruned"))
    pruned = remove_shortcuts(model, Plan.load(tmp_path / "plan.json")).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with torch.no_grad():
        before, expected = (m(normalised(images, 0.5, 0.2)).numpy() for m in (model, pruned))
    assert np.abs(before - expected).max() > 0.01
    out = tmp_path / "m.bitskip"
    bitskip("pack", str(tmp_path / "pruned"), "-o", str(out), "--json")
    program = Program.load(out)
    assert (program.name, program.spec) == ("resnet14-hybrid-all-x0.125-pruned", None)
    np.testing.assert_allclose(load(out).predict(images), expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(FileFormatError, match="holds a pruned network that no spec describes"):
        load_run(tmp_path / "pruned")
    again = str(tmp_path / "again.json")
    bitskip("shortcuts", "plan", str(tmp_path / "pruned"), "--keep", "all", "--out", again)
    refused = bitskip("shortcuts", "prune", str(tmp_path / "pruned"), again, "--out", str(tmp_path / "twice"))
    assert refused.code != 0
    assert "is pruned already" in refused.err
    assert not (tmp_path / "twice").exists()


def test_a_pruned_library_model(weights: Path, tmp_path: Path, bitskip: Command) -> None:
    name, plan, folder = "torchvision:resnet18", str(tmp_path / "plan.json"), str(tmp_path / "pruned")
    words = ("--input-size", "32", "--json")
    bitskip("shortcuts", "plan", name, "--keep", "none", "--out", plan, *words)
    bitskip("shortcuts", "prune", name, plan, "--out", folder, "--weights", str(weights), *words)
    out = tmp_path / "m.bitskip"
    bitskip("pack", folder, "-o", str(out), "--json")
    program = Program.load(out)
    assert (program.name, program.input_shape) == ("resnet18-pruned", (32, 32, 3))
    pruned = remove_shortcuts(load_model(name, weights=weights).model, Plan.load(Path(plan)))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = pruned((normalised(images, 0, 1) - torch.tensor(program.mean).view(3, 1, 1))
                          / torch.tensor(program.std).view(3, 1, 1)).numpy()  # fmt: skip
    np.testing.assert_allclose(load(out).predict(images), expected, atol=1e-4 * np.abs(expected).max())


def test_what_cannot_be_packed_is_said(tmp_path: Path, bitskip: Command) -> None:
    run = write_run(tmp_path / "run")
    said = {
        ("torchvision:resnet18",): "has random weights; name the trained ones with --weights",
        ("resnet14-full-none",): "there is no run 'resnet14-full-none'",
        (str(run), "--mean", "0,0,0"): "--mean and --std go with torchvision: and timm: models",
        (str(run), "--input-size", "64"): "is a network for (3, 32, 32); leave it out",
    }
    for words, message in said.items():
        ran = bitskip("pack", *words, "-o", str(tmp_path / "m.bitskip"))
        assert ran.code != 0
        assert message in " ".join(ran.err.split()), words
    assert not (tmp_path / "m.bitskip").exists()


def test_the_example_runs(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    path = ROOT / "examples" / "pack_torchvision.py"
    assert len(path.read_text().splitlines()) < 20
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
    assert " engine: [" in capsys.readouterr().out


DETECTOR = """
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

def detector():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    backbone.out_channels = 8
    pooler = torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2)
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return FasterRCNN(backbone, num_classes=2, rpn_anchor_generator=anchors, box_roi_pool=pooler)
"""


def test_a_detector_is_sent_to_pack_backbone(tmp_path: Path, bitskip: Command) -> None:
    (tmp_path / "own.py").write_text(DETECTOR)
    refused = bitskip("pack", f"{tmp_path / 'own.py'}:detector", "-o", str(tmp_path / "d.bitskip"))
    assert refused.code == 2
    assert "is a detector" in refused.err
    assert "pack_backbone(detector, size)" in refused.err
    assert not (tmp_path / "d.bitskip").exists()
