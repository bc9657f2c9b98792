"""Exported C on emulated boards: Cortex-M and RISC-V, bit for bit as the reference."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_programs import PROGRAMS
from emulator import BOARDS, run_on_board

from bitskip.backends import export_target
from bitskip.backends.c99.placement import steps_of
from bitskip.backends.reference import run_reference
from bitskip.errors import LoweringError
from bitskip.program import Program
from bitskip.zoo.catalog import models_folder

SMALL = ("w1", "int8", "w1a1", "mixed", "odd-w1", "deep-int8")
EDGE_16K = Path(__file__).parents[2] / "results" / "edge" / "edge-16k.bitskip"
TRAINED = (
    "edge-m4-w1",
    "edge-m4-int8-first",
    "resnet14-hybrid-all-x0.25-int8",
    "resnet14-full-all-x0.25-int8",
)


def run(
    program: Program,
    core: str,
    folder: Path,
    count: int,
    profile: bool = False,
    level: str = "-O3",
    **options: Any,
) -> Any:
    """Run `program` on a board; returns what was counted and what the reference says."""
    board = BOARDS[core]
    if board.missing():
        pytest.skip(f"{board.missing()} is not installed; `make test-edge` installs it")
    given = {"name": "net", "cpu": core, **options}
    facts = export_target("c99").export(program, folder / "net", given).facts
    pictures = np.random.default_rng(3).integers(0, 256, (count, *program.input_shape)).astype(np.uint8)
    steps = [(at, steps_of(op, program.tensors)) for at, op in enumerate(program.ops)] if profile else []
    ran = run_on_board(
        board, folder / "net", facts, pictures, program.classes, folder / "build", level=level, steps=steps
    )
    return ran, run_reference(program, pictures)


def assert_same_bits(got: Any, expected: Any) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "rv32imc"])
def test_a_network_gives_the_references_bits(core: str, tmp_path: Path) -> None:
    ran, expected = run(PROGRAMS["w1"](), core, tmp_path, 3)
    assert_same_bits(ran.logits, expected)
    assert 0 < ran.stack_bytes < 1024


def test_ops_counted_one_by_one_make_the_whole(tmp_path: Path) -> None:
    ran, _ = run(PROGRAMS["int8"](), "cortex-m4", tmp_path, 1, profile=True)
    assert sum(ran.ops) == pytest.approx(ran.instructions, rel=0.02)


@pytest.mark.parametrize("core", ["cortex-m0plus", pytest.param("cortex-m4", marks=pytest.mark.slow)])
def test_a_board_of_16_kib_of_flash_and_4_of_ram(core: str, tmp_path: Path) -> None:
    """Everything is linked: network, picture, logits, stack and what drives them. -O3 would not fit."""
    board = dataclasses.replace(BOARDS[core], script="cortex-m-16k.ld")
    if board.missing():
        pytest.skip(f"{board.missing()} is not installed; `make test-edge` installs it")
    program = Program.load(EDGE_16K)
    given = {"name": "net", "cpu": core, "flash-bytes": 16384, "arena-bytes": 2760}
    facts = export_target("c99").export(program, tmp_path / "net", given).facts
    assert facts["level"] == "-O2"
    pictures = np.random.default_rng(3).integers(0, 256, (5, *program.input_shape)).astype(np.uint8)
    ran = run_on_board(
        board, tmp_path / "net", facts, pictures, program.classes, tmp_path / "build", level=facts["level"]
    )
    assert_same_bits(ran.logits, run_reference(program, pictures))
    with pytest.raises(RuntimeError, match="region `FLASH' overflowed"):
        run_on_board(board, tmp_path / "net", facts, pictures, program.classes, tmp_path / "build")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("core", BOARDS)
def test_every_kernel_on_every_board(core: str, name: str, tmp_path: Path) -> None:
    ran, expected = run(PROGRAMS[name](), core, tmp_path, 1000 if name == "w1a1" else 100)
    assert_same_bits(ran.logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("core", BOARDS)
def test_trained_networks_on_a_thousand_pictures(core: str, name: str, tmp_path: Path) -> None:
    ran, expected = run(Program.load(models_folder() / f"{name}.bitskip"), core, tmp_path, 1000)
    assert_same_bits(ran.logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O0", "-Os", "-O2"])
@pytest.mark.parametrize("core", BOARDS)
def test_other_levels_give_the_same_bits(core: str, level: str, tmp_path: Path) -> None:
    """Loops in assembly stand in only where the compiler has registers for them."""
    for name in ("w1", "even-w1", "mixed"):
        ran, expected = run(PROGRAMS[name](), core, tmp_path / name, 3, level=level)
        assert_same_bits(ran.logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("core", BOARDS)
def test_bands_on_every_board(core: str, tmp_path: Path) -> None:
    program = Program.load(models_folder() / "edge-m4-w1.bitskip")
    with pytest.raises(LoweringError) as refused:
        run(program, core, tmp_path / "none", 1, **{"arena-bytes": 1})
    (smallest,) = re.findall(r"is (\d+) bytes$", str(refused.value))
    ran, expected = run(program, core, tmp_path / "least", 20, **{"arena-bytes": int(smallest)})
    assert_same_bits(ran.logits, expected)
