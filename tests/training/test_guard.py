"""A training that cannot learn stops within a step and says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitskip.data import ImageSet, load_mini
from bitskip.errors import RunError
from bitskip.nn import SignQuantizer
from bitskip.spec import named_spec
from bitskip.training import load_recipe, train
from bitskip.training.module import Classifier


@pytest.fixture(scope="module")
def mini() -> ImageSet:
    return load_mini()


def _train(images: ImageSet, out: Path, model: str = "resnet14-binary-none", **changes: object) -> None:
    spec = named_spec(model)
    recipe = load_recipe("paper", spec, {"epochs": 1, "batch_size": 64, **changes})
    train(spec.scaled(0.125), recipe, images, out, progress_bar=False)


def _count_steps(patch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    step = Classifier.training_step

    def note(self: Classifier, batch: object, index: int) -> None:
        steps.append(index)
        step(self, batch, index)  # type: ignore[arg-type]

    patch.setattr(Classifier, "training_step", note)
    return steps


def test_a_quantizer_without_its_gradient_is_refused_within_one_step(mini: ImageSet, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SignQuantizer, "gradient", lambda self, x: torch.zeros_like(x))
        steps = _count_steps(patch)
        with pytest.raises(RunError, match=r"1-bit weights of stage1\..* and 9 more get no gradient \(torch"):
            _train(mini, tmp_path)
    assert steps == [0]
    assert not (tmp_path / "weights.safetensors").exists()


def test_the_estimator_none_trains_all_the_same(mini: ImageSet, tmp_path: Path) -> None:
    spec = dataclasses.replace(named_spec("resnet14-binary-none").scaled(0.125), weight_quantizer="none")
    recipe = load_recipe("paper", spec, {"epochs": 1, "batch_size": 256})
    train(spec, recipe, mini, tmp_path, progress_bar=False)
    assert (tmp_path / "weights.safetensors").exists()


def test_a_loss_that_is_not_finite_is_an_error_at_its_step(mini: ImageSet, tmp_path: Path) -> None:
    loss = Classifier._loss

    def spoilt(self: Classifier, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        value = loss(self, logits, labels, taught)
        return value * float("nan") if self.trainer.fit_loop.epoch_loop.batch_idx == 3 else value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "_loss", spoilt)
        steps = _count_steps(patch)
        with pytest.raises(RunError, match=r"loss is not finite at step 3 \(epoch 1\); train with a lower"):
            _train(mini, tmp_path, "resnet14-full-all")
    assert steps == [0, 1, 2, 3]
