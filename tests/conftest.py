"""What all tests share: torchvision made importable, and the `bitskip` command in the test's process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from bitskip.cli import main
from bitskip.nn.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def bitskip(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Return a function that runs `bitskip` with the given words."""

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["bitskip", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        return Ran(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
