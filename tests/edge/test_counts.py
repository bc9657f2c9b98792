"""Instructions predicted in an exported README beside those that an emulated board counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_emulator import run

from bitskip.backends.c99.counts import predict
from bitskip.program import Program
from bitskip.zoo.catalog import models_folder


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m0plus"])
def test_predicted_instructions_are_near_the_counted(core: str, tmp_path: Path) -> None:
    program = Program.load(models_folder() / "edge-m4-int8-first.bitskip")
    ran, _ = run(program, core, tmp_path, 1)
    assert predict(program, core) == pytest.approx(ran.instructions, rel=0.1)


def test_what_was_never_counted_is_not_predicted() -> None:
    program = Program.load(models_folder() / "edge-m4-int8-first.bitskip")
    assert predict(program, "host") is None
