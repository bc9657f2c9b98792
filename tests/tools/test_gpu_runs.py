"""`tools/gpu_runs.py`: its plan holds together, and what it runs ends, fails, stops in time and goes on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bitskip.nn.baselines import baseline_names
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.kept import kept_run

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_runs.py"


def _load() -> Any:
    found = importlib.util.spec_from_file_location("gpu_runs", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["gpu_runs"] = module  # where dataclasses look their module up
    found.loader.exec_module(module)
    return module


gpu_runs = _load()


def test_the_plan_has_everything_that_wants_a_gpu(tmp_path: Path) -> None:
    jobs = {job.name: job for job in gpu_runs.plan(tmp_path, gpu_runs.Scale())}
    for name in PAPER_VARIANTS:
        assert (name in jobs["paper"].commands[0]) == (kept_run(name) is None)
        assert {f"{name}-seed{seed}" for seed in range(3)} <= set(jobs)
    assert {*baseline_names(), "edge-32k", "edge-m4-w1", "detector", "ablation"} <= set(jobs)
    order = list(jobs)
    for job in jobs.values():
        assert job.minutes > 0
        assert not job.after or order.index(job.after) < order.index(job.name)
    taught = jobs["resnet14-binary-none-seed1"].commands[0]
    assert taught[taught.index("--teacher") + 1] == str(tmp_path / "resnet14-full-all-seed0")
    assert str(tmp_path / jobs["edge-16k"].name / "edge-16k.bitskip") in jobs["edge-16k"].commands[1]


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(SCRIPT), "--dry-run", "--out", str(tmp_path / "gpu")]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu_runs.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("paper: about ")
    assert "minutes of one H200" in said[-1]
    assert not (tmp_path / "gpu").exists()
    monkeypatch.setattr(sys, "argv", [*words, "--only", "nothing"])
    with pytest.raises(SystemExit) as end:
        gpu_runs.main()
    assert (end.value.code, "no job is named nothing" in capsys.readouterr().err) == (2, True)


def _job(name: str, *codes: str, after: str = "") -> Any:
    return gpu_runs.Job(name, tuple((sys.executable, "-c", code) for code in codes), 0.1, after)


def test_jobs_end_fail_stop_in_time_and_go_on(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.mkdir()

    def writes(name: str) -> str:
        return f"open({str(counts / name)!r}, 'a').write('x')"

    (tmp_path / "first").mkdir()
    result = tmp_path / "first" / "result.json"
    weights = tmp_path / "first" / "weights.safetensors"
    jobs = [
        _job("first", writes("first"), f"[open(p, 'w') for p in ({str(result)!r}, {str(weights)!r})]"),
        _job("bad", "raise SystemExit(3)", writes("never")),
        _job("second", writes("second"), after="first"),
        _job("orphan", writes("orphan"), after="bad"),
        _job("long", "import time; time.sleep(600)"),
    ]
    state = gpu_runs.run(jobs, tmp_path, at_a_time=2, seconds=5.0)
    assert state == {"first": "done", "bad": "failed", "second": "done", "orphan": "left", "long": "stopped"}
    assert sorted(path.name for path in counts.iterdir()) == ["first", "second"]
    jobs[4] = _job("long", writes("long"))
    again = gpu_runs.run(jobs, tmp_path, at_a_time=2, seconds=None)
    assert again == {"first": "done", "bad": "failed", "second": "done", "orphan": "left", "long": "done"}
    assert (counts / "first").read_text() == "x"  # what has ended is not run again
    with tarfile.open(tmp_path / "small.tar.gz") as tar:
        names = tar.getnames()
    assert "first/result.json" in names
    assert "logs/bad.log" in names
    assert "first/weights.safetensors" not in names


@pytest.mark.slow
def test_trainings_run_at_a_tiny_scale(tmp_path: Path) -> None:
    names = ("resnet14-full-all-seed0", "resnet14-binary-none-seed0", "mlperf-resnet8")
    only = [word for name in names for word in ("--only", name)]
    words = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path), "--at-a-time", "1", *only]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with tarfile.open(tmp_path / "small.tar.gz") as tar:
        listed = tar.getnames()
    assert {f"{name}/{name}.bitskip" for name in names} <= set(listed)
