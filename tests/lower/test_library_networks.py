"""Networks of torchvision and timm that docs/packing.md names: packed, they answer as torch does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from bitskip.lower import lower
from bitskip.runtime import Model

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

SIZE = 64
TORCHVISION = ("densenet121", "googlenet", "mnasnet0_5", "regnet_y_400mf", "resnext50_32x4d", "squeezenet1_1")
TIMM = ("efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "resnext50_32x4d")


def _network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library, _, name = name.partition(":")
        if library == "timm":
            return timm.create_model(name, pretrained=False).eval()
        return getattr(torchvision.models, name)(weights=None).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"torchvision:{n}" for n in TORCHVISION), *(f"timm:{n}" for n in TIMM)])
def test_a_library_network_packs_and_answers_as_torch(name: str) -> None:
    network = _network(name)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    pictures = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = network(pictures).numpy()
    options = {"input_shape": (3, SIZE, SIZE), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    packed = Model(lower(network, **options)).predict(images)
    assert np.abs(packed - logits).max() <= 1e-5 * np.abs(logits).max()
    integer = Model(lower(network, activations="int8", dense="int8", calibration=images, **options))
    assert np.abs(integer.predict(images) - logits).max() <= 0.25 * np.abs(logits).max()
