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
from bitskip.program import Program, QuantizeInput

__all__ = ["INPUTS", "IR_VERSION", "OPSET", "TARGET", "model_of"]

OPSET = 18
IR_VERSION = 8
INPUTS = ("normalised", "pixels")


def normalisation(program: Program) -> tuple[list[float], list[float]] | None:
    """Return (mean, std) of x / 255 that every `quantize_input` of the program computes with, or None."""
    for op in program.ops:
        if isinstance(op, QuantizeInput) and op.scale is not None and op.bias is not None and not program.mean:
            scale = op.scale.astype(np.float64)
            if (scale > 0).all():
                return (-op.bias / scale / 255).tolist(), (1 / (255 * scale)).tolist()
    return (list(program.mean), list(program.std)) if program.mean else None


def _strange_tables(program: Program) -> list[str]:
    """Return a sentence for each `quantize_input` that is no normalisation by the file's mean and std."""
    known, wrong = normalisation(program), []
    for op in program.ops:
        if not isinstance(op, QuantizeInput):
            continue
        if known is None:
            return ["the file does not say its mean and std; use --input pixels"]
        mean, std = (np.array(values)[:, None] for values in known)
        real = (np.arange(256) / 255 - mean) / std  # (C, 256)
        if op.table is not None:
            result = program.tensors[op.output]
            expected = np.clip(np.rint(real / result.scale) + result.zero_point, -128, 127)
            near = bool((np.abs(expected - op.table) <= 1).all())
        else:
            made = np.arange(256) * np.asarray(op.scale)[:, None] + np.asarray(op.bias)[:, None]
            near = bool(np.allclose(made, real, atol=1e-3))
        if not near:
            wrong.append(f"'{op.name}' is not the normalisation by the file's mean and std; use --input pixels")
    return wrong


def model_of(
    program: Program, *, weights: str = "bits", pictures: str = "normalised", joins: str = "fused"
) -> tuple[Any, Converter]:
    """Return `program` as a ModelProto, and what wrote it.

    Args:
        program: the plan.
        weights: what 1-bit weights stand as: `bits`, `int8` or `fp32`; with `fp32` no layer is QDQ.
        pictures: `normalised` is float32 (N, C, H, W), `pixels` uint8 (N, H, W, C).
        joins: `fused` or `exact`.

    Raises:
        RunError: if onnx is missing, or an option is none of these.
    """
    for what, value, known in (("weights", weights, WEIGHTS), ("input", pictures, INPUTS)):
        if value not in known:
            raise RunError(f"--{what} is '{value}', expected one of {', '.join(known)}")
    w = Writer()
    converter = Converter(program, w, weights=weights, pixels=pictures == "pixels", joins=joins)
    logits = converter.run()
    w.node("Flatten", [logits], "logits", axis=1)
    height, width, channels = program.input_shape
    pixels = pictures == "pixels"
    shape = (height, width, channels) if pixels else (channels, height, width)
    known = normalisation(program)
    metadata: dict[str, Any] = {
        "bitskip.name": program.name,
        "bitskip.input": "uint8 (N, H, W, C), 0..255" if pixels else "float32 (N, C, H, W), (x / 255 - mean) / std",
        "bitskip.weights": weights,
    }
    if known is not None:
        metadata |= {"mean": known[0], "std": known[1]}
    if program.class_names:
        metadata["class_names"] = list(program.class_names)
    model = w.finish(
        program.name,
        [("picture", "UINT8" if pixels else "FLOAT", ("N", *shape))],
        [("logits", "FLOAT", ("N", program.classes))],
        opset=OPSET,
        ir_version=IR_VERSION,
        metadata=metadata,
    )
    return model, converter


class OnnxTarget:
    """Standard ONNX, for every engine."""

    name = "onnx"
    summary = "standard ONNX for any engine: QDQ for int8, 1-bit weights as bits"
    options = frozenset({"weights", "input"})

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
        model, converter = model_of(program, weights=weights, pictures=pictures)
        content = model.SerializeToString(deterministic=True)
        write_bytes(out, content)
        lines = []
        if converter.fused:
            lines.append(f"{len(converter.fused)} layers are QDQ")
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
                "qdq_layers": converter.fused,
                "float_layers": converter.floats,
            },
        )


TARGET = OnnxTarget()
