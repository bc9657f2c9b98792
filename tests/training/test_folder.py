"""What a run left is read without Lightning, and its result without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("bitskip.training.folder", "torch"),
        ("bitskip.sources.load, bitskip.sources.pruned, bitskip.lower.run, bitskip.pruning", "lightning"),
    ],
)
def test_reading_runs_does_not_load_what_is_slow(modules: str, slow: str) -> None:
    code = f"import sys, {modules}; sys.exit('{slow}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_public_names_are_found_where_they_live() -> None:
    import bitskip.training as training

    assert all(getattr(training, name) is not None for name in training.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        training.nothing  # noqa: B018
