"""Segmentation networks: dilated convolutions and bilinear resizes, packed with the same answers as torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import MEAN, STD, normalised, pictures_of, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from bitskip.backends import export_target
from bitskip.backends.onnx.target import model_of
from bitskip.lower import lower
from bitskip.lower.from_onnx import import_onnx
from bitskip.nn import BinaryConv2d
from bitskip.program import Conv2d, Program
from bitskip.runtime import Model
from bitskip.sources.libraries import build_torchvision

SIDE = 33
NAMES = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large",
         "lraspp_mobilenet_v3_large")  # fmt: skip


class SmallDeepLab(nn.Module):
    """DeepLab's head with torchvision's own ASPP, five branches of dilation 1 to 6, on a small backbone."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        separable = [nn.Conv2d(16, 16, 3, padding=4, dilation=4, groups=16), nn.Conv2d(16, 16, 1)]
        self.middle = middle or nn.Sequential(*separable, nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(ASPP(16, [2, 3, 6], 8), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, 4, H, W)."""
        y = self.head(self.middle(self.stem(x)))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def settled(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return randomised(network, lambda step: normalised(pictures_of((4, SIDE, SIDE, 3), step)), scales=False)


def scores(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(normalised(images)).permute(0, 2, 3, 1).numpy()


def packed(network: nn.Module, **options: object) -> Program:
    return lower(network, MEAN, STD, input_shape=(3, SIDE, SIDE), **options)  # type: ignore[arg-type]


def near(found: np.ndarray, wanted: np.ndarray, share: float) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= share * np.abs(wanted).max()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return settled(SmallDeepLab())


def test_a_dilated_network_packs_with_one_dense_output(small: nn.Module) -> None:
    images = pictures_of((2, SIDE, SIDE, 3), 5)
    wanted = scores(small, images)
    program = packed(small)
    assert [op.dilation for op in program.ops if isinstance(op, Conv2d)].count((6, 6)) == 1
    for engine in ("reference", "native"):
        (name, found), *others = Model(program, engine=engine).outputs(images).items()
        assert (name, others) == ("out", [])
        near(found, wanted, 1e-5)
    again = Program.from_bytes(program.to_bytes())
    assert again.to_bytes() == program.to_bytes()


def test_a_dilated_network_in_int8(small: nn.Module) -> None:
    images = pictures_of((4, SIDE, SIDE, 3), 6)
    program = packed(small, activations="int8", dense="int8", calibration=images)
    assert {op.weight_dtype for op in program.ops if isinstance(op, Conv2d)} == {"i8"}
    reference, native = (
        Model(program, engine=engine).outputs(images)["out"] for engine in ("reference", "native")
    )
    np.testing.assert_allclose(reference, native, atol=1e-5)
    near(native, scores(small, images), 0.1)


def test_a_dilated_1_bit_layer_stays_1_bit() -> None:
    binary = BinaryConv2d(16, 16, 3, padding=2, dilation=2)
    network = settled(SmallDeepLab(nn.Sequential(binary, nn.BatchNorm2d(16), nn.ReLU())))
    program = packed(network)
    (layer,) = (op for op in program.ops if isinstance(op, Conv2d) and op.weight_dtype == "w1")
    assert layer.dilation == (2, 2)
    images = pictures_of((2, SIDE, SIDE, 3), 5)
    near(Model(program).outputs(images)["out"], scores(network, images), 1e-4)


@pytest.mark.parametrize("dense", ["fp32", "int8"])
def test_a_dilated_network_goes_to_onnx_and_back(small: nn.Module, dense: str, tmp_path: Path) -> None:
    images = pictures_of((4, SIDE, SIDE, 3), 5)
    how = {"activations": "int8", "dense": "int8", "calibration": images} if dense == "int8" else {}
    program = packed(small, **how)
    wanted = Model(program).outputs(images)["out"]
    model, _ = model_of(program, rounding="exact")
    onnx.save(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"picture": normalised(images).numpy()})
    near(found.transpose(0, 2, 3, 1), wanted, 1e-5 if dense == "fp32" else 0.05)
    back, _ = import_onnx(tmp_path / "m.onnx")
    assert [op.kind for op in back.ops] == [op.kind for op in program.ops]
    near(Model(back).outputs(images)["out"], wanted, 1e-5 if dense == "fp32" else 0.05)


def test_no_c_for_dilation_names_the_layer(small: nn.Module) -> None:
    reasons = " ".join(export_target("c99").supports(packed(small)))
    assert "expected a classifier" in reasons
    small_classifier = nn.Sequential(
        nn.Conv2d(3, 8, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    reasons = " ".join(export_target("c99").supports(packed(small_classifier.eval())))
    assert "'0'" in reasons
    assert "has dilation (2, 2), expected 1; run it with the native runtime" in reasons


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_segmentation_network_of_torchvision_packs_and_answers_as_torch(name: str) -> None:
    torch.manual_seed(0)
    network = build_torchvision(name, input_size=65).model
    images = pictures_of((2, 65, 65, 3), 1)
    program = lower(network, MEAN, STD, input_shape=(3, 65, 65))
    wanted = scores(network, images)
    found = Model(program).outputs(images)["out"]
    near(found, wanted, 1e-4)
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.999
