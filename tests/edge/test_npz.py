"""`bitskip export --to npz`: enough to compute the network again without bitskip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from edge_programs import PROGRAMS

from bitskip.backends.npz import arrays_of
from bitskip.backends.reference import run_reference
from programs import every_op


def _layer(file: Any, op: dict[str, Any], tensors: Any, x: Any) -> Any:
    """One 1-bit layer on signs, from the file alone: +1/-1 weights, padding, thresholds."""
    w = file[op["weight"]].astype(np.int64)
    assert set(np.unique(w)) == {-1, 1}
    (ph, pw), (sh, sw) = op["padding"], op["stride"]
    x = np.pad(x, ((ph, ph), (pw, pw), (0, 0)), constant_values=op["pad_value"])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], (0, 1))[::sh, ::sw]
    acc = np.einsum("hwiyx,oyxi->hwo", windows, w)
    beyond = (acc >= file[op["epilogue"]["threshold"]]) ^ file[op["epilogue"]["flip"]]
    return np.where(beyond, 1, -1)


def test_a_layer_of_signs_is_computed_from_the_file_alone(
    bitskip: Callable[..., Any], tmp_path: Path
) -> None:
    program = PROGRAMS["w1a1"]()
    program.save(tmp_path / "m.bitskip")
    ran = bitskip("export", str(tmp_path / "m.bitskip"), "--to", "npz", "-o", str(tmp_path / "m"))
    assert ran.code == 0, ran.err
    file = np.load(tmp_path / "m.npz")
    ops, tensors = json.loads(str(file["ops"])), json.loads(str(file["tensors"]))
    picture = np.random.default_rng(0).integers(0, 256, (1, *program.input_shape)).astype(np.uint8)
    seen: dict[int, Any] = {}
    run_reference(program, picture, observe=lambda number, values: seen.__setitem__(number, values[0]))
    checked = 0
    for op in ops:
        signs = tensors[op["input"]]["dtype"] == "bits"
        if signs and op["kind"] == "conv2d" and op["epilogue"]["kind"] == "threshold":
            x = np.where(seen[op["input"]], -1, 1)
            got = _layer(file, op, tensors, x)
            np.testing.assert_array_equal(got, np.where(seen[op["outputs"][0]], -1, 1))
            checked += 1
    assert checked == 4


def test_every_array_of_a_program_is_in_the_file() -> None:
    program = every_op()
    arrays = arrays_of(program)
    names = json.dumps(json.loads(str(arrays["ops"])))
    constants = [name for name in arrays if name not in ("ops", "tensors", "class_names")]
    assert len(constants) == sum(1 for _ in program.constants())
    assert all(f'"{name}"' in names for name in constants)


def test_an_option_of_another_target_is_refused(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    PROGRAMS["w1"]().save(tmp_path / "m.bitskip")
    out = tmp_path / "m.npz"
    ran = bitskip("export", str(tmp_path / "m.bitskip"), "--to", "npz", "-o", str(out), "--cpu", "cortex-m4")
    assert ran.code == 2
    assert "--to npz does not take --cpu" in " ".join(ran.err.split())
    assert not out.exists()
