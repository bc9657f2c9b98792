"""The step that a GPU runs as one graph does what the step from Python does.

There is no GPU here, so the recording is replaced by calling the step again; all else is the same code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitskip.data import ImageSet, load_mini
from bitskip.spec import named_spec
from bitskip.training import Recipe, load_recipe, train
from bitskip.training.captured import CapturedStep
from bitskip.training.module import Classifier


class _Replay:
    def __init__(self, step: CapturedStep) -> None:
        self.step = step

    def replay(self) -> None:
        self.step._once()


def _capture_without_a_gpu(patch: pytest.MonkeyPatch) -> list[Any]:
    captures = []

    def capture(self: CapturedStep) -> _Replay:
        self._try()
        captures.append(self)
        return _Replay(self)

    patch.setattr(CapturedStep, "_capture", capture)
    patch.setattr(Classifier, "_captures", lambda self: True)
    return captures


@pytest.fixture(scope="module")
def mini() -> ImageSet:
    return load_mini()


def _run(recipe: Recipe, mini: ImageSet, out: Path, model: str) -> dict[str, torch.Tensor]:
    from bitskip.training.folder import load_weights

    train(named_spec(model).scaled(0.125), recipe, mini, out, progress_bar=False)
    return load_weights(out)


@pytest.mark.parametrize(
    ("model", "changes", "stages"),
    [
        ("resnet14-full-all", {"optimizer": "sgd", "learning_rate": 0.02, "ema": 0.9}, 1),
        ("resnet14-binary-all", {"latent.freeze": 0.5, "latent.standardise": True}, 2),
    ],
)
def test_a_captured_training_ends_with_the_weights_of_a_plain_one(
    model: str, changes: dict[str, Any], stages: int, tmp_path: Path, mini: ImageSet
) -> None:
    fixed = {"epochs": 2, "batch_size": 256, "dropout": 0.0, "augmentation.cutout": 8, "resolution": []}
    recipe = load_recipe("paper", named_spec(model), {**fixed, **changes})
    plain = _run(recipe, mini, tmp_path / "plain", model)
    with pytest.MonkeyPatch.context() as patch:
        captures = _capture_without_a_gpu(patch)
        captured = _run(recipe, mini, tmp_path / "captured", model)
    assert len(captures) == stages
    for name, value in plain.items():
        if value.is_floating_point():
            torch.testing.assert_close(captured[name], value, rtol=2e-3, atol=2e-4)
        else:
            assert torch.equal(captured[name], value), name
