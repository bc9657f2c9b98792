"""How many instructions an exported network takes: predicted from counted ones, by kernel and core.

`counts.json` holds coefficients that `benchmarks/edge.py calibrate` fits to what emulated boards counted, op
by op. Instructions are not cycles.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

import numpy as np
import numpy.typing as npt

from bitskip.program import Conv2d, Op, Program, op_outputs

FILE = "counts.json"


def kernel_of(op: Op, program: Program) -> str:
    """Return what runs `op`: a kernel of convolutions by its weights and input, else the op's kind."""
    if not isinstance(op, Conv2d):
        return op.kind
    grouped = "grouped " if op.groups > 1 else ""
    return f"{grouped}{op.weight_dtype} x {program.tensors[op.input].dtype}"


def features(op: Op, program: Program) -> npt.NDArray[np.float64]:
    """Return what an op's instructions grow with: products, inputs laid out, outputs, output pixels."""
    height, width, channels = program.tensors[op_outputs(op)[0]].shape
    pixels = height * width
    if not isinstance(op, Conv2d):
        size = max(int(np.prod(program.tensors[op.input].shape)), pixels * channels)
        return np.array([0.0, 0.0, size, 0.0])
    inputs = op.kernel[0] * op.kernel[1] * program.tensors[op.input].shape[2] // op.groups
    return np.array([pixels * inputs * channels, pixels * inputs, pixels * channels, pixels], np.float64)


def predict(program: Program, core: str) -> int | None:
    """Return the instructions of one picture; None if a kernel was never counted on `core`."""
    known = _coefficients().get(core, {})
    total = 0.0
    for op in program.ops:
        coefficients = known.get(kernel_of(op, program))
        if coefficients is None:
            return None
        total += float(features(op, program) @ np.array(coefficients))
    return round(total)


@functools.cache
def _coefficients() -> dict[str, dict[str, list[float]]]:
    file = resources.files("bitskip.backends.c99") / FILE
    values: dict[str, dict[str, list[float]]] = json.loads(file.read_text(encoding="utf-8"))
    return values
