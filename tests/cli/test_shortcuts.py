"""`bitskip shortcuts` from a trained run to a pruned one, and what it says to bad input."""

from __future__ import annotations

import dataclasses
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bitskip.data import load_mini
from bitskip.spec import named_spec
from bitskip.training import Hardware, load_recipe, load_run, train

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network, trained for an epoch on a corner of the bundled set."""
    whole = load_mini()
    corner = dataclasses.replace(
        whole,
        train_images=whole.train_images[::2],
        train_labels=whole.train_labels[::2],
        test_images=whole.test_images[:50],
        test_labels=whole.test_labels[:50],
    )
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("paper", "resnet14-full-all", {"epochs": 1, "batch_size": 50})
    spec = named_spec("resnet14-full-all-x0.0625")
    train(spec, recipe, corner, folder, hardware=Hardware(precision="32-true"), progress_bar=False)
    return folder


def test_from_a_run_to_a_pruned_run(run: Path, tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    listed = json.loads(bitskip("shortcuts", "list", str(run), "--json").out)
    assert [s["id"] for s in listed["shortcuts"]] == [f"stage{s}.block{b}" for s in (1, 2, 3) for b in (1, 2)]

    scores, plan = str(tmp_path / "scores.json"), str(tmp_path / "plan.json")
    words = ("--data", "mini", "--batches", "1", "--batch-size", "50")
    words += ("--accelerator", "cpu")
    scored = bitskip("shortcuts", "score", str(run), "--out", scores, *words, "--json")
    assert {row["id"] for row in json.loads(scored.out)} == {s["id"] for s in listed["shortcuts"]}
    assert all(row["loss_ci"] is not None for row in json.loads(scored.out))  # of 100 pictures in ten batches
    assert "scoring 1/6: stage1.block1" in scored.err

    planned = bitskip(
        "shortcuts", "plan", str(run), "--keep", "2", "--scores", scores, "--out", plan, "--json"
    )
    actions = [entry["action"] for entry in json.loads(planned.out)["shortcuts"]]
    assert (actions.count("keep"), actions.count("remove")) == (2, 4)

    out = tmp_path / "pruned"
    done = bitskip("shortcuts", "prune", str(run), plan, "--out", str(out), "--refit", *words, "--json")
    report = json.loads(done.out)
    assert json.loads((out / "report.json").read_text()) == report
    assert set(report["held_out_accuracy"]) == {"teacher", "closed", "batch_norm", "refit"}
    gains = {gain["name"]: gain for gain in report["gains"]}
    assert (gains["shortcuts"]["before"], gains["shortcuts"]["after"]) == (6, 2)
    # A pruned run is a run: every command takes it.
    spec, model = load_run(out)
    assert sum(block.shortcut is not None for block in spec.iter_blocks()) == 2
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert len(json.loads(bitskip("shortcuts", "list", str(out), "--json").out)["shortcuts"]) == 2


def test_recovering_a_run(run: Path, tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    plan, out = str(tmp_path / "plan.json"), tmp_path / "pruned"
    bitskip("shortcuts", "plan", str(run), "--keep", "middle", "--out", plan)
    words = ("--out", str(out), "--data", "mini", "--batch-size", "100", "--epochs", "4")
    ran = bitskip("shortcuts", "recover", str(run), plan, *words, "--json")
    report = json.loads(ran.out)
    assert [entry["epoch"] for entry in report["history"]] == [1, 2, 3, 4]
    assert "epoch 4/4" in ran.err
    spec, _ = load_run(out)
    assert spec.name == "resnet14-full-middle-x0.0625"
    again = bitskip("shortcuts", "recover", str(run), plan, *words, "--json")  # finished: nothing to train
    assert "epoch" not in again.err
    assert json.loads(again.out)["held_out_accuracy"] == report["held_out_accuracy"]
    ran = bitskip("shortcuts", "recover", str(run), plan, *words, "--seed", "1")
    assert "holds the state of another recovery" in ran.err
    ran = bitskip("shortcuts", "recover", str(run), plan, *words[:-1], "3")
    assert "4 gates need 4 epochs to close, but there are 3" in ran.err


def test_tables_are_for_people(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    out = bitskip("shortcuts", "list", "resnet14-full-all-x0.125").out
    assert "stage2.block1" in out
    assert "projection" in out
    assert "no gain here" in out  # the peak of an executor that adds in place does not move
    plan = str(tmp_path / "plan.json")
    out = bitskip("shortcuts", "plan", "resnet14-full-all-x0.125", "--keep", "none", "--out", plan).out
    assert "remove" in out
    assert f"written to {plan}" in out


def test_library_models(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    from torchvision.models import resnet18

    plan, out = str(tmp_path / "plan.json"), tmp_path / "out"
    name = "torchvision:resnet18"
    small = ("--input-size", "64")
    kept = bitskip("shortcuts", "plan", name, "--keep", "layer2.0,layer3.0", "--out", plan, *small, "--json")
    assert [e["id"] for e in json.loads(kept.out)["shortcuts"] if e["action"] == "keep"] == [
        "layer2.0",
        "layer3.0",
    ]
    torch.manual_seed(0)
    save_file(resnet18(weights=None).state_dict(), tmp_path / "weights.safetensors")
    weights = ("--weights", str(tmp_path / "weights.safetensors"))
    bitskip("shortcuts", "prune", name, plan, "--out", str(out), *weights, *small)
    assert {path.name for path in out.iterdir()} == {"weights.safetensors", "plan.json", "report.json"}
    normalised = safe_open(out / "weights.safetensors", framework="pt").metadata()
    assert (normalised["mean"], normalised["std"]) == ("0.485,0.456,0.406", "0.229,0.224,0.225")
    assert (
        len(json.loads(bitskip("shortcuts", "list", "timm:resnet18d", *small, "--json").out)["shortcuts"])
        == 8
    )


BAD = {
    "a model without shortcuts": (("plan", "resnet14-full-none"), "has no shortcuts"),
    "an unknown id": (
        ("plan", "resnet14-full-all", "--keep", "stage1.block9"),
        "no shortcut 'stage1.block9'; did you mean 'stage1.block",
    ),
    "an unknown model": (
        ("list", "torchvision:resnet19"),
        "unknown torchvision model 'resnet19'; did you mean",
    ),
    "an unknown timm model": (("list", "timm:resnt18d"), "unknown timm model 'resnt18d'; did you mean"),
    "no scores": (("plan", "resnet14-full-all", "--keep", "3"), "needs a score"),
    "a budget without scores": (("plan", "resnet14-full-all", "--max-accuracy-drop", "1"), "needs a score"),
    "a target out of reach": (
        ("plan", "resnet14-full-all", "--target-peak", "9"),
        "choose a target of at least",
    ),
    "no plan file": (("prune", "resnet14-full-all", "none.json", "--out", "x"), "cannot read none.json"),
    "weights for a spec": (
        ("prune", "resnet14-full-all", "p.json", "--out", "x", "--weights", "w.pt"),
        "--weights goes with torchvision: and timm: models",
    ),
    "a normalisation for a spec": (
        ("score", "resnet14-full-all-x0.0625", "--mean", "0,0,0", "--data", "mini"),
        "--mean and --std go with torchvision: and timm: models",
    ),
    "a standard deviation of 0": (
        ("score", "torchvision:resnet18", "--std", "0,1,1", "--data", "mini"),
        "expected as many numbers of each, and std above 0",
    ),
    "a share above 1": (
        ("recover", "resnet14-full-all-x0.0625", "p.json", "--out", "x", "--teacher-weight", "35"),
        "--teacher-weight is 35, expected a share, 0 to 1",
    ),
    "batches of no picture": (
        ("score", "resnet14-full-all-x0.0625", "--data", "mini", "--batch-size", "0"),
        "batch size is 0, expected at least 1",
    ),
    "no batches": (
        ("score", "resnet14-full-all-x0.0625", "--data", "mini", "--batches", "-1"),
        "max_batches is -1, expected at least 1",
    ),
    "an unknown classifier": (
        ("coverage", "--out", "page.md", "--only", "resnet18, resnt34"),
        "unknown torchvision classifier 'resnt34'; did you mean 'resnet34'",
    ),
    "data of other classes": (
        ("score", "torchvision:resnet18", "--data", "mini"),
        "has pictures of 32 pixels, but torchvision:resnet18 takes 224",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bitskip: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = BAD[case]
    ran = bitskip("shortcuts", *words)
    assert ran.code == 2
    assert message in ran.err
    assert len([line for line in ran.err.splitlines() if line.startswith("bitskip: error:")]) == 1
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "words",
    [("score", "NET"), ("prune", "NET", "p.json", "--out", "x"), ("recover", "NET", "p.json", "--out", "x")],
)
@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ("gpu", "sees no GPU here; use --accelerator cpu"),
        ("cpuu", "--accelerator is 'cpuu', expected auto, cpu or gpu; did you mean 'cpu'?"),
    ],
)
def test_where_to_compute(
    words: tuple[str, ...],
    accelerator: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bitskip: Callable[..., Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    given = [word.replace("NET", "resnet14-full-all-x0.0625") for word in words]
    ran = bitskip("shortcuts", *given, "--accelerator", accelerator)
    assert (ran.code, said in ran.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_another_model_is_refused(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    plan = str(tmp_path / "plan.json")
    bitskip("shortcuts", "plan", "resnet14-full-all-x0.125", "--out", plan)
    ran = bitskip("shortcuts", "prune", "resnet14-full-all-x0.25", plan, "--out", str(tmp_path / "out"))
    assert ran.code == 2
    assert "the plan was made for another model" in ran.err
    assert not (tmp_path / "out").exists()


def test_coverage_writes_a_page_and_its_json(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    page = tmp_path / "page.md"
    bitskip("shortcuts", "coverage", "--out", str(page), "--only", "resnet18,squeezenet1_1")
    rows = json.loads(page.with_suffix(".json").read_text())["rows"]
    assert [(row["model"], row["shortcuts"]) for row in rows] == [("resnet18", 8), ("squeezenet1_1", 0)]
    assert rows[0]["proof"]["removed"] <= 1e-5 < 1e-3 < rows[0]["proof"]["effect"]
    assert rows[0]["projection_parameters"] == 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)
    assert "| resnet18 | 8 = 5 + 3 + 0 |" in page.read_text()
    assert "| squeezenet1_1 | none |" in page.read_text()


def test_the_committed_coverage_page_is_that_of_its_json() -> None:
    from bitskip.pruning.coverage import coverage_page, torchvision_classifiers

    values = json.loads((ROOT / "docs" / "shortcuts-coverage.json").read_text())
    assert (ROOT / "docs" / "shortcuts-coverage.md").read_text() == coverage_page(values)
    rows = {row["model"]: row for row in values["rows"]}
    assert len(rows) >= 80
    assert all(row["shortcuts"] is not None for row in rows.values())
    assert all(row["proof"]["removed"] <= 1e-5 for row in rows.values() if "proof" in row)
    assert all(row["proof"]["effect"] > 1e-3 for row in rows.values() if "proof" in row)
    assert rows.keys() <= set(torchvision_classifiers()) or len(torchvision_classifiers()) != len(rows)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "prune_torchvision.py"
    assert len(path.read_text().splitlines()) < 20
    runpy.run_path(str(path))
    out = capsys.readouterr().out
    assert "shortcuts: 16 -> 10" in out
    assert "no gain here" in out
