"""What a packed file holds: its layers with precision and bytes, and the memory that it needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitskip.program import Conv2d, Program, conv_precision, op_inputs, op_outputs
from bitskip.program.file import op_bytes


def summarise(program: Program, file_bytes: int) -> dict[str, Any]:
    """Return JSON-serialisable values that describe `program`, stored in `file_bytes` bytes."""
    layers = []
    stored = op_bytes(program)
    for at, op in enumerate(program.ops):
        source = program.tensors[op_inputs(op)[0]]
        results = [program.tensors[number] for number in op_outputs(op)]
        row: dict[str, Any] = {
            "name": op.name,
            "op": op.kind,
            "precision": None,
            "input": source.dtype,
            "output": [result.dtype for result in results],
            "output_shape": list(results[0].shape),
            "epilogue": None,
            "weight_bytes": 0,
            "bytes": stored[at],
            "macs": 0,
        }
        if isinstance(op, Conv2d):
            height, width, channels = results[0].shape
            taps = int(np.prod(op.kernel)) * (source.shape[2] // op.groups)
            row["precision"] = conv_precision(op, program.tensors)
            row["epilogue"] = op.epilogue.kind
            row["macs"] = height * width * channels * taps
            bits = {"w1": 1, "i8": 8, "f32": 32}[op.weight_dtype]
            row["weight_bytes"] = -(-bits * channels * taps // 8)
        layers.append(row)
    return {
        "name": program.name,
        "input_shape": list(program.input_shape),
        "inputs": {source.name: list(source.shape) for source in program.inputs},
        "classes": program.classes,
        "class_names": list(program.class_names),
        "activations": program.activations,
        "dense": program.dense,
        "calibration_images": program.calibration_images,
        "file_bytes": file_bytes,
        "constant_bytes": program.weight_bytes,
        "peak_activation_bytes": program.arena_bytes,
        "macs": sum(row["macs"] for row in layers),
        "layers": layers,
    }
