"""What a graph says of its picture and its outputs, and the file around it: the same in every form."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitskip.backends.onnx.convert import Converter
from bitskip.errors import RunError, check_one_of
from bitskip.program import Program, QuantizeInput

OPSET = 18
IR_VERSION = 8
INPUTS = ("normalised", "pixels")


def check_options(*asked: tuple[str, str, tuple[str, ...]]) -> None:
    """Refuse an option whose value is none of those known; `asked` has (option, value, known values).

    Raises:
        RunError: if there is one.
    """
    for what, value, known in asked:
        check_one_of(value, known, f"--{what} is", RunError)


def normalisation(program: Program) -> tuple[list[float], list[float]] | None:
    """Return (mean, std) of x / 255 that the program computes with, or None if nothing says it."""
    if program.mean:
        return list(program.mean), list(program.std)
    scales = {op.input: op.scale for op in program.ops if isinstance(op, QuantizeInput)}
    biases = {op.input: op.bias for op in program.ops if isinstance(op, QuantizeInput)}
    mean: list[float] = []
    std: list[float] = []
    for source in program.inputs:
        scale, bias = scales.get(source.tensor), biases.get(source.tensor)
        if scale is None or bias is None or not (scale > 0).all():
            return None
        wide = scale.astype(np.float64)
        mean += (-bias / wide / 255).tolist()
        std += (1 / (255 * wide)).tolist()
    return mean, std


def strange_tables(program: Program) -> list[str]:
    """Return a sentence for each `quantize_input` that is no normalisation by the file's mean and std."""
    known, wrong = normalisation(program), []
    if known is None:
        return ["the file does not say its mean and std; use --input pixels"]
    mean, std = (np.array(values)[:, None] for values in known)
    every = (np.arange(256) / 255 - mean) / std  # (C of all inputs, 256)
    ends = np.cumsum([source.shape[2] for source in program.inputs])
    for op in program.ops:
        if not isinstance(op, QuantizeInput):
            continue
        real = every[ends[op.input] - program.inputs[op.input].shape[2] : ends[op.input]]
        result = program.tensors[op.output]
        if op.table is not None:
            expected = np.clip(np.rint(real / result.scale) + result.zero_point, -128, 127)
            near = bool((np.abs(expected - op.table) <= 1).all())
        else:
            made = np.arange(256) * np.asarray(op.scale)[:, None] + np.asarray(op.bias)[:, None]
            near = bool(np.allclose(made, real, atol=1e-3))
        if not near:
            wrong.append(f"'{op.name}' does not normalise by the file's mean and std; use --input pixels")
    return wrong


def model_from(converter: Converter, batch: str | int = "N") -> Any:
    """Write the ops of `converter` and return the ModelProto, with metadata.

    Args:
        converter: not run yet.
        batch: the name of the free first dimension, or its size.
    """
    w, program = converter.w, converter.program
    inputs: list[tuple[str, str, tuple[Any, ...]]] = []
    for source in program.inputs:
        height, width, channels = source.shape
        shape = (height, width, channels) if converter.pixels else (channels, height, width)
        inputs.append((w.name(source.name), "UINT8" if converter.pixels else "FLOAT", (batch, *shape)))
    made = converter.run()
    outputs: list[tuple[str, str, tuple[Any, ...]]] = []
    for output, value in zip(program.outputs, made, strict=True):
        height, width, channels = program.tensors[output.tensor].shape
        if program.is_classifier:
            outputs.append((w.node("Flatten", [value], output.name, axis=1), "FLOAT", (batch, channels)))
        else:
            name = w.node("Identity", [value], output.name)
            outputs.append((name, "FLOAT", (batch, channels, height, width)))
    described = normalisation(program)
    metadata: dict[str, Any] = {
        "bitskip.name": program.name,
        "bitskip.input": "uint8 (N, H, W, C), 0..255"
        if converter.pixels
        else "float32 (N, C, H, W), (x / 255 - mean) / std",
        "bitskip.weights": converter.weights,
    }
    if described is not None:
        metadata |= {"mean": described[0], "std": described[1]}
    if program.class_names:
        metadata["class_names"] = list(program.class_names)
    return w.finish(
        program.name,
        inputs,
        outputs,
        opset=OPSET,
        ir_version=IR_VERSION,
        metadata=metadata,
    )
