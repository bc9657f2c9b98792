"""What training goes on from: packed files; and what it makes of few pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitskip.data import ImageSet, load_mini
from bitskip.data.batches import Batches, Normalisation
from bitskip.errors import RunError
from bitskip.lower.run import lower_run
from bitskip.nn import binary_layers, build
from bitskip.program import Program
from bitskip.runtime import Model
from bitskip.spec import NetworkSpec
from bitskip.training import load_recipe, train, what_is_kept
from bitskip.training.folder import RunResult
from bitskip.training.small import MIN_STEPS, fit_recipe, steps_of
from bitskip.training.unpack import unpack_weights
from bitskip.zoo import model_path

_HYBRID = "resnet14-hybrid-all-x0.25-int8"
_W1A1 = "resnet14-w1a1-int8"


@pytest.fixture(scope="module")
def mini() -> ImageSet:
    return load_mini()


@pytest.mark.parametrize(
    ("name", "standardise"),
    [(_HYBRID, False), ("resnet14-binary-all-x0.25-int8", True), ("resnet14-full-all-x0.25-int8", False)],
)
def test_unpacked_weights_answer_as_the_packed_file(name: str, standardise: bool, mini: ImageSet) -> None:
    program = Program.load(model_path(name))
    normalisation = Normalisation(program.mean, program.std)
    pictures, _ = next(iter(Batches(mini.train_images, mini.train_labels, normalisation, 128)))
    assert program.spec is not None
    network = build(NetworkSpec.from_dict(dict(program.spec)))
    network.load_state_dict(unpack_weights(program, pictures, standardise))
    for layer in binary_layers(network).values():
        layer.standardise = standardise
    tested, _ = next(iter(Batches(mini.test_images[:200], mini.test_labels, normalisation, 200)))
    packed = Model(program).predict(mini.test_images[:200]).argmax(1)
    with torch.no_grad():
        evaluated = network.eval()(tested).argmax(1).numpy()
        trained = network.train()(tested).argmax(1).numpy()
    assert (evaluated == packed).mean() > 0.95  # all but rounding
    assert (trained == packed).mean() > 0.85  # ready to go on: with the statistics of a batch, too


def test_a_file_with_1_bit_activations_is_refused(mini: ImageSet) -> None:
    program = Program.load(model_path(_W1A1))
    with pytest.raises(RunError, match="has 1-bit activations, from which training cannot go on"):
        unpack_weights(program, torch.zeros(1, 3, 32, 32))


def _three_classes(images: ImageSet) -> ImageSet:
    def of(labels: np.ndarray) -> np.ndarray:
        return np.flatnonzero(labels < 3)

    train_part, test_part = of(images.train_labels), of(images.test_labels)
    return dataclasses.replace(
        images,
        train_images=images.train_images[train_part],
        train_labels=images.train_labels[train_part],
        test_images=images.test_images[test_part],
        test_labels=images.test_labels[test_part],
        class_names=images.class_names[:3],
    )


def test_a_run_goes_on_from_the_zoo_with_another_head(tmp_path: Path, mini: ImageSet) -> None:
    images = _three_classes(mini)
    values = Program.load(model_path(_HYBRID)).spec
    assert values is not None
    spec = dataclasses.replace(NetworkSpec.from_dict(dict(values)), classes=3)
    recipe, _ = fit_recipe(load_recipe("modern", spec, {"epochs": 2}), len(images.train_images), {"epochs"})
    word = f"zoo:{_HYBRID}"
    result = train(spec, recipe, images, tmp_path / "a", warm_start=word, progress_bar=False)
    fresh = train(spec, recipe, images, tmp_path / "b", progress_bar=False)
    assert result.warm_start == word
    card = json.loads(model_path(_HYBRID).with_suffix(".json").read_text())
    assert result.epochs_before == card["epochs"] + card["epochs_before"]
    assert result.test_accuracy > 0.75
    assert result.test_accuracy > fresh.test_accuracy + 0.1


def test_a_start_that_training_spoils_is_kept(tmp_path: Path, mini: ImageSet) -> None:
    images = _three_classes(mini)
    spec = dataclasses.replace(
        NetworkSpec.from_dict(dict(Program.load(model_path(_HYBRID)).spec or {})), classes=3
    )
    recipe = load_recipe("modern", spec, {"epochs": 1, "batch_size": 16, "learning_rate": 1.0})
    runs = {
        kept: train(
            spec,
            recipe,
            images,
            tmp_path / str(kept),
            warm_start=f"zoo:{_HYBRID}",
            keep_better_start=kept,
            progress_bar=False,
        )
        for kept in (True, False)
    }
    assert [runs[kept].start_kept for kept in (True, False)] == [True, False]
    assert runs[True].test_accuracy > runs[False].test_accuracy + 0.1
    assert runs[True].test_accuracy > 0.85
    # It is what is saved, too.
    assert RunResult.load(tmp_path / "True").start_kept
    program = lower_run(tmp_path / "True")
    right = Model(program).predict(images.test_images).argmax(1) == images.test_labels
    assert right.mean() == pytest.approx(runs[True].test_accuracy, abs=0.01)


def test_a_packed_file_that_is_not_there_is_refused(tmp_path: Path, mini: ImageSet) -> None:
    spec = dataclasses.replace(NetworkSpec.from_dict(dict(Program.load(model_path(_HYBRID)).spec or {})))
    with pytest.raises(RunError, match="there is no file .*nothing.bitskip to start from"):
        train(spec, load_recipe("modern", spec), mini, tmp_path, warm_start=Path("nothing.bitskip"))


def test_few_pictures_get_smaller_batches_and_more_epochs() -> None:
    recipe = load_recipe("modern", "resnet14-full-all")
    fitted, said = fit_recipe(recipe, 300)
    assert fitted.batch_size == 16  # 270 of 300 are trained on: 16 steps an epoch, where 128 made 2
    assert fitted.learning_rate == pytest.approx(recipe.learning_rate * 16 / 128)
    assert fitted.latent.learning_rate == pytest.approx(recipe.latent.learning_rate * (16 / 128) ** 0.5)
    assert fitted.epochs == -(-MIN_STEPS // 16)
    assert steps_of(fitted, 300) >= MIN_STEPS
    assert "only 270 pictures to train on" in said
    assert fit_recipe(recipe, 50_000) == (recipe, "")


def test_trained_weights_take_fewer_and_smaller_steps() -> None:
    recipe = load_recipe("modern", "resnet14-full-all")
    fresh, _ = fit_recipe(recipe, 300)
    fitted, _ = fit_recipe(recipe, 300, kept="body")
    assert recipe.epochs < fitted.epochs < fresh.epochs
    assert fitted.learning_rate == pytest.approx(0.2 * fresh.learning_rate)
    assert fresh.resolution
    assert fitted.resolution == ()
    assert fit_recipe(recipe, 50_000, kept="body") == (recipe, "")


def test_a_network_that_knows_all_classes_takes_the_fewest_and_smallest() -> None:
    recipe = load_recipe("modern", "resnet14-hybrid-all")
    fitted, said = fit_recipe(recipe, 300, kept="all")
    assert fitted.epochs == -(-60 // 16)
    assert fitted.learning_rate == pytest.approx(0.05 * recipe.learning_rate * 16 / 128)
    assert fitted.latent.learning_rate == pytest.approx(
        0.05 * recipe.latent.learning_rate * (16 / 128) ** 0.5
    )
    assert "64 steps" in said
    assert "more are needed" not in said
    asked = load_recipe("modern", "resnet14-hybrid-all", {"learning_rate": 0.3, "epochs": 2})
    fitted, _ = fit_recipe(asked, 300, {"learning_rate", "epochs"}, kept="all")
    assert (fitted.learning_rate, fitted.epochs) == (0.3, 2)


@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        (("truck", "cat", "frog"), "all"),
        (("cat", "dragon"), "body"),
        (("0", "1", "2"), "body"),
    ],
)
def test_what_a_start_keeps(classes: tuple[str, ...], kept: str) -> None:
    pictures, labels = np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64)
    images = ImageSet("set", pictures, labels, pictures, labels, classes)
    assert what_is_kept("zoo:resnet14-binary-all-x0.25-int8", images) == kept


def test_what_was_asked_for_stays_and_too_few_steps_are_said() -> None:
    recipe = load_recipe("modern", "resnet14-full-all", {"epochs": 4, "batch_size": 64})
    fitted, said = fit_recipe(recipe, 300, {"epochs", "batch_size"})
    assert fitted == recipe
    assert "16 steps; 1,000 and more are needed to learn much" in said


def test_a_recipe_for_few_pictures_is_still_one_that_can_be_read() -> None:
    fitted, _ = fit_recipe(load_recipe("paper", "resnet14-binary-all"), 100)
    assert type(fitted).model_validate(fitted.model_dump(mode="json")) == fitted
