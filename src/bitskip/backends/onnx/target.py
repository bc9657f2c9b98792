"""`bitskip export --to onnx`: what it can write, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends import Exported
from bitskip.backends.onnx.convert import Converter
from bitskip.backends.onnx.weights import WEIGHTS
from bitskip.backends.onnx.writer import Writer
from bitskip.errors import RunError
from bitskip.files import write_bytes
from bitskip.program import Conv2d, Program, QuantizeInput, op_residual

__all__ = ["INPUTS", "IR_VERSION", "OPSET", "ROUNDINGS", "TARGET", "exact_layers", "model_of"]

OPSET = 18
IR_VERSION = 8
INPUTS = ("normalised", "pixels")
ROUNDINGS = ("auto", "fused", "exact")
_FEW_CHANNELS = 4  # a picture's: a convolution of those costs little


def exact_layers(program: Program, rounding: str) -> frozenset[str]:
    """Return the integer convolutions that are written in float32, so that they round as the program does.

    A Program adds a residual before it rounds. Engines that fuse a convolution with its QDQ round before and
    after the addition, and the bias to a whole accumulator step; what is rounded otherwise early in a network
    grows through the layers after it. `auto` keeps exact what reads the picture and the additions at the size
    of the first one, `exact` all, `fused` none.
    """
    joins, first, every = {}, [], []
    for op in program.ops:
        if not isinstance(op, Conv2d) or program.tensors[op.input].dtype != "i8":
            continue
        every.append(op.name)
        if op_residual(op) is not None:
            joins[op.name] = program.tensors[op.outputs[0]].shape[:2]
        if program.tensors[op.input].shape[2] <= _FEW_CHANNELS:
            first.append(op.name)
    if rounding == "auto":
        size = next(iter(joins.values()), None)
        return frozenset([*first, *(name for name, found in joins.items() if found == size)])
    return frozenset(every if rounding == "exact" else ())


def normalisation(program: Program) -> tuple[list[float], list[float]] | None:
    """Return (mean, std) of x / 255 that the program computes with, or None if nothing says it."""
    if program.mean:
        return list(program.mean), list(program.std)
    for op in program.ops:
        if isinstance(op, QuantizeInput) and op.scale is not None and op.bias is not None:
            scale = op.scale.astype(np.float64)
            if (scale > 0).all():
                return (-op.bias / scale / 255).tolist(), (1 / (255 * scale)).tolist()
    return None


def _strange_tables(program: Program) -> list[str]:
    """Return a sentence for each `quantize_input` that is no normalisation by the file's mean and std."""
    known, wrong = normalisation(program), []
    if known is None:
        return ["the file does not say its mean and std; use --input pixels"]
    mean, std = (np.array(values)[:, None] for values in known)
    real = (np.arange(256) / 255 - mean) / std  # (C, 256)
    for op in program.ops:
        if not isinstance(op, QuantizeInput):
            continue
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


def model_of(
    program: Program, *, weights: str = "bits", pictures: str = "normalised", rounding: str = "auto"
) -> tuple[Any, Converter]:
    """Return `program` as a ModelProto, and what wrote it.

    Args:
        program: the plan.
        weights: what 1-bit weights stand as: `bits`, `int8` or `fp32`; with `fp32` no layer is QDQ.
        pictures: `normalised` is float32 (N, C, H, W), `pixels` uint8 (N, H, W, C).
        rounding: see `exact_layers`.

    Raises:
        RunError: if onnx is missing, or an option is none of these.
    """
    asked = (("weights", weights, WEIGHTS), ("input", pictures, INPUTS), ("rounding", rounding, ROUNDINGS))
    for what, value, known in asked:
        if value not in known:
            raise RunError(f"--{what} is '{value}', expected one of {', '.join(known)}")
    w = Writer()
    pixels, exact = pictures == "pixels", exact_layers(program, rounding)
    converter = Converter(program, w, weights=weights, pixels=pixels, exact=exact)
    made = converter.run()
    outputs: list[tuple[str, str, tuple[Any, ...]]] = []
    for output, value in zip(program.outputs, made, strict=True):
        height, width, channels = program.tensors[output.tensor].shape
        if program.is_classifier:
            outputs.append((w.node("Flatten", [value], output.name, axis=1), "FLOAT", ("N", channels)))
        else:
            name = w.node("Identity", [value], output.name)
            outputs.append((name, "FLOAT", ("N", channels, height, width)))
    height, width, channels = program.input_shape
    shape = (height, width, channels) if pixels else (channels, height, width)
    described = normalisation(program)
    metadata: dict[str, Any] = {
        "bitskip.name": program.name,
        "bitskip.input": "uint8 (N, H, W, C), 0..255"
        if pixels
        else "float32 (N, C, H, W), (x / 255 - mean) / std",
        "bitskip.weights": weights,
    }
    if described is not None:
        metadata |= {"mean": described[0], "std": described[1]}
    if program.class_names:
        metadata["class_names"] = list(program.class_names)
    model = w.finish(
        program.name,
        [("picture", "UINT8" if pixels else "FLOAT", ("N", *shape))],
        outputs,
        opset=OPSET,
        ir_version=IR_VERSION,
        metadata=metadata,
    )
    return model, converter


class OnnxTarget:
    """Standard ONNX, for every engine."""

    name = "onnx"
    summary = "standard ONNX for any engine: QDQ for int8, 1-bit weights as bits"
    options = frozenset({"weights", "input", "rounding"})

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return why `program` cannot be written: each op has a counterpart, so there is nothing."""
        return ()

    def export(self, program: Program, out: Path, options: Mapping[str, Any]) -> Exported:
        """Write one `.onnx` file.

        Raises:
            RunError: if the file cannot be written, onnx is missing or an option is strange.
        """
        pictures = str(options.get("input", "normalised"))
        strange = _strange_tables(program) if pictures == "normalised" else []
        if strange:
            raise RunError("; ".join(strange))
        weights = str(options.get("weights", "bits"))
        rounding = str(options.get("rounding", "auto"))
        model, converter = model_of(program, weights=weights, pictures=pictures, rounding=rounding)
        content = model.SerializeToString(deterministic=True)
        write_bytes(out, content)
        lines = []
        if converter.fused:
            lines.append(f"{len(converter.fused)} layers are QDQ, which engines run in int8")
        if converter.floats:
            lines.append(f"{len(converter.floats)} layers with integer inputs are computed in float32")
        return Exported(
            (out,),
            tuple(lines),
            {
                "to": self.name,
                "bytes": len(content),
                "opset": OPSET,
                "ir_version": IR_VERSION,
                "weights": weights,
                "input": pictures,
                "rounding": rounding,
                "qdq_layers": converter.fused,
                "float_layers": converter.floats,
            },
        )


TARGET = OnnxTarget()
