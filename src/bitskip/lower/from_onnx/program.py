"""The graph of an ONNX file and its Program.

Nodes are read in their order. What does not depend on the picture is computed by onnx's own reference, so
weights may be stored as bits and a table, as int8 with a scale, or as they are. Where every value that int8
layers read is quantized in the file, the Program is int8 with the file's scales; else it is fp32.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.errors import LoweringError, in_one_line, some_of
from bitskip.lower.assemble import assemble
from bitskip.lower.forms import Precisions, i8_values
from bitskip.lower.from_onnx.operators import OPERATORS
from bitskip.lower.from_onnx.read import picture_inputs, read_model
from bitskip.lower.from_onnx.signs import READ_SIGNS
from bitskip.lower.from_onnx.values import Coded, Reader, Signs
from bitskip.lower.fuse import fuse
from bitskip.lower.graph import Graph, TableNode
from bitskip.lower.recorded import Recorder, Traced
from bitskip.lower.shared_scales import share_residual_scales
from bitskip.program import Program

_NAMED = 12  # unsupported nodes that an error names


def import_onnx(
    path: Path | str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_size: int | None = None,
    shared_scales: bool = False,
) -> tuple[Program, tuple[str, ...]]:
    """Return the Program of an ONNX file, and what a reader should know, a sentence each.

    Args:
        path: of the file; it takes float32 (N, C, H, W), once or several times.
        mean: what pictures (0..1) were normalised with, per channel of every input; the file's own if not
            given, 0 if it has none.
        std: likewise; 1 if the file has none.
        input_size: height = width, where the file leaves them free.
        shared_scales: gives a sum and what it adds one int8 scale (`bitskip.lower.shared_scales`).

    Raises:
        FileFormatError: if the file is none that can be read.
        LoweringError: if it does what a Program has no op for; each such node is named.
    """
    path = Path(path)
    model = read_model(path)
    inputs = picture_inputs(model, path, input_size)
    reader = Reader(Recorder(*inputs.values()), {})
    values = _values(model, reader, tuple(inputs))
    outputs = {output.name: values.get(output.name) for output in model.graph.output}
    for key, value in outputs.items():
        if not isinstance(value, Traced) or not value.has_channels:
            raise LoweringError(
                f"the output '{key}' of {path} is neither logits (N, classes) nor maps (N, C, H, W)"
            )
    if not reader.record.ops:
        raise LoweringError(f"{path} gives its picture as it is; expected a network")
    numbers = [value.value for value in outputs.values() if isinstance(value, Traced)]
    kept = {entry.key: entry.value for entry in model.metadata_props}
    single = len(outputs) == 1 and reader.record.shapes[numbers[0]][:2] == (1, 1)
    named = {"logits": numbers[0]} if single else dict(zip(outputs, numbers, strict=True))
    title = kept.get("bitskip.name") or path.stem
    taken = tuple(inputs) if len(inputs) > 1 else ("picture",)
    graph = Graph(title, None, fuse(reader.record, numbers), reader.record.shapes, named, taken)
    notes: list[str] = []
    known = {key: tuple(map(float, json.loads(kept[key]))) for key in ("mean", "std") if key in kept}
    if mean is None and std is None and not known:
        notes.append("nothing says how pictures were normalised; 0..1 is taken (--mean, --std)")
    labels: dict[str, Any] = {
        "name": title,
        "class_names": tuple(json.loads(kept["class_names"])) if "class_names" in kept and single else (),
    }
    channels = sum(shape[0] for shape in inputs.values())
    terms = (mean or known.get("mean") or (0.0,) * channels, std or known.get("std") or (1.0,) * channels)
    precisions = Precisions("int8", "int8")
    missing = [value for value in i8_values(graph, precisions) if value not in reader.quantizations]
    if reader.quantizations and not missing:
        scales = reader.quantizations
        if shared_scales:
            scales = share_residual_scales(graph, precisions, scales)
        program, _ = assemble(graph, precisions, *terms, scales, activations="int8", dense="int8", **labels)
        return program, tuple(notes)
    tables = [op.name for op in reader.record.ops if isinstance(op, TableNode)]
    if tables:
        raise LoweringError(
            f"'{tables[0]}' is a table of int8 codes, but {len(missing)} values that int8 layers read are "
            "not quantized; export the network with every activation quantized"
        )
    if reader.quantizations:
        notes.append(f"{len(missing)} values that int8 layers would read are not quantized: fp32 is kept")
    return assemble(graph, Precisions(), *terms, **labels)[0], tuple(notes)


def _values(model: Any, reader: Reader, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Read every node; return all values by name."""
    import onnx

    values: dict[str, Any] = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    values[""] = None
    values |= {name: reader.record.input(number) for number, name in enumerate(inputs)}
    nodes, problems = _without_rounding(model, values), []
    unknown: set[str] = set()
    for at, node in enumerate(nodes):
        label = node.name or node.output[0] or f"node {at}"
        if any(source in unknown for source in node.input):
            unknown.update(node.output)
            continue
        given = [values.get(source) for source in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        reader.record.name, reader.record.where = label, f"'{label}' ({node.op_type})"
        try:
            if not any(isinstance(value, Traced | Coded | Signs) for value in given):
                made = _constant(model, node, given)
            elif node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
                raise LoweringError(f"'{label}' ({node.op_type}) has no counterpart")
            elif node.op_type not in READ_SIGNS and any(isinstance(value, Signs) for value in given):
                raise LoweringError(
                    f"'{label}' ({node.op_type}) reads signs, expected a convolution with 1-bit weights"
                )
            else:
                made = (OPERATORS[node.op_type](reader, attributes, *given),)
        except LoweringError as error:
            problems.append(str(error))
            unknown.update(node.output)
            continue
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            problems.append(f"'{label}' ({node.op_type}) cannot be read ({in_one_line(error)})")
            unknown.update(node.output)
            continue
        values.update(zip(node.output, made, strict=False))
    if problems:
        raise LoweringError(f"{len(problems)} nodes cannot be imported: {some_of(problems, _NAMED, '; ')}")
    return values


def _constant(model: Any, node: Any, given: list[Any]) -> tuple[Any, ...]:
    """Return what a node gives that does not depend on the picture."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "DequantizeLinear":  # onnx's own begins at opset 19
        return (_dequantized(node, *given),)
    present = {key: value for key, value in zip(node.input, given, strict=True) if key}
    if any(value is None for value in present.values()):
        raise LoweringError(f"'{node.name}' ({node.op_type}) reads what nothing gives")
    constants = [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in present.items()]
    results = [onnx.ValueInfoProto(name=key) for key in node.output]
    graph = onnx.helper.make_graph([node], "constant", [], results, constants)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return tuple(ReferenceEvaluator(alone).run(None, {}))


def _dequantized(node: Any, codes: Any, scale: Any, zero: Any = None) -> Any:
    """Return float32 constants from their codes, with one scale or one along the node's axis."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
        raise LoweringError(f"'{node.name}' ({node.op_type}) has scales a block, expected one a channel")
    codes, scale = np.asarray(codes), np.asarray(scale, np.float32)
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    offset = np.zeros(scale.size) if zero is None else np.asarray(zero).astype(np.float64)
    real = (codes.astype(np.float64) - offset.reshape(shape)) * scale.astype(np.float64).reshape(shape)
    return real.astype(np.float32)


def _without_rounding(model: Any, values: dict[str, Any]) -> list[Any]:
    """Return the nodes, with QuantizeLinear in place of the arithmetic that `export` writes for it.

    `exact` layers have x * (1 / scale), Round, QuantizeLinear of scale 1; files without QDQ have
    x * (1 / scale), Round, Clip, * scale.
    """
    nodes = list(model.graph.node)
    made = {output: node for node in nodes for output in node.output}
    readers = Counter(source for node in nodes for source in node.input)
    dropped: set[int] = set()

    def number(node: Any, at: int) -> float | None:
        value = values.get(node.input[at]) if at < len(node.input) else None
        return float(value.item()) if isinstance(value, np.ndarray) and value.size == 1 else None

    def before(node: Any, *kinds: str) -> Any:
        source = made.get(node.input[0])
        return source if source is not None and source.op_type in kinds else None

    for node in nodes:
        rounding = before(node, "Round") if node.op_type in ("QuantizeLinear", "Clip") else None
        scaling = before(rounding, "Mul") if rounding is not None else None
        inverse = number(scaling, 1) if scaling is not None else None
        if rounding is None or scaling is None or not inverse:
            continue
        scale = np.float32(1) / np.float32(inverse)
        if node.op_type == "Clip":
            low, high = number(node, 1), number(node, 2)
            back = [after for after in nodes if node.output[0] in after.input]
            if low is None or high is None or high - low != 255 or not -255 <= low <= 0:
                continue
            if any(after.op_type != "Mul" or number(after, 1) is None for after in back):
                continue
            zero = f"{node.output[0]}.zero"
            values[zero] = np.uint8(-low)
            node.op_type, node.input[2] = "QuantizeLinear", zero
            for after in back:
                after.op_type = "DequantizeLinear"
                after.input.append(zero)
        node.input[0] = scaling.input[0]
        node.input[1] = f"{node.output[0]}.scale"
        values[node.input[1]] = scale
        dropped |= {id(step) for step in (rounding, scaling) if readers[step.output[0]] == 1}
    return [node for node in nodes if id(node) not in dropped]
