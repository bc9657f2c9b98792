"""Batches for pruning: pictures as the model expects them, judged on what its run held out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bitskip.data import ImageSet, load_mini
from bitskip.data.batches import Normalisation
from bitskip.errors import DataError
from bitskip.files import read_json, write_json
from bitskip.sources.load import IMAGENET, LoadedModel, load_model
from bitskip.sources.pruned import batches_for
from bitskip.spec import named_spec
from bitskip.training import load_recipe, train

SPEC = named_spec("resnet14-full-all-x0.0625")


@pytest.fixture(scope="module")
def corner() -> ImageSet:
    whole = load_mini()
    images, labels = whole.train_images[::5], whole.train_labels[::5]
    return dataclasses.replace(whole, train_images=images, train_labels=labels)


@pytest.fixture(scope="module")
def run(corner: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("paper", SPEC, {"epochs": 1, "validation_images": 12})
    train(SPEC, recipe, corner, folder, progress_bar=False)
    return folder


def _first(loaded: LoadedModel, images: ImageSet) -> torch.Tensor:
    return next(iter(batches_for(loaded, images, 4)[1]))[0]


def test_a_run_sees_its_own_normalisation_and_held_out_pictures(run: Path, corner: ImageSet) -> None:
    loaded = load_model(str(run))
    assert loaded.normalisation == Normalisation.of(corner.train_images)
    training, held_out = batches_for(loaded, corner, 4)
    assert (len(training.labels), len(held_out.labels)) == (len(corner.train_labels) - 12, 12)
    darker = dataclasses.replace(corner, train_images=corner.train_images // 2)
    other = dataclasses.replace(loaded, normalisation=None)  # measured on the data, as for a fresh model
    scale = torch.tensor(corner.train_images.std((0, 1, 2)) / 255).view(1, 3, 1, 1)
    assert not torch.allclose(_first(loaded, darker), _first(other, darker), atol=float(scale.min()))
    torch.testing.assert_close(_first(loaded, corner), _first(other, corner))


def test_a_run_that_held_nothing_out_is_refused(run: Path, corner: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    values = read_json(run / "run.json")
    values["recipe"]["validation_images"] = 0
    write_json(tmp_path / "run.json", values)
    with pytest.raises(DataError, match="trained on every training picture .* none is left to judge on"):
        batches_for(load_model(str(tmp_path)), corner, 4)


def test_library_models_take_imagenets_normalisation_or_the_one_given() -> None:
    own = Normalisation((0.5,) * 3, (0.25,) * 3)
    assert load_model("torchvision:resnet18").normalisation == IMAGENET
    assert load_model("torchvision:resnet18", normalisation=own).normalisation == own
