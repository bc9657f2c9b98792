"""`bitskip bench` on a small packed model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitskip.backends.native import available_isas
from programs import every_op


def test_bench_times_every_instruction_set_and_layer(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    program = every_op()
    program.save(tmp_path / "m.bitskip")
    words = ("bench", str(tmp_path / "m.bitskip"), "--seconds", "0.05", "--layers", "--batch", "3")
    ran = bitskip(*words, "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    expected = [isa for isa in available_isas() if isa != "scalar"] or ["scalar"]
    assert [t["isa"] for t in report["timings"]] == expected
    assert all(0 < t["p10_ms"] <= t["median_ms"] <= t["p90_ms"] for t in report["timings"])
    assert all(t["batch"] == 3 for t in report["timings"])
    assert [layer["op"] for layer in report["layers"][expected[-1]]] == [op.name for op in program.ops]
    ran = bitskip(*words, "--isa", "scalar", "--threads", "2")
    assert ran.code == 0
    assert "_scalar" in ran.out


def test_bench_names_what_is_wrong(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    every_op().save(tmp_path / "m.bitskip")
    ran = bitskip("bench", str(tmp_path / "m.bitskip"), "--isa", "sse9")
    assert ran.code == 2
    assert "unknown instruction set 'sse9'" in ran.err
