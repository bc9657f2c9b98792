"""`bitskip export --to onnx`: what it can write, and the file."""

from __future__ import annotations

from typing import Any

from bitskip.backends.onnx.description import (
    INPUTS,
    IR_VERSION,
    check_options,
    model_from,
)
from bitskip.backends.onnx.form import OnnxForm
from bitskip.backends.onnx.qdq import QdqConverter
from bitskip.backends.onnx.weights import WEIGHTS
from bitskip.backends.onnx.writer import Writer
from bitskip.program import Conv2d, IntegerEpilogue, Program, op_residual

ROUNDINGS = ("auto", "fused", "exact")
_EARLY_SIZES = 2  # of additions: what is rounded otherwise there has many layers to grow
_FEW_CHANNELS = 4  # a picture's: a convolution of those costs little


def exact_layers(program: Program, rounding: str) -> frozenset[str]:
    """Return the integer convolutions that are written in float32, so that they round as the program does.

    A Program adds a residual before it rounds. Engines that fuse a convolution with its QDQ round before and
    after the addition, and the bias to a whole accumulator step; what is rounded otherwise early in a network
    grows through the layers after it. `auto` keeps exact what reads the picture, every addition but those of
    one scale (`adds_codes`), and what has int8 weights at the sizes of the first two additions: signs have a
    unit that keeps their bias close enough (`requantize`), int8 weights fill their byte. `exact` keeps all,
    `fused` none.
    """
    kept, every = [], []
    sizes = list(
        dict.fromkeys(
            program.tensors[op.outputs[0]].shape[:2]
            for op in program.ops
            if isinstance(op, Conv2d) and op_residual(op) is not None
        )
    )
    for op in program.ops:
        if not isinstance(op, Conv2d) or program.tensors[op.input].dtype != "i8":
            continue
        every.append(op.name)
        early = program.tensors[op.outputs[0]].shape[:2] in sizes[:_EARLY_SIZES]
        if (
            (op_residual(op) is not None and not adds_codes(program, op))
            or program.tensors[op.input].shape[2] <= _FEW_CHANNELS
            or (early and op.weight_dtype == "i8")
        ):
            kept.append(op.name)
    return frozenset({"auto": kept, "exact": every, "fused": []}[rounding])


def adds_codes(program: Program, op: Conv2d) -> bool:
    """Whether `op` adds a residual of its result's scale to what a ReLU left.

    Then rounding before the addition is as good as after it: round(conv + r) = round(conv) + r for a whole r,
    and what 8 bits cut off of the convolution alone they cut off of the sum.
    """
    epilogue = op.epilogue
    if not isinstance(epilogue, IntegerEpilogue) or epilogue.residual is None or not epilogue.pre_relu:
        return False
    residual, result = program.tensors[epilogue.residual], program.tensors[op.outputs[0]]
    lowest = residual.zero_point == result.zero_point == -128
    return lowest and epilogue.residual_multiplier == 1 << epilogue.shift


def model_of(
    program: Program, *, weights: str = "bits", pictures: str = "normalised", rounding: str = "auto"
) -> tuple[Any, QdqConverter]:
    """Return `program` as a ModelProto, and what wrote it.

    Args:
        program: the plan.
        weights: what 1-bit weights stand as: `bits`, `int8` or `fp32`; with `fp32` no layer is QDQ.
        pictures: `normalised` is float32 (N, C, H, W), `pixels` uint8 (N, H, W, C).
        rounding: see `exact_layers`.

    Raises:
        RunError: if onnx is missing, or an option is none of these.
    """
    check_options(
        ("binary-weights", weights, WEIGHTS), ("input", pictures, INPUTS), ("rounding", rounding, ROUNDINGS)
    )
    exact = exact_layers(program, rounding)
    converter = QdqConverter(program, Writer(), weights=weights, pixels=pictures == "pixels", exact=exact)
    return model_from(converter), converter


class OnnxTarget(OnnxForm[QdqConverter]):
    """Standard ONNX, for every engine."""

    name = "onnx"
    summary = "standard ONNX for any engine: QDQ for int8, 1-bit weights as bits"
    weights = "bits"

    def convert(
        self, program: Program, *, weights: str, pictures: str, rounding: str
    ) -> tuple[Any, QdqConverter]:
        """Return `model_of` the program."""
        return model_of(program, weights=weights, pictures=pictures, rounding=rounding)

    def told(self, program: Program, converter: QdqConverter) -> tuple[list[str], dict[str, Any]]:
        """Return which layers engines run in int8, and which not."""
        lines = []
        if converter.fused:
            lines.append(f"{len(converter.fused)} layers are QDQ, which engines run in int8")
        if converter.floats:
            lines.append(f"{len(converter.floats)} layers with integer inputs are computed in float32")
        layers = {"qdq_layers": converter.fused, "float_layers": converter.floats}
        return lines, {"ir_version": IR_VERSION, **layers}


TARGET = OnnxTarget()
