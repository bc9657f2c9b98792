"""`bitskip train` as a user types it: two processes, resuming, and bad input in one sentence."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from bitskip.nn import build
from bitskip.spec import named_spec


def _bitskip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bitskip", *words], capture_output=True, text=True, timeout=300
    )


def _train(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    defaults = ("--width", "0.0625", "--data", "mini", "--out", str(out))
    return _bitskip("train", "resnet14-hybrid-none", *defaults, *options)


def test_two_processes_share_the_pictures(tmp_path: Path) -> None:
    both = _train(
        tmp_path,
        *("--epochs", "2", "--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--json"),
        *("--set", "latent.freeze=0.5"),  # parameters without a step must not stop the others
    )
    assert both.returncode == 0, both.stderr
    result = json.loads(both.stdout)  # one process prints
    assert [entry["epoch"] for entry in result["history"]] == [1, 2]
    assert both.stderr.count("epoch 2/2") == 1
    import torch

    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    optimizers = 2  # each counts as a step: real parameters, latent weights
    batch = 64  # the recipe's 128 would make fewer than ten steps an epoch of 900 pictures
    assert state["global_step"] == optimizers * 2 * (900 // 2 // batch)
    assert (tmp_path / "weights.safetensors").is_file()


def test_own_pictures_of_another_size_from_folder_to_file(
    tmp_path: Path, bitskip: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(5)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(10):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    options = ("--width", "0.0625", "--input-size", "16", "--data", "pictures", "--out", "run")
    short = ("--epochs", "1", "--set", "batch_size=4")
    trained = bitskip("train", "resnet14-hybrid-none", *options, *short)
    assert trained.code == 0, trained.err
    spec = json.loads(Path("run/spec.json").read_text())
    assert (spec["name"], spec["input_size"]) == ("resnet14-hybrid-none-x0.0625-16px", 16)
    words = ("pack", "run", "--activations", "int8", "--dense", "int8", "-o", "mine.bitskip", "--data")
    refused = bitskip(*words, "mini")
    assert refused.code == 2
    assert "has the classes airplane, automobile, bird, ... (10), and the run was trained on cat, dog" in (
        refused.err
    )
    assert not Path("mine.bitskip").exists()
    packed = bitskip(*words, "pictures")
    assert packed.code == 0, packed.err
    tested = bitskip("eval", "mine.bitskip", "--data", "pictures", "--json")
    held_out = json.loads(Path("run/result.json").read_text())["test_images"]  # which they are, files say
    assert json.loads(tested.out)["images"] == held_out
    assert bitskip("run", "mine.bitskip", "pictures/cat/0.png").code == 0


def test_compiled_training_gives_a_loadable_run(tmp_path: Path) -> None:
    run = _train(tmp_path, "--epochs", "1", "--compile", "--json")
    assert run.returncode == 0, run.stderr
    from bitskip.training import load_run

    spec, _ = load_run(tmp_path)
    assert spec.name == "resnet14-hybrid-none-x0.0625"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "resnet14-hybird-none"], "unknown model 'resnet14-hybird-none'; did you mean"),
        (["train", "resnet14-full-all", "--set", "learning_rat=1"], "unknown key 'learning_rat'; did you"),
        (["train", "resnet14-full-all", "--set", "learning_rate=-1"], "learning_rate: "),
        (["train", "resnet14-full-all", "--set", "latent=[1"], "--set latent: '[1' is no YAML value"),
        (["train", "resnet14-full-all", "--data", "nowhere"], "nowhere"),
        (["train", "broken.json", "--data", "mini"], "not valid JSON at line 1"),
        (["train", "resnet14-full-all", "--data", "mini", "--teacher", "nobody"], "does not learn from a"),
        (
            ["train", "resnet14-full-all", "--data", "mini", "--recipe", "modern", "--teacher", "nobody"],
            "nobody holds no weights",
        ),
        (["study", "--models", "resnet15"], "unknown model 'resnet15'"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('{"bitskip_spec": 1,')
    end = _bitskip(*words)
    assert end.returncode == 2
    assert message in end.stderr
    assert len(end.stderr.strip().splitlines()) <= 2  # a notice about the data may stand before it
    assert "Traceback" not in end.stderr


def test_a_teacher_of_another_class_count_is_one_sentence(
    tmp_path: Path, bitskip: Callable[..., Any]
) -> None:
    spec = dataclasses.replace(named_spec("resnet14-full-none-x0.0625"), classes=3)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    save_file(build(spec).state_dict(), teacher / "weights.safetensors", {"spec": spec.to_json()})
    words = ("resnet14-hybrid-none", "--width", "0.0625", "--data", "mini", "--teacher", str(teacher))
    for command in (("train", *words, "--recipe", "modern"), ("ablate", *words, "--recipe", "modern")):
        end = bitskip(*command, "--out", str(tmp_path / command[0]))
        assert end.code == 2
        (said,) = [line for line in end.err.splitlines() if line.startswith("bitskip: error: ")]
        assert "has 3 classes, but 'resnet14-hybrid-none-x0.0625' has 10" in said


def test_a_corrupt_picture_is_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = np.full((32, 32, 3), 10 * number, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    good = _train(tmp_path / "good", "--data", str(tmp_path / "pictures"), "--epochs", "1")
    assert good.returncode == 0, good.stderr
    assert "the head gets as many outputs" in good.stderr
    bad = tmp_path / "pictures" / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    end = _train(tmp_path / "bad", "--data", str(tmp_path / "pictures"), "--epochs", "1")
    assert end.returncode == 2
    assert "3.png" in end.stderr
    assert not (tmp_path / "bad").exists()


def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = ("resnet14-full-all", "--accelerator", "gpu", "--data", "mini", "--out", str(tmp_path / "run"))
    ran = bitskip("train", *words)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "sees no GPU here; use --accelerator cpu" in ran.err
    assert not (tmp_path / "run").exists()
