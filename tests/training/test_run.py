"""Runs: what they leave behind, resuming, distilling, and refusing what does not fit."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bitskip.data import ImageSet, load_mini
from bitskip.data.batches import Batches
from bitskip.data.held_out import BY_CONTENT
from bitskip.errors import BitskipError, DataError, FileFormatError, RunError
from bitskip.files import write_json
from bitskip.nn import BinaryConv2d, binary_layers
from bitskip.spec import NetworkSpec, named_spec
from bitskip.training import Recipe, RunResult, evaluate, load_recipe, load_run, train
from bitskip.training import module as training_module
from bitskip.training import run as training_run
from bitskip.training.folder import trained_on_tests
from bitskip.training.hardware import Hardware, versions
from bitskip.training.initial import match_classes
from bitskip.training.module import Classifier, Splits
from bitskip.training.run import _split


@pytest.fixture(scope="module")
def mini() -> ImageSet:
    """A corner of the bundled set, so that an epoch takes a second."""
    whole = load_mini()
    return dataclasses.replace(
        whole,
        name="corner of the mini set",
        train_images=whole.train_images[::4],
        train_labels=whole.train_labels[::4],
        test_images=whole.test_images[::4],
        test_labels=whole.test_labels[::4],
    )


def _spec(name: str = "resnet14-hybrid-none") -> NetworkSpec:
    return named_spec(f"{name}-x0.0625")


def _recipe(**changes: Any) -> Recipe:
    return load_recipe("paper", "resnet14-hybrid-none", {"epochs": 2, "batch_size": 25, **changes})


def _train(out: Path, images: ImageSet, recipe: Recipe | None = None, **options: Any) -> RunResult:
    return train(_spec(), recipe or _recipe(), images, out, progress_bar=False, **options)


def test_a_run_leaves_weights_that_give_its_accuracy(tmp_path: Path, mini: ImageSet) -> None:
    result = _train(tmp_path, mini)
    assert [entry["epoch"] for entry in result.history] == [1, 2]
    assert {"validation_loss", "validation_accuracy", "sign_flip_share"} <= set(result.history[0])
    assert (result.train_images, result.validation_images, result.test_images) == (225, 25, 125)
    spec, model = load_run(tmp_path)
    assert spec == _spec()
    splits = _split(mini, _recipe())
    test = Batches(mini.test_images, mini.test_labels, splits.normalisation, 50)
    assert evaluate(model, test)[0] == result.test_accuracy
    assert RunResult.load(tmp_path) == result
    assert {"run.json", "spec.json", "recipe.yaml", "logs", "checkpoints"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert not list(tmp_path.glob(".*"))
    assert set(result.versions) == set(versions())


class _Stop(Exception):
    """Stands for whatever ends a process between two epochs."""


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, mini: ImageSet) -> None:
    def stop(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 2:
            raise _Stop

    recipe = _recipe(epochs=3)
    with pytest.raises(_Stop):
        _train(tmp_path / "broken", mini, recipe, on_epoch=stop)
    assert not (tmp_path / "broken" / "result.json").exists()
    resumed = _train(tmp_path / "broken", mini, recipe, resume=True)
    whole = _train(tmp_path / "whole", mini, recipe)
    assert len(resumed.history) == 3
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert a["epoch"] == b["epoch"]
        assert a["learning_rate"] == pytest.approx(b["learning_rate"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)
    assert resumed.test_loss == pytest.approx(whole.test_loss, rel=1e-6)


def test_a_run_says_what_all_its_sessions_were_computed_with(
    tmp_path: Path, mini: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 2:
            raise _Stop

    recipe = _recipe(epochs=3)
    with pytest.raises(_Stop):
        _train(tmp_path, mini, recipe, on_epoch=stop, hardware=Hardware(precision="bf16-mixed"))
    monkeypatch.setattr("bitskip.training.run.versions", lambda: {"torch": "another", "kernels": "own"})
    result = _train(tmp_path, mini, recipe, resume=True, hardware=Hardware(precision="32-true"))
    assert result.precision == "bf16-mixed, 32-true"
    assert result.versions["torch"] == f"{torch.__version__}, another"
    assert result.versions["kernels"] == "own"


def test_epochs_of_the_weights_it_started_from_are_counted(tmp_path: Path, mini: ImageSet) -> None:
    once = _recipe(epochs=1)
    _train(tmp_path / "first", mini, _recipe(epochs=2))
    second = _train(tmp_path / "second", mini, once, warm_start=tmp_path / "first")
    third = _train(tmp_path / "third", mini, once, warm_start=tmp_path / "second")
    assert (second.epochs_before, third.epochs_before) == (2, 3)
    assert RunResult.load(tmp_path / "third").epochs_before == 3


@pytest.mark.parametrize("change", [{"l1": 1e-2}, {}])
def test_frozen_signs_stay_whatever_reaches_their_latent_weights(
    change: dict[str, Any], tmp_path: Path, mini: ImageSet
) -> None:
    spec = dataclasses.replace(_spec(), weight_scale="channel")
    settings = {"epochs": 2, "batch_size": 25, "latent.freeze": 0.5, "latent.weight_decay": 0.0}
    recipe = load_recipe("paper", "", {**settings, **change})
    result = train(spec, recipe, mini, tmp_path, progress_bar=False)
    assert [entry["sign_flip_share"] > 0 for entry in result.history] == [True, False]


def test_what_is_delivered_is_1_bit_even_if_it_was_never_trained_so(tmp_path: Path, mini: ImageSet) -> None:
    result = _train(tmp_path, mini, _recipe(real_weights=1.0))
    _, model = load_run(tmp_path)
    splits = _split(mini, _recipe())
    test = Batches(mini.test_images, mini.test_labels, splits.normalisation, 50)
    accuracy, loss = evaluate(model, test)
    assert accuracy == pytest.approx(result.test_accuracy)
    assert loss == pytest.approx(result.test_loss, rel=1e-5)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, mini: ImageSet) -> None:
    first = _train(tmp_path, mini)
    assert _train(tmp_path, mini, resume=True) == first
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        _train(tmp_path, mini)
    with pytest.raises(RunError, match="holds a run with another recipe, seed"):
        _train(tmp_path, mini, _recipe(epochs=1), seed=1, resume=True)


def test_a_finished_run_asked_for_more_epochs_says_how(tmp_path: Path, mini: ImageSet) -> None:
    _train(tmp_path, mini, _recipe(epochs=1))
    with pytest.raises(RunError, match=r"is finished after 1 epochs.*--warm-start .* --epochs 2 and another"):
        _train(tmp_path, mini, _recipe(epochs=3), resume=True)
    with pytest.raises(RunError, match="holds a run with another recipe, seed"):
        _train(tmp_path, mini, _recipe(epochs=3), seed=1, resume=True)


def test_a_run_from_before_a_key_existed_goes_on(tmp_path: Path, mini: ImageSet) -> None:
    first = _train(tmp_path, mini)
    asked = json.loads((tmp_path / "run.json").read_text())
    del asked["recipe"]["resolution"]
    (tmp_path / "run.json").write_text(json.dumps(asked))
    assert _train(tmp_path, mini, resume=True) == first
    del asked["recipe"]
    (tmp_path / "run.json").write_text(json.dumps(asked))
    with pytest.raises(FileFormatError, match="run.json says of no run how it was started"):
        _train(tmp_path, mini, resume=True)


def test_averaged_weights_forget_the_random_start_within_few_steps(mini: ImageSet) -> None:
    from bitskip.training.module import Classifier

    recipe = _recipe(ema=0.995, epochs=2)
    module = Classifier(torch.nn.Linear(1, 1, bias=False), recipe, _split(mini, recipe))
    module._batches = 10 * [None]  # type: ignore[assignment]
    assert module.average is not None
    module.average.weight.fill_(0.0)
    torch.nn.init.ones_(module.model.weight)
    for step in range(20):
        module._update_average(1 - module._decay(step))
    assert float(module.average.weight) > 0.99  # at 0.995 a step it would still be below 0.1
    module.average.weight.fill_(0.0)
    module._update_average(1 - module._decay(50_000))
    assert float(module.average.weight) == pytest.approx(1 - 0.995)


@pytest.mark.parametrize(("epochs", "batch_size"), [(4, 225), (1, 56)])
def test_pictures_of_each_step_have_the_recipes_size(
    tmp_path: Path, mini: ImageSet, epochs: int, batch_size: int
) -> None:
    from bitskip.training.module import Classifier

    seen: list[int] = []
    step = Classifier.training_step

    def note(self: Classifier, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        seen.append(batch[0].shape[-1])
        step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", note)
        changes = {"epochs": epochs, "batch_size": batch_size, "reestimate_batches": 0}
        _train(tmp_path, mini, _recipe(**changes, resolution=[[0.25, 16], [0.5, 24]]))
    assert seen == [16, 24, 24, 32]  # four steps, whether in four epochs or in one


def test_every_part_of_a_recipe_runs(tmp_path: Path, mini: ImageSet) -> None:
    teacher = tmp_path / "teacher"
    train(_spec("resnet14-full-all"), _recipe(), mini, teacher, progress_bar=False)
    recipe = _recipe(
        **{
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "schedule": "triangular",
            "warmup": 0.2,
            "label_smoothing": 0.1,
            "whitening": True,
            "zero_gamma": True,
            "ema": 0.9,
            "resolution": [[0.5, 24]],
            "reestimate_batches": 3,
            "real_weights": 0.5,
            "l1": 1e-6,
            "distillation": {"weight": 0.5, "temperature": 2.0},
            "latent.standardise": True,
            "latent.freeze": 0.3,
            "augmentation": {"flip": "alternating", "padding": "reflect", "crop": 2, "cutout": 8},
        }
    )
    result = _train(tmp_path / "student", mini, recipe, teacher=teacher, warm_start=teacher)
    assert result.teacher == "teacher"
    _, model = load_run(tmp_path / "student")
    assert all(layer.standardise for layer in binary_layers(model).values())
    assert evaluate(model, _test_batches(mini))[0] == result.test_accuracy


def _test_batches(images: ImageSet) -> Any:
    return Batches(images.test_images, images.test_labels, _split(images, _recipe()).normalisation, 50)


def test_bop_flips_signs_and_nothing_else(tmp_path: Path, mini: ImageSet) -> None:
    recipe = _recipe(**{"latent.optimizer": "bop", "latent.bop_gamma": 0.1, "latent.bop_threshold": 0.0})
    result = _train(tmp_path, mini, recipe)
    _, model = load_run(tmp_path)
    for layer in binary_layers(model).values():
        assert set(layer.weight.detach().flatten().tolist()) <= {-1.0, 1.0}
    assert result.history[0]["sign_flip_share"] > 0


def test_without_an_estimator_or_decay_no_sign_flips(tmp_path: Path, mini: ImageSet) -> None:
    spec = dataclasses.replace(_spec(), weight_quantizer="none")
    still = load_recipe("paper", "", {"epochs": 1, "batch_size": 25, "latent.weight_decay": 0.0})
    result = train(spec, still, mini, tmp_path / "still", progress_bar=False)
    assert result.history[0]["sign_flip_share"] == 0.0


def test_whitening_makes_patches_uncorrelated(mini: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitskip.training.initial import whiten_stem

    splits: Splits = _split(mini, _recipe())
    conv = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    before = conv.weight.detach().clone()
    whiten_stem(conv, splits, eps=1e-8)
    count = 3 * 3 * 3
    assert torch.equal(conv.weight[:count], -conv.weight[count : 2 * count])
    assert torch.equal(conv.weight[2 * count :], before[2 * count :])
    pictures = torch.cat([x for x, _ in Batches(*splits.train, splits.normalisation, 50)])
    y = torch.nn.functional.conv2d(pictures, conv.weight[:count]).permute(1, 0, 2, 3).flatten(1)
    moments = y @ y.T / y.shape[1]
    torch.testing.assert_close(moments, torch.eye(count), atol=0.06, rtol=0)
    # A few pictures at a time, as large ones are taken, give the same.
    whole = conv.weight.detach().clone()
    monkeypatch.setattr("bitskip.training.initial._PATCH_VALUES", 3 * 32 * 32 * count)
    whiten_stem(conv, splits, eps=1e-8)
    for ours, theirs in zip(conv.weight.detach(), whole, strict=True):  # an eigenvector's sign is free
        assert min(float((ours - theirs).norm()), float((ours + theirs).norm())) < 1e-2 * float(theirs.norm())


def test_a_teacher_is_asked_once_about_the_original_pictures(
    tmp_path: Path, mini: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "teacher"
    train(_spec("resnet14-full-all"), _recipe(epochs=1), mini, folder, progress_bar=False)
    seen: list[torch.Tensor | None] = []
    step = Classifier._loss

    def note(self: Classifier, logits: torch.Tensor, labels: torch.Tensor, taught: Any) -> torch.Tensor:
        seen.append(taught)
        return step(self, logits, labels, taught)

    monkeypatch.setattr(Classifier, "_loss", note)
    changes = {"distillation.weight": 0.5, "distillation.views": "original", "resolution": [[1.0, 16]]}
    recipe = _recipe(epochs=1, **changes)
    first = _train(tmp_path / "first", mini, recipe, teacher=folder)
    (kept,) = (tmp_path / "cache" / "bitskip" / "teachers").iterdir()

    splits: Splits = _split(mini, recipe)
    _, network = load_run(folder)
    shown = torch.cat([x for x, _ in Batches(*splits.train, splits.normalisation, 50)])
    with torch.no_grad():
        views = torch.stack([network(shown), network(shown.flip(3))])
    taught = torch.cat([outputs for outputs in seen if outputs is not None])
    nearest = (taught[:, None] - views.flatten(0, 1)).abs().amax(2).min(1)
    assert len(taught) == len(seen) * recipe.batch_size
    assert float(nearest.values.max()) < 1e-4
    assert {int(i) // len(shown) for i in nearest.indices} == {0, 1}

    seen.clear()
    monkeypatch.setattr("bitskip.training.run.load_teacher", lambda *asked: _Unasked())
    again = _train(tmp_path / "again", mini, recipe, teacher=folder)
    assert again.history[0]["train_loss"] == first.history[0]["train_loss"]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept.write_bytes(b"damaged")
    third = _train(tmp_path / "third", mini, recipe, teacher=folder)
    assert third.history[0]["train_loss"] == first.history[0]["train_loss"]


class _Unasked(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked again")


# -- bad input -----------------------------------------------------------------------------------------


def test_classes_and_picture_size_must_fit(tmp_path: Path, mini: ImageSet) -> None:
    with pytest.raises(DataError, match="has 10 classes, but .* has 7 outputs"):
        train(dataclasses.replace(_spec(), classes=7), _recipe(), mini, tmp_path)
    with pytest.raises(DataError, match="pictures of 32 pixels, but .* takes 64"):
        train(dataclasses.replace(_spec(), input_size=64), _recipe(), mini, tmp_path)


def test_unwritable_output_is_one_sentence(tmp_path: Path, mini: ImageSet) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="cannot write to .*; choose another folder with --out"):
        _train(blocked / "run", mini)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce] PytorchStreamWriter failed writing"),
    ],
)
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, mini: ImageSet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Loggers and checkpoints meet it in the midst of a training, without the name of a file."""

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(training_run.L.Trainer, "fit", fail)
    with pytest.raises(
        RunError, match=f"cannot write to {tmp_path}: No space left on device; make room there"
    ):
        _train(tmp_path, mini)


def test_teacher_of_another_class_count_is_refused(tmp_path: Path, mini: ImageSet) -> None:
    teacher = tmp_path / "teacher"
    few = dataclasses.replace(
        mini,
        class_names=("a", "b"),
        train_labels=mini.train_labels % 2,
        test_labels=mini.test_labels % 2,
    )
    train(dataclasses.replace(_spec(), classes=2), _recipe(epochs=1), few, teacher, progress_bar=False)
    with pytest.raises(RunError, match="teacher .* has 2 classes, but .* has 10"):
        _train(tmp_path / "student", mini, _recipe(**{"distillation.weight": 0.5}), teacher=teacher)


def test_teacher_of_other_classes_is_refused(tmp_path: Path, mini: ImageSet) -> None:
    teacher = tmp_path / "teacher"
    _train(teacher, mini, _recipe(epochs=1))
    names = mini.class_names
    recipe = _recipe(**{"distillation.weight": 0.5})
    swapped = dataclasses.replace(mini, class_names=(*names[1::-1], *names[2:]))
    with pytest.raises(RunError, match=r"teacher .* was trained on them in another order"):
        _train(tmp_path / "student", swapped, recipe, teacher=teacher)
    other = dataclasses.replace(mini, class_names=("tiger", *names[1:]))
    with pytest.raises(RunError, match=r"has the classes tiger, .* but teacher .* was trained on airplane"):
        _train(tmp_path / "student", other, recipe, teacher=teacher)
    assert not (tmp_path / "student" / "run.json").exists()


def test_a_head_starts_from_its_classes_by_name() -> None:
    weights = {
        "head.weight": torch.arange(6.0).reshape(3, 2),
        "head.bias": torch.arange(3.0),
        "stem": torch.ones(1),
    }
    same = match_classes(weights, ("cat", "dog", "owl"), ("cat", "dog", "owl"))
    assert same == weights
    fewer = match_classes(weights, ("cat", "dog", "owl"), ("owl", "cat"))
    assert fewer["head.weight"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert fewer["head.bias"].tolist() == [2.0, 0.0]
    assert set(match_classes(weights, ("cat", "dog", "owl"), ("cat", "elk"))) == {"stem"}
    assert match_classes(weights, (), ("cat", "elk")) == weights


def test_what_would_do_nothing_or_cannot_be_is_refused(tmp_path: Path, mini: ImageSet) -> None:
    other = tmp_path / "other"
    train(_spec("resnet14-hybrid-none").scaled(3), _recipe(epochs=1), mini, other, progress_bar=False)
    out = tmp_path / "student"
    with pytest.raises(RunError, match=r"'paper' does not learn from a teacher: .*weight is 0"):
        _train(out, mini, teacher=other)
    with pytest.raises(RunError, match="no weight of the run to start from has the name and shape"):
        _train(out, mini, warm_start=other)
    with pytest.raises(RunError, match="seed is -1, expected 0 to"):
        _train(out, mini, seed=-1)
    with pytest.raises(RunError, match="no training with accelerator 'auto', devices 'two'"):
        _train(out, mini, hardware=Hardware(devices="two"))
    with pytest.raises(RunError, match="precision 'fp31': "):
        _train(out, mini, hardware=Hardware(precision="fp31"))
    grey = dataclasses.replace(_spec(), input_channels=1)
    with pytest.raises(DataError, match=r"pictures of 3 channels, but .* takes 1; .*\"input_channels\": 3"):
        train(grey, _recipe(), mini, out, progress_bar=False)
    assert not (out / "run.json").exists()


def test_a_run_is_resumed_with_its_own_teacher_and_every_session_has_its_log(
    tmp_path: Path, mini: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = [tmp_path / name / "teacher" for name in "ab"]
    for seed, folder in enumerate(teachers):
        train(_spec("resnet14-full-all"), _recipe(epochs=1), mini, folder, seed=seed, progress_bar=False)
    recipe = _recipe(**{"distillation.weight": 0.5})
    out = tmp_path / "student"
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_start", _stop_in_second_epoch(Classifier))
        with pytest.raises(RunError, match="interrupted"):
            _train(out, mini, recipe, teacher=teachers[0])
    with pytest.raises(RunError, match="holds a run with another teacher_weights"):
        _train(out, mini, recipe, teacher=teachers[1], resume=True)
    _train(out, mini, recipe, teacher=teachers[0], resume=True)
    epochs = [path.read_text() for path in sorted((out / "logs").glob("csv*/metrics.csv"))]
    assert [("train_loss" in text, len(text.splitlines()) > 1) for text in epochs] == [(True, True)] * 2


def _stop_in_second_epoch(kind: type[Classifier]) -> Any:
    start = kind.on_train_epoch_start

    def stop(self: Classifier) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        start(self)

    return stop


def test_a_run_of_another_choice_of_test_pictures_is_not_resumed_and_said_of_a_start(
    tmp_path: Path, mini: ImageSet
) -> None:
    photos = dataclasses.replace(mini, name="image folder photos", test_rule=BY_CONTENT)
    write_json(tmp_path / "run.json", {"data": photos.name, "train_images": len(photos.train_images)})
    with pytest.raises(RunError, match=r"\(every fifth by name; now: a fifth of each class, by .* anew$"):
        _train(tmp_path, photos, resume=True)
    assert "every fifth by name), so it knows some of today's" in trained_on_tests(tmp_path, photos)
    assert trained_on_tests(tmp_path, mini) == ""  # other data, whose test pictures came as such
    write_json(tmp_path / "run.json", {"data": photos.name, "test_rule": BY_CONTENT})
    assert trained_on_tests(tmp_path, photos) == ""
    with pytest.raises(RunError, match=r"\(a fifth of each class, by .*; now: those of a test folder\)"):
        _train(tmp_path, dataclasses.replace(photos, test_rule=""), resume=True)


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no weights.safetensors"):
        load_run(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"model": "x"}))
    with pytest.raises(BitskipError, match="no run's result"):
        RunResult.load(tmp_path)


def test_layers_of_a_fresh_model_compute_with_signs() -> None:
    from bitskip.nn import build

    layer = build(_spec()).get_submodule("stage1.block1.conv1")
    assert isinstance(layer, BinaryConv2d)
    assert not layer.standardise


def test_tensorboard_gets_a_histogram_of_each_binary_layer(tmp_path: Path, mini: ImageSet) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _train(tmp_path, mini, _recipe(epochs=1))
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    from bitskip.nn import build

    assert set(events.Tags()["histograms"]) == {f"latent/{name}" for name in binary_layers(build(_spec()))}


def test_validation_sees_statistics_as_fresh_as_the_test(tmp_path: Path, mini: ImageSet) -> None:
    # Few steps: the running statistics are still mostly those of the start, zero and one.
    recipe = _recipe(epochs=1, batch_size=128, reestimate_batches=5)
    fresh = _train(tmp_path / "fresh", mini, recipe)
    stale = _train(tmp_path / "stale", mini, _recipe(epochs=1, batch_size=128))
    assert fresh.history[0]["train_loss"] == stale.history[0]["train_loss"]
    assert fresh.history[0]["validation_loss"] != stale.history[0]["validation_loss"]
    _, network = load_run(tmp_path / "fresh")
    splits = _split(mini, recipe)
    batches = Batches(*splits.validation, splits.normalisation, 512)
    assert evaluate(network, batches)[1] == pytest.approx(fresh.history[0]["validation_loss"], rel=1e-4)


def test_statistics_are_not_estimated_twice_from_the_same_batches(
    tmp_path: Path, mini: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    once = training_run.reestimate_batch_norm

    def note(model: torch.nn.Module, batches: Batches, count: int) -> int:
        counts.append(count)
        return once(model, batches, count)

    def run(name: str, **changes: Any) -> RunResult:
        return _train(tmp_path / name, few, _recipe(epochs=1, batch_size=18, **changes))

    few = dataclasses.replace(
        mini,
        train_images=mini.train_images[:20],
        train_labels=mini.train_labels[:20],
        test_images=mini.test_images[:20],
        test_labels=mini.test_labels[:20],
    )
    monkeypatch.setattr(training_run, "reestimate_batch_norm", note)
    short = run("short", reestimate_batches=1)
    assert counts == []  # the validation's are of this very batch
    run("real", reestimate_batches=1, real_weights=1.0)
    assert counts == [1]  # the validation's are of other weights than are delivered
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "_VALIDATION_BATCHES", 0)  # the validation estimates none
        again = run("again", reestimate_batches=1)
    assert counts == [1, 1]
    assert short.test_loss == pytest.approx(again.test_loss, rel=1e-5)  # sums in another order
    assert short.test_accuracy == again.test_accuracy
