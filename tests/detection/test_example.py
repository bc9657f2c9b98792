"""The example from training to its table, at a tiny scale."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "detect.py"


@pytest.mark.slow
def test_the_example_ends_with_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path), "--size", "64", "--batch-size", "2", "--objects", "mini"]
    steps = {
        "train": ["--steps", "2", "--warm-steps", "1", "--test-pictures", "2"],
        "hybrid": ["--steps", "3", "--test-pictures", "2"],
        "longer": ["--test-pictures", "2"],
        "report": ["--test-pictures", "10", "--calibration", "8", "--results", str(tmp_path / "results")],
    }
    for step, more in steps.items():
        monkeypatch.setattr(sys, "argv", ["detect.py", step, *words, *more])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    values = json.loads((tmp_path / "results" / "detection.json").read_text())
    names = [row["name"] for row in values["rows"]]
    assert names[0] == "fp32, torchvision"
    assert len(names) == 5
    assert values["rows"][-1]["backbone_bytes"] * 8 < values["rows"][0]["backbone_bytes"]
    assert (tmp_path / "results" / "boxes.png").stat().st_size > 1000
    page = (tmp_path / "results" / "README.md").read_text()
    assert all(f"| {name} |" in page for name in names)
    assert "hybrid, packed, int8 activations" in capsys.readouterr().out
