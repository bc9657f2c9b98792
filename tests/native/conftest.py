"""What tests of the native sources share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cmake() -> str:
    """The command: that on the path, or the one of the Python package."""
    beside = Path(sys.executable).parent / "cmake"
    found = shutil.which("cmake") or (str(beside) if beside.exists() else None)
    if found is None:
        pytest.skip("needs cmake")
    return found
