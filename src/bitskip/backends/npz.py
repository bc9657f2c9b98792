"""`bitskip export --to npz`: the numbers of a packed model as plain numpy arrays, for FPGA tools.

1-bit weights are int8 arrays of +1 and -1, thresholds are folded, and `ops` is a JSON text that lists the ops
in order with the names of their arrays. docs/program.md says what each computes; nothing of bitskip is
needed to read the file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends import Exported
from bitskip.bits import unpack_signs
from bitskip.files import write_bytes
from bitskip.program import Array, Conv2d, Op, Program, op_outputs


def arrays_of(program: Program) -> dict[str, Array]:
    """Return the arrays of the file, `ops` and `tensors` as JSON texts among them.

    An op's arrays are named `<number>.<layer>.<field>`, such as `01.stem.conv.weight`. Weights are
    (O, KH, KW, I): int8 +1 and -1 for 1-bit ones, else int8 or float32; channel vectors are (C,).
    """
    arrays: dict[str, Array] = {}
    rows = [_row(op, f"{at:02d}.{op.name}", program, arrays) for at, op in enumerate(program.ops)]
    tensors = [
        {"dtype": t.dtype, "shape": t.shape, "scale": t.scale, "zero_point": t.zero_point, "name": t.name}
        for t in program.tensors
    ]
    arrays["ops"] = np.array(json.dumps(rows))
    arrays["tensors"] = np.array(json.dumps(tensors))
    arrays["class_names"] = np.array(program.class_names, dtype=np.str_)
    return arrays


def _row(op: Op, prefix: str, program: Program, arrays: dict[str, Array]) -> dict[str, Any]:
    """Return the JSON values of an op; its arrays go to `arrays`, and their names into the values."""

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return name
        if is_dataclass(value):
            parts = {f.name: plain(getattr(value, f.name), f"{name}.{f.name}") for f in fields(value)}
            return {key: part for key, part in parts.items() if part is not None}
        return value

    row: dict[str, Any] = {"kind": op.kind, "outputs": op_outputs(op)}
    for field in fields(op):
        value = getattr(op, field.name)
        if field.name in ("kind", "output", "outputs", "in_place") or value is None:
            continue
        if isinstance(op, Conv2d) and field.name == "weight" and op.weight_dtype == "w1":
            value = unpack_signs(value, program.tensors[op.input].shape[2]).astype(np.int8)
        row[field.name] = plain(value, f"{prefix}.{field.name}")
    return row


class NpzTarget:
    """A packed model as one `.npz` file of plain arrays."""

    name = "npz"
    summary = "plain +1/-1 weights and folded thresholds as numpy arrays, for FPGA tools"
    options: frozenset[str] = frozenset()

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return nothing: every program can be written."""
        return ()

    def export(self, program: Program, out: Path, options: Mapping[str, Any]) -> Exported:
        """Write the file `out`, with `.npz` added if it has no ending; raises RunError if that fails."""
        path = out if out.suffix else out.with_suffix(".npz")
        arrays = arrays_of(program)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        write_bytes(path, stream.getvalue())
        size = sum(array.nbytes for array in arrays.values())
        line = f"{len(arrays)} arrays, {size:,} bytes before compression"
        return Exported((path,), (line,), {"arrays": len(arrays)})


TARGET = NpzTarget()
