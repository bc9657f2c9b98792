"""`bitskip export --to qonnx`: what it can write, and the file."""

from __future__ import annotations

from typing import Any

from bitskip.backends.onnx.description import INPUTS, check_options, model_from
from bitskip.backends.onnx.form import OnnxForm
from bitskip.backends.onnx.qonnx import QonnxConverter
from bitskip.backends.onnx.weights import WEIGHTS
from bitskip.backends.onnx.writer import Writer
from bitskip.program import Conv2d, Program
from bitskip.program.bounds import accumulator_bound

ROUNDINGS = ("auto", "exact")
_EXACT = 1 << 24  # whole numbers below it are exact in float32


def qonnx_model_of(
    program: Program, *, weights: str = "fp32", pictures: str = "normalised", rounding: str = "auto"
) -> tuple[Any, QonnxConverter]:
    """Return `program` as a ModelProto of batch 1, and what wrote it.

    QONNX's tools take no free dimension; qonnx's `ChangeBatchSize` sets another one.

    Args:
        program: the plan.
        weights: what weights stand as: `fp32`, `int8`, or `bits` for 1-bit ones.
        pictures: `normalised` is float32 (1, C, H, W), `pixels` uint8 (1, H, W, C).
        rounding: `auto` is float32 throughout, as QONNX's tools expect; `exact` computes what follows a sum
            of whole numbers in float64, to check the graph against the packed model.

    Raises:
        RunError: if onnx is missing, or an option is none of these.
    """
    check_options(
        ("binary-weights", weights, WEIGHTS), ("input", pictures, INPUTS), ("rounding", rounding, ROUNDINGS)
    )
    pixels, exact = pictures == "pixels", rounding == "exact"
    converter = QonnxConverter(program, Writer(), weights=weights, pixels=pixels, exact=exact)
    return model_from(converter, batch=1), converter


class QonnxTarget(OnnxForm[QonnxConverter]):
    """QONNX, for FINN and the tools around it."""

    name = "qonnx"
    summary = "QONNX for FINN and Brevitas: BipolarQuant, Quant, MultiThreshold"
    weights = "fp32"

    def convert(
        self, program: Program, *, weights: str, pictures: str, rounding: str
    ) -> tuple[Any, QonnxConverter]:
        """Return `qonnx_model_of` the program."""
        return qonnx_model_of(program, weights=weights, pictures=pictures, rounding=rounding)

    def told(self, program: Program, converter: QonnxConverter) -> tuple[list[str], dict[str, Any]]:
        """Return which nodes of QONNX it has, and which sums float32 may round."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(converter.kinds.items()))
        lines = [f"nodes of QONNX: {counts or 'none'}"]
        wide = [
            op.name
            for op in program.ops
            if isinstance(op, Conv2d)
            and program.tensors[op.input].dtype in ("i8", "bits")
            and accumulator_bound(op, program.tensors) >= _EXACT
        ]
        if wide:
            lines.append(f"sums of {len(wide)} layers may pass 2^24, above which float32 rounds them")
        return lines, {"batch": 1, "nodes": converter.kinds, "wide_layers": wide}


TARGET = QonnxTarget()
