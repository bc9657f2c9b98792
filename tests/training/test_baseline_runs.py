"""Baselines train, resume, load and pack as runs of bitskip's own networks do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitskip.data import ImageSet, load_mini
from bitskip.data.batches import Batches
from bitskip.errors import FileFormatError, RunError, SpecError
from bitskip.lower.run import lower_run
from bitskip.nn import binary_layers
from bitskip.nn.baselines import Baseline
from bitskip.program import Program
from bitskip.sources.load import load_trained
from bitskip.sources.trainable import trainable
from bitskip.spec import named_spec
from bitskip.training import evaluate, load_recipe, load_run, train
from bitskip.training.folder import weights_metadata
from bitskip.training.initial import match_classes
from bitskip.training.run import _split

RESNET8 = Baseline("mlperf-resnet8", input_size=8)


@pytest.fixture(scope="module")
def pictures() -> ImageSet:
    """A corner of the bundled set at 8 pixels, so that an epoch takes a moment."""
    whole = load_mini()
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[::8, ::4, ::4].copy(),
        train_labels=whole.train_labels[::8],
        test_images=whole.test_images[::8, ::4, ::4].copy(),
        test_labels=whole.test_labels[::8],
    )


@pytest.fixture(scope="module")
def run(pictures: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "resnet8"
    recipe = load_recipe("modern", RESNET8, {"epochs": 2, "batch_size": 25, "resolution": []})
    train(RESNET8, recipe, pictures, folder, progress_bar=False)
    return folder


def test_a_run_says_which_baseline_it_is(run: Path, pictures: ImageSet) -> None:
    assert not (run / "spec.json").exists()
    assert json.loads((run / "run.json").read_text())["baseline"] == RESNET8.to_dict()
    known, model = load_run(run)
    assert known == RESNET8
    assert trainable(str(run)) == RESNET8
    assert trainable(str(run), classes=3) == dataclasses.replace(RESNET8, classes=3)
    recipe = load_recipe("modern", RESNET8, {"epochs": 2, "batch_size": 25})
    test = Batches(pictures.test_images, pictures.test_labels, _split(pictures, recipe).normalisation, 50)
    result = json.loads((run / "result.json").read_text())
    assert result["model"] == "baseline:mlperf-resnet8"
    assert evaluate(model, test)[0] == result["test_accuracy"]
    loaded = load_trained(str(run))
    assert (loaded.input_shape, loaded.source) == ((3, 8, 8), "baseline:mlperf-resnet8")
    assert loaded.normalisation is not None


def test_a_run_resumes_and_starts_another(run: Path, pictures: ImageSet, tmp_path: Path) -> None:
    recipe = load_recipe("modern", RESNET8, {"epochs": 2, "batch_size": 25, "resolution": []})
    again = train(RESNET8, recipe, pictures, run, resume=True, progress_bar=False)
    assert again.epochs == 2
    with pytest.raises(RunError, match="already holds a run"):
        train(RESNET8, recipe, pictures, run, progress_bar=False)
    with pytest.raises(RunError, match="holds a run with another baseline"):
        train(Baseline("mlperf-resnet8", 10, 16), recipe, _doubled(pictures), run, resume=True)
    short = load_recipe("modern", RESNET8, {"epochs": 1, "batch_size": 25, "resolution": []})
    warm = train(RESNET8, short, pictures, tmp_path / "warm", warm_start=run, progress_bar=False)
    assert warm.epochs_before == 2


def _doubled(images: ImageSet) -> ImageSet:
    return dataclasses.replace(
        images,
        train_images=images.train_images.repeat(2, 1).repeat(2, 2),
        test_images=images.test_images.repeat(2, 1).repeat(2, 2),
    )


def test_a_run_packs_with_its_classes_and_is_counted(run: Path, bitskip: Callable[..., Any]) -> None:
    out = run.parent / "resnet8.bitskip"
    ran = bitskip("pack", str(run), "--data", "mini", "--no-check", "-o", str(out))
    # The bundled pictures have 32 pixels; they are brought to the network's 8.
    assert ran.code == 0, ran.err
    program = Program.load(out)
    assert program.name == "mlperf-resnet8"
    assert program.class_names == tuple(load_mini().class_names)
    assert lower_run(run).name == "mlperf-resnet8"  # which knows its shape without being told
    counted = json.loads(bitskip("count", str(run), "--json").out)
    assert counted["parameters"] == RESNET8.cost().parameters


@pytest.mark.parametrize(
    ("name", "precisions", "optimizer"),
    [
        ("binarized-vgg", {"w1", "w1a1"}, "adam"),
        ("xnor-nin", {"fp32", "w1a1"}, "adam"),
        ("mlperf-resnet8", {"fp32"}, "sgd"),
    ],
)
def test_recipes_treat_a_baseline_by_its_precisions(name: str, precisions: set[str], optimizer: str) -> None:
    baseline = Baseline(name)
    assert baseline.precisions == precisions
    assert load_recipe("modern", baseline).optimizer == optimizer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binarized-vgg", "xnor-nin"])
def test_1_bit_baselines_train_and_pack(
    name: str, pictures: ImageSet, tmp_path: Path, bitskip: Callable[..., Any]
) -> None:
    network = Baseline(name, input_size=8)
    recipe = load_recipe("modern", network, {"epochs": 1, "batch_size": 25})
    train(network, recipe, pictures, tmp_path / "run", progress_bar=False)
    _, model = load_run(tmp_path / "run")
    assert all(layer.standardise for layer in binary_layers(model).values())
    out = tmp_path / "packed.bitskip"
    assert bitskip("pack", str(tmp_path / "run"), "--data", "mini", "-o", str(out)).code == 0
    assert Program.load(out).classes == 10


def test_a_head_is_taken_over_by_class_names() -> None:
    model = Baseline("binarized-vgg", classes=3, input_size=8).build()
    weights = model.state_dict()
    head = Baseline("binarized-vgg").head
    taken = match_classes(weights, ("a", "b", "c"), ("c", "a"), head)
    assert torch.equal(taken["fc9.weight"], weights["fc9.weight"][[2, 0]])
    assert torch.equal(taken["bn9.running_var"], weights["bn9.running_var"][[2, 0]])
    assert taken["bn9.num_batches_tracked"].dim() == 0
    assert not any(key.startswith(head) for key in match_classes(weights, ("a", "b", "c"), ("d", "a"), head))


def test_what_does_not_fit_is_one_sentence(run: Path, tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match=r"unknown baseline 'resnet8'.*did you mean 'mlperf-resnet8'"):
        Baseline("resnet8")
    with pytest.raises(FileFormatError, match="it names no baseline"):
        Baseline.from_json('{"baseline": "mlperf-resnet8", "width": 3}', "it")
    assert "baseline" in weights_metadata(run)
    for words, said in (
        (("baseline:xnor-nin", "--width", "0.5"), "--width does not apply to baseline:xnor-nin"),
        (("baseline:xnor-nn",), "did you mean 'xnor-nin'"),
        (("torchvision:resnet18",), "is not a network of bitskip's own"),
    ):
        ran = bitskip("train", *words, "--data", "mini", "--out", str(tmp_path / "out"))
        assert (ran.code, said in ran.err) == (2, True), ran.err
        assert not (tmp_path / "out").exists()
    assert trainable("resnet14-full-all") == named_spec("resnet14-full-all")
