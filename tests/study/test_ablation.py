"""The ablation: which arms apply, what is compared, resuming with more arms, two processes, bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitskip.data import ImageSet, load_mini
from bitskip.errors import InterruptedRunError, RecipeError, RunError, SpecError
from bitskip.files import write_json
from bitskip.jobs import Place
from bitskip.report.ablation import ablation_markdown, draw_ablation, write_ablation
from bitskip.study.ablation import ARMS, Ablation, compare, plan_ablation, run_ablation

MODEL = "resnet14-binary-none"


@pytest.fixture(scope="module")
def corner() -> ImageSet:
    whole = load_mini()
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[::5],
        train_labels=whole.train_labels[::5],
        test_images=whole.test_images[::5],
        test_labels=whole.test_labels[::5],
    )


def _plan(*arms: str, seeds: int = 1, **changes: Any) -> Ablation:
    fixed = {"batch_size": 30, "reestimate_batches": 2}
    return plan_ablation(
        [MODEL], arms=arms or ("freeze",), width=0.0625, epochs=1, seeds=seeds, changes=fixed | changes
    )


def _arms(model: str, **options: Any) -> set[str]:
    return {job.arm.name for job in plan_ablation([model], seeds=1, **options).jobs}


# -- the plan ------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A file that stands for a finished run; a plan only notes which it is."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def test_only_arms_that_change_something_are_run(teacher: Path) -> None:
    full, binary = _arms("resnet14-full-all"), _arms("resnet14-binary-all", teacher=teacher)
    assert not (full | binary) & {"cutout", "light"}  # modern's augmentation is light
    heavy = _arms("resnet14-full-all", changes={"augmentation.crop": 4, "augmentation.cutout": 8})
    assert heavy == full | {"cutout", "light"}
    assert {"whole", "whitening", "label_smoothing", "ema", "alternating_flip", "cosine"} <= full
    of_binary = {"standardise", "freeze", "distillation", "views", "warm_start"}
    assert not full & {*of_binary, "zero_gamma", "two_steps"}
    assert {*of_binary, "reestimate"} <= binary
    assert not binary & {"ema", "label_smoothing"}  # modern has neither for 1-bit weights
    assert "whitening" not in binary  # the weights that it starts from replace the stem
    assert "whitening" in _arms("resnet14-binary-all")
    of_paper = _arms("resnet14-binary-all", teacher=teacher, recipe="paper")
    assert of_paper & {"distillation", "views", "warm_start"} == {"warm_start"}  # it distils from none
    assert "zero_gamma" in _arms("resnet20")
    assert "two_steps" in _arms("resnet14-w1a1")
    assert not _arms("resnet14-binary-all") & {"distillation", "views", "warm_start"}
    assert heavy | binary | {"zero_gamma", "two_steps"} == set(ARMS)


def test_each_arm_changes_what_it_says_and_nothing_else(teacher: Path) -> None:
    for model in ("resnet14-full-all", "resnet14-binary-all", "resnet14-w1a1", "resnet20"):
        jobs = plan_ablation([model], seeds=1, teacher=teacher).jobs
        whole = jobs[0]
        assert whole.arm.name == "whole"
        for job in jobs[1:]:
            differing = {
                key
                for key, value in job.recipe.model_dump().items()
                if value != whole.recipe.model_dump()[key]
            }
            assert differing <= {key.partition(".")[0] for key in job.arm.changes}
            sources = (job.teacher, job.warm_start)
            assert differing or sources != (whole.teacher, whole.warm_start)
            if job.arm.name == "distillation":
                assert sources == (None, whole.warm_start)
            elif job.arm.name == "warm_start":
                assert sources == (whole.teacher, None)
            else:
                assert sources == (whole.teacher, whole.warm_start)
    assert plan_ablation(["resnet14-full-all"], teacher=teacher).jobs[0].teacher is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changes": {"epochs": 5}}, RunError, "'epochs' is set by --epochs"),
        ({"arms": ["whitenin"]}, RunError, "unknown arm 'whitenin'.*did you mean 'whitening'"),
        ({"arms": ["ema"]}, RunError, "'ema' changes nothing for 'resnet14-binary-none': the recipe has it"),
        ({"arms": ["distillation"]}, RunError, "there is no teacher; name a finished run with --teacher"),
        ({"arms": ["zero_gamma"]}, RunError, "only blocks of style 'standard'"),
        ({"seeds": 0}, RunError, "seeds is 0, expected at least 1"),
        ({"recipe": "modrn"}, RecipeError, "did you mean 'modern'"),
        ({"changes": {"emma": 1}}, RecipeError, "unknown key 'emma'"),
        ({"models": ["resnet15"]}, SpecError, "unknown model 'resnet15'"),
    ],
)
def test_bad_plans_are_one_sentence(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_ablation(**({"models": [MODEL]} | options))


# -- the comparison ------------------------------------------------------------------------------------


def test_differences_are_taken_seed_by_seed() -> None:
    found = compare({0: 0.80, 1: 0.82, 2: 0.87, 7: 0.5}, {0: 0.81, 1: 0.85, 2: 0.89})
    differences = [-0.01, -0.03, -0.02]
    assert found["n"] == 4
    assert found["mean"] == pytest.approx((0.80 + 0.82 + 0.87 + 0.5) / 4)
    assert found["difference"] == pytest.approx(-0.02)
    reach = 4.3027 * statistics.stdev(differences) / math.sqrt(3)
    assert found["interval_95"] == pytest.approx([-0.02 - reach, -0.02 + reach], abs=1e-6)
    assert compare({0: 0.8}, {0: 0.7}) == {
        "n": 1,
        "mean": 0.8,
        "standard_deviation": None,
        "difference": pytest.approx(0.1),
        "interval_95": None,
    }
    assert compare({0: 0.8}, {})["difference"] is None


# -- running -------------------------------------------------------------------------------------------


def test_an_ablation_resumes_with_more_arms_in_two_processes(corner: ImageSet, tmp_path: Path) -> None:
    seen: list[str] = []
    first = run_ablation(
        _plan("freeze"), corner, tmp_path, on_run=lambda index, count, job, result: seen.append(job.folder)
    )
    model = f"{MODEL}-x0.0625"
    assert seen == [f"{model}/whole-seed0", f"{model}/freeze-seed0"]
    assert [row["arm"] for row in first["rows"]] == ["whole", "freeze"]
    stamps = {folder: (tmp_path / folder / "result.json").stat().st_mtime_ns for folder in seen}
    again: list[tuple[int, int, str]] = []
    values = run_ablation(
        _plan("freeze", "whitening", "translate"),
        corner,
        tmp_path,
        place=Place(jobs=2, threads=1),
        on_run=lambda index, count, job, result: again.append((index, count, job.folder)),
    )
    assert [(index, count) for index, count, _ in again] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {folder: (tmp_path / folder / "result.json").stat().st_mtime_ns for folder in seen} == stamps
    assert [row["arm"] for row in values["rows"]] == ["whole", "whitening", "translate", "freeze"]
    assert values == json.loads((tmp_path / "results.json").read_text())
    for row in values["rows"]:
        folder = tmp_path / model / f"{row['arm']}-seed0"
        assert row["accuracies"] == {"0": json.loads((folder / "result.json").read_text())["test_accuracy"]}
        if row["arm"] != "whole":
            assert row["difference"] == pytest.approx(row["mean"] - values["rows"][0]["mean"])
    with pytest.raises(RunError, match="holds an ablation with another changes"):
        run_ablation(_plan(batch_size=31), corner, tmp_path)


def test_an_interrupted_ablation_says_how_to_go_on(
    corner: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("interrupted; continue with --resume --out somewhere/inside")

    monkeypatch.setattr("bitskip.training.run.train", stop)
    with pytest.raises(RunError, match=f"^interrupted; the same command with --out {tmp_path} goes on$"):
        run_ablation(_plan(), corner, tmp_path)


# -- page, plot, command --------------------------------------------------------------------------------


def _values() -> dict[str, Any]:
    whole = {0: 0.90, 1: 0.91, 2: 0.92}
    rows = []
    for arm, change in (("whole", 0.0), ("cutout", -0.011), ("freeze", 0.002)):
        accuracies = {seed: value + change * (1 + 0.1 * seed) for seed, value in whole.items()}
        rows.append(
            {
                "model": "m",
                "arm": arm,
                "what": ARMS[arm].what,
                "seconds": 130.0,
                **compare(accuracies, {} if arm == "whole" else whole),
            }
        )
    return {
        "recipe": "modern",
        "width": 0.25,
        "epochs": 10,
        "data": "CIFAR-10",
        "train_images": 50_000,
        "held_out_images": 5_000,
        "test_images": 10_000,
        "teacher": None,
        "changes": {},
        "runs": 9,
        "runs_done": 9,
        "machine": {"cpu": "Made-up Processor"},
        "versions": {"torch": "2.13.0"},
        "rows": rows,
    }


def test_page_and_plot_hold_the_differences(tmp_path: Path) -> None:
    values = _values()
    page = ablation_markdown(values, "a.svg")
    assert "| cutout | no cutout | 89.79 ± 0.89 | 3 | −1.21 | −1.48 to −0.94 | 2 min |" in page
    assert "| whole | the recipe as it is | 91.00 ± 1.00 | 3 |  |  | 2 min |" in page
    assert "Not complete" not in page
    assert "Not complete: 8 of 9 runs are done." in ablation_markdown(values | {"runs_done": 8}, "a.svg")
    faster = values | {"versions": {"torch": "2.13.0", "convolutions": "Winograd"}}
    assert "torch 2.13.0.\n" in page
    assert "torch 2.13.0, convolutions Winograd.\n" in ablation_markdown(faster, "a.svg")
    (axes,) = draw_ablation(values).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.22, -1.21])  # from below
    write_ablation(values, tmp_path)
    assert "cutout: no cutout" in (tmp_path / "ablation.svg").read_text()
    draw_ablation(values | {"rows": values["rows"][:1]})  # nothing to compare yet is no error


def test_command(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    words = ("ablate", MODEL, "--width", "0.0625", "--epochs", "1", "--seeds", "1", "--data", "mini")
    end = bitskip(*words, "--arms", "translate", "--set", "batch_size=300", "--out", str(tmp_path), "--json")
    assert end.code == 0
    values = json.loads(end.out)
    assert [row["arm"] for row in values["rows"]] == ["whole", "translate"]
    assert (tmp_path / "page.md").is_file()
    assert f"[2/2] {MODEL}-x0.0625/translate-seed0: " in end.err
    end = bitskip(*words, "--arms", "translate", "--set", "batch_size=300", "--out", str(tmp_path))
    assert "points" in end.out  # the table
    end = bitskip(*words, "--arms", "nothing", "--out", str(tmp_path))
    assert (end.code, len(end.err.strip().splitlines())) == (2, 1)


def test_a_stopped_command_leaves_a_page_of_what_is_done(
    tmp_path: Path, bitskip: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        write_json(tmp_path / "results.json", _values() | {"runs_done": 8})
        raise InterruptedRunError("interrupted")

    monkeypatch.setattr("bitskip.study.ablation.run_ablation", stop)
    end = bitskip("ablate", MODEL, "--width", "0.0625", "--data", "mini", "--out", str(tmp_path))
    assert (end.code != 0, "interrupted" in end.err) == (True, True)
    assert "Not complete: 8 of 9 runs are done." in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--jobs", "0"), "--jobs is '0', expected auto or a whole number of at least 1"),
        (("--teacher", "nowhere"), "nowhere holds no weights.safetensors; is the run finished?"),
    ],
)
def test_what_is_asked_is_checked_before_the_data(
    words: tuple[str, ...], message: str, tmp_path: Path, bitskip: Callable[..., Any]
) -> None:
    end = bitskip(
        "ablate", MODEL, *words, "--data", str(tmp_path / "no data"), "--out", str(tmp_path / "out")
    )
    assert (end.code != 0, message in end.err) == (True, True)
    assert not (tmp_path / "out").exists()
