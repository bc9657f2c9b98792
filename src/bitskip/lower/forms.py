"""In which numbers each value lives: what a precision computes in, and what readers ask of writers.

Readers decide. Going backwards, every node asks for its inputs in the form that its precision needs: f32 for
real arithmetic, i8 for int8 arithmetic, bits (with the reader's threshold) for 1-bit inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitskip.errors import LoweringError
from bitskip.lower.graph import (
    AddNode,
    AffineNode,
    ConcatNode,
    ConvNode,
    Floats,
    Graph,
    MulNode,
    PoolNode,
    TableNode,
    node_inputs,
)
from bitskip.program import inverse_scale

__all__ = [
    "F32",
    "I8",
    "I32",
    "KEEPS_SCALE",
    "Form",
    "Precisions",
    "Quantization",
    "arithmetic",
    "i8_values",
    "input_form",
    "integer_epilogue_fits",
    "is_table",
    "wanted_forms",
    "written_forms",
]

KEEPS_SCALE = ("max", "nearest")  # pools that give i8 values of their input as they are


@dataclass(frozen=True)
class Quantization:
    """How an i8 value stands for a real one: real = (q - zero_point) * scale."""

    scale: float  # an exact float32
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Quantization:
        """Return the finest one that covers `low`..`high` and holds 0 exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max((high - low) / 255, 2.0**-60)))
        return cls(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))

    def quantize(self, values: Floats) -> npt.NDArray[np.int8]:
        """Return the int8 values, as the `quantize` op computes them."""
        q = np.rint(values * inverse_scale(self.scale)) + np.float32(self.zero_point)
        clipped: npt.NDArray[np.int8] = np.clip(q, -128, 127).astype(np.int8)
        return clipped


@dataclass(frozen=True)
class Form:
    """One form of a value: f32, i8, i32, or bits after subtracting `threshold` (its bytes)."""

    dtype: str
    threshold: bytes | None = None

    def threshold_array(self) -> Floats | None:
        """Return the threshold as float32, if there is one."""
        return None if self.threshold is None else np.frombuffer(self.threshold, np.float32).copy()


F32, I8, I32 = Form("f32"), Form("i8"), Form("i32")


@dataclass(frozen=True)
class Precisions:
    """What layers of each precision compute in.

    `activations` int8 turns w1 layers to int8 activations, `dense` int8 the fp32 layers to int8; both are
    fp32 otherwise. `real_int8` lets int8 layers run in fp32, which calibration does to see real values.
    """

    activations: str = "fp32"
    dense: str = "fp32"
    real_int8: bool = False


def arithmetic(node: ConvNode, precisions: Precisions) -> str:
    """Return the dtype that `node` reads: f32, i8 or bits.

    Raises:
        LoweringError: if they have no way to run the node at its precision.
    """
    if node.precision == "w1a1":
        return "bits"
    if node.precision == "w1":
        return "i8" if precisions.activations == "int8" else "f32"
    if node.precision == "fp32":
        return "i8" if precisions.dense == "int8" else "f32"
    if precisions.real_int8:
        return "f32"
    if precisions.activations != "int8":
        raise LoweringError(
            f"layer '{node.name}' is int8 and cannot run with fp32 activations; pack with --activations int8"
        )
    return "i8"


def input_form(node: ConvNode, precisions: Precisions) -> Form:
    """Return the form in which `node` reads its input."""
    dtype = arithmetic(node, precisions)
    if dtype == "bits":
        return Form("bits", None if node.threshold is None else node.threshold.tobytes())
    return Form(dtype)


def wanted_forms(graph: Graph, precisions: Precisions) -> dict[int, list[Form]]:
    """Return which forms of each value its readers ask for, without repeats."""
    wanted: dict[int, list[Form]] = {number: [] for number in range(len(graph.shapes))}

    def ask(value: int, form: Form) -> None:
        if form not in wanted[value]:
            wanted[value].append(form)

    for value in graph.outputs.values():
        ask(value, F32)
    for node in reversed(graph.nodes):
        forms = wanted[node.output]
        if isinstance(node, PoolNode):
            if node.kind == "global":
                # The head reads sums of int8 as they are, so the division costs nothing.
                if forms == [I8] and _read_as_sums(graph, node.output):
                    wanted[node.output] = [I32]
                    ask(node.input, I8)
                else:
                    ask(node.input, F32)
            else:
                ask(node.input, I8 if node.kind in KEEPS_SCALE and forms == [I8] else F32)
            continue
        if isinstance(node, TableNode):
            ask(node.output, I8)
            ask(node.input, I8)
            continue
        if isinstance(node, MulNode | ConcatNode) or is_table(node):
            integer = precisions.dense == "int8" and forms == [I8]
            for value in node_inputs(node):
                ask(value, I8 if integer else F32)
            continue
        if isinstance(node, AffineNode | AddNode):
            for value in node_inputs(node):
                ask(value, F32)
            continue
        ask(node.input, input_form(node, precisions))
        if node.residual is not None:
            ask(node.residual, I8 if integer_epilogue_fits(node, forms, precisions) else F32)
    return wanted


def _read_as_sums(graph: Graph, value: int) -> bool:
    """Whether all readers of a global average pool take its i32 sums: 1x1 int8 layers, no residual."""
    return all(
        isinstance(node, ConvNode)
        and node.precision not in ("w1", "w1a1")
        and node.residual is None
        and node.groups == 1
        and node.weight.shape[1:3] == (1, 1)
        for node in graph.nodes
        if value in node_inputs(node)
    )


def integer_epilogue_fits(node: ConvNode, forms: list[Form], precisions: Precisions) -> bool:
    """Whether all that is asked of `node` is i8, and its epilogue can be computed in integers."""
    # An i8 output saturates where ReLU6 ends, which what follows an addition may not.
    before = ("none", "relu", "relu6") if node.residual is None else ("none", "relu")
    simple = node.pre.kind in before and node.post.kind in ("none", "relu", "relu6")
    return simple and forms == [I8] and arithmetic(node, precisions) != "f32"


def is_table(node: object) -> bool:
    """Whether `node` is a function of one value, the same for all channels: a table of int8 codes."""
    return (
        isinstance(node, AffineNode)
        and node.scale is None
        and node.bias is None
        and node.pre.slope is None
        and node.pre.kind != "none"
    )


def i8_values(graph: Graph, precisions: Precisions) -> list[int]:
    """Return the values that need a calibrated range: those that live as i8, but for the inputs."""
    wanted = wanted_forms(graph, precisions)
    needed = {number for number, forms in wanted.items() if I8 in forms and number >= len(graph.inputs)}
    for node in reversed(graph.nodes):
        if isinstance(node, PoolNode) and node.kind in KEEPS_SCALE and wanted[node.output] == [I8]:
            needed.discard(node.output)
    return sorted(needed)


def written_forms(forms: list[Form]) -> tuple[list[Form], Floats | None]:
    """Return which of `forms` a float epilogue writes itself, and the threshold of its bits.

    f32 is needed where it is asked for, and where more is asked for than one op writes.
    """
    written = list(forms)
    if len(forms) > 2 or sum(form.dtype == "bits" for form in forms) > 1:
        written = [F32, *(form for form in forms if form != F32)][:2]
    bits = next((form for form in written if form.dtype == "bits"), None)
    return written, None if bits is None else bits.threshold_array()
