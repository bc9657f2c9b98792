"""The repository stays light: what commands wrote is kept, weights that can be made again are not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000


def test_results_stay_below_12_megabytes() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "results"], capture_output=True, text=True
    )
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode != 0 or not names:
        pytest.skip("not a git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    assert sum(sizes.values()) <= 12 * MEGABYTE, f"largest: {largest}"
