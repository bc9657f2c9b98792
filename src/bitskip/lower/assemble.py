"""Graph to Program: decides in which numbers each value lives, then writes the ops.

Readers decide what is asked of a node (`bitskip.lower.forms`). It then takes the cheapest epilogue that gives
that: integer thresholds if only signs are wanted, the integer epilogue if only i8 is, else the float one with
up to two outputs; what is still missing is converted from f32.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bitskip.backends.reference.activation import activate
from bitskip.bits import pack_signs
from bitskip.lower.buffers import place_buffers
from bitskip.lower.forms import (
    F32,
    I8,
    I32,
    KEEPS_SCALE,
    Form,
    Precisions,
    Quantization,
    input_form,
    integer_epilogue_fits,
    is_table,
    wanted_forms,
    written_forms,
)
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
from bitskip.lower.integers import int8_weights, integer_terms
from bitskip.lower.thresholds import integer_thresholds
from bitskip.program import (
    Activation,
    Add,
    Affine,
    AvgPool,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    Epilogue,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Lookup,
    MaxPool,
    Mul,
    Op,
    Output,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
    Tensor,
    ThresholdEpilogue,
)


@dataclass
class Assembled:
    """A program under construction: its parts, and which tensor holds which form of which value."""

    tensors: list[Tensor]
    ops: list[Op]
    held: dict[tuple[int, Form], int] = field(default_factory=dict)


def assemble(
    graph: Graph,
    precisions: Precisions,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    quantizations: Mapping[int, Quantization] | None = None,
    **labels: Any,
) -> tuple[Program, dict[tuple[int, Form], int]]:
    """Return the program of `graph`, and which tensor holds which form of which value.

    Args:
        graph: from `build_graph`.
        precisions: what layers of each precision compute in.
        mean: of the training pictures scaled to 0..1, per channel of every input.
        std: likewise.
        quantizations: of each of `i8_values`.
        labels: further fields of the Program.

    Raises:
        LoweringError: if a layer cannot run at its declared precision.
    """
    writer = _Writer(graph, precisions, dict(quantizations or {}))
    at = 0
    for number in range(len(graph.inputs)):
        channels = slice(at, at + graph.shapes[number][2])
        writer.picture(number, np.asarray(mean[channels], np.float64), np.asarray(std[channels], np.float64))
        at = channels.stop
    for node in graph.nodes:
        match node:
            case ConvNode():
                writer.conv(node)
            case PoolNode():
                writer.pool(node)
            case MulNode():
                writer.multiply(node)
            case ConcatNode():
                writer.concatenate(node)
            case TableNode():
                writer.look_up(node)
            case AffineNode() | AddNode():
                writer.pointwise(node)
    outputs = tuple(Output(name, writer.done.held[value, F32]) for name, value in graph.outputs.items())
    numbers = [output.tensor for output in outputs]
    tensors, ops, arena = place_buffers(writer.done.tensors, writer.done.ops, numbers)
    program = Program(
        tensors=tensors,
        ops=ops,
        outputs=outputs,
        arena_bytes=arena,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        **labels,
    )
    return program, writer.done.held


class _Writer:
    def __init__(self, graph: Graph, precisions: Precisions, quantizations: dict[int, Quantization]) -> None:
        self.graph, self.precisions, self.quantizations = graph, precisions, quantizations
        self.wanted = wanted_forms(graph, precisions)
        self.share_scales()
        inputs = zip(graph.inputs, graph.shapes, strict=False)
        self.done = Assembled([Tensor("u8", shape, name=name) for name, shape in inputs], [])

    def share_scales(self) -> None:
        """Give what a concatenation alone reads the codes of its result."""
        readers = Counter(value for node in self.graph.nodes for value in node_inputs(node))
        for node in reversed(self.graph.nodes):
            if isinstance(node, ConcatNode) and node.output in self.quantizations:
                for value in node.inputs:
                    if readers[value] == 1 and self.wanted[value] == [I8]:
                        self.quantizations[value] = self.quantizations[node.output]

    def tensor(self, value: int, form: Form, name: str) -> int:
        """Make the tensor that holds `form` of `value`."""
        shape = self.graph.shapes[value]
        if form == I8:
            q = self.quantizations[value]
            made = Tensor("i8", shape, 0, q.scale, q.zero_point, name)
        else:
            made = Tensor(form.dtype, shape, 0, name=name)
        self.done.tensors.append(made)
        number = len(self.done.tensors) - 1
        self.done.held[value, form] = number
        return number

    def held(self, value: int, form: Form) -> int:
        return self.done.held[value, form]

    # -- the picture ----------------------------------------------------------------------------------

    def picture(self, number: int, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> None:
        """Write the forms of input `number`."""
        name = self.graph.inputs[number]
        scale = (1 / (255 * std)).astype(np.float32)
        bias = (-mean / std).astype(np.float32)
        levels = np.arange(256, dtype=np.float32)[:, None] * scale + bias  # (256, C)
        self.quantizations[number] = Quantization.of_range(float(levels.min()), float(levels.max()))
        for form in self.wanted[number]:
            if form == I8:
                made = self.tensor(number, I8, name)
                table = np.ascontiguousarray(self.quantizations[number].quantize(levels).T)
                self.done.ops.append(QuantizeInput(name, number, made, table=table))
        others = [form for form in self.wanted[number] if form != I8]
        if others:
            made = self.tensor(number, F32, name)
            self.done.ops.append(QuantizeInput(name, number, made, scale, bias))
            self.convert(number, others, name)

    # -- convolutions ---------------------------------------------------------------------------------

    def conv(self, node: ConvNode) -> None:
        forms = self.wanted[node.output]
        source = self.done.tensors[self.held(node.input, self.input_form(node))]
        weight_dtype, weight, scale = self.weights(node, source)
        made = functools.partial(
            Conv2d,
            node.name,
            self.held(node.input, self.input_form(node)),
            weight_dtype=weight_dtype,
            weight=weight,
            stride=node.stride,
            padding=node.padding,
            pad_value=node.pad_value if source.dtype == "bits" else 0,
            groups=node.groups,
            dilation=node.dilation,
        )
        epilogue, written = self.epilogue(node, forms, source, scale)
        outputs = tuple(self.tensor(node.output, form, node.name) for form in written)
        if isinstance(epilogue, IntegerEpilogue) and "relu6" in (node.pre.kind, node.post.kind):
            outputs = self.below_six(node, outputs[0], made, epilogue)
        else:
            self.done.ops.append(made(outputs=outputs, epilogue=epilogue))
        self.convert(node.output, forms, node.name)

    def below_six(
        self, node: ConvNode, output: int, made: Callable[..., Conv2d], epilogue: IntegerEpilogue
    ) -> tuple[int, ...]:
        """Write a convolution with ReLU6: its codes end at 6, or a table makes them do so."""
        q = self.quantizations[node.output]
        six = int(q.quantize(np.array([6.0], np.float32))[0])
        if six == 127:
            self.done.ops.append(made(outputs=(output,), epilogue=epilogue))
            return (output,)
        self.done.tensors.append(
            dataclasses.replace(self.done.tensors[output], name=f"{node.name}.unbounded")
        )
        unbounded = len(self.done.tensors) - 1
        self.done.ops.append(made(outputs=(unbounded,), epilogue=epilogue))
        table = np.minimum(np.arange(-128, 128), six).astype(np.int8)
        self.done.ops.append(Lookup(node.name, unbounded, output, table))
        return (output,)

    def input_form(self, node: ConvNode) -> Form:
        if (node.input, I32) in self.done.held:
            return I32
        return input_form(node, self.precisions)

    def weights(self, node: ConvNode, source: Tensor) -> tuple[str, npt.NDArray[Any], Floats | None]:
        """Return dtype and array of the weights, and the scale that makes accumulators real values."""
        factor: npt.NDArray[Any] | None = node.scale
        if source.dtype in ("i8", "i32"):
            step = source.scale if source.dtype == "i8" else self.pooled_step(node)
            factor = (np.float64(step) * (1.0 if factor is None else factor.astype(np.float64))) * np.ones(
                len(node.weight)
            )
        if node.precision in ("w1", "w1a1"):
            return "w1", pack_signs(node.weight), _float32(factor)
        if source.dtype == "f32":
            return "f32", node.weight, _float32(factor)
        assert factor is not None
        weight, steps = int8_weights(node, wide=source.dtype == "i32")
        return "i8", weight, _float32(factor * steps)

    def pooled_step(self, node: ConvNode) -> float:
        """Return the real value of one unit of a global average pool's sum."""
        pool = next(n for n in self.graph.nodes if n.output == node.input)
        assert isinstance(pool, PoolNode)
        height, width, _ = self.graph.shapes[pool.input]
        return self.quantizations[pool.input].scale / (height * width)

    def epilogue(
        self, node: ConvNode, forms: list[Form], source: Tensor, scale: Floats | None
    ) -> tuple[Epilogue, list[Form]]:
        """Return the epilogue of `node` and which forms it writes."""
        bits = [form for form in forms if form.dtype == "bits"]
        if source.dtype == "bits" and len(forms) == 1 and bits and node.residual is None:
            found = self.thresholds(node, bits[0])
            if found is not None:
                return ThresholdEpilogue(*found), forms
        if integer_epilogue_fits(node, forms, self.precisions) and source.dtype != "i32":
            if scale is None:  # 1-bit inputs and weights, without scale or batch norm
                scale = np.ones(len(node.weight), np.float32)
            return self.integer(node, source, scale), forms
        written, threshold = written_forms(forms)
        residual = None if node.residual is None else self.held(node.residual, F32)
        return FloatEpilogue(scale, node.bias, node.pre, residual, node.post, threshold), written

    def pointwise(self, node: AffineNode | AddNode) -> None:
        """Write a batch norm, an activation or an addition that stands alone."""
        forms = self.wanted[node.output]
        if is_table(node) and (node.input, I8) in self.done.held and forms == [I8]:
            assert isinstance(node, AffineNode)
            made = self.tensor(node.output, I8, node.name)
            self.lookup(node.name, self.held(node.input, I8), made, node.pre)
            return
        written, threshold = written_forms(forms)
        outputs = tuple(self.tensor(node.output, form, node.name) for form in written)
        read = self.held(node.input, F32)
        if isinstance(node, AffineNode):
            epilogue = FloatEpilogue(node.scale, node.bias, node.pre, threshold=threshold)
            self.done.ops.append(Affine(node.name, read, outputs, epilogue))
        else:
            residual = self.held(node.residual, F32)
            epilogue = FloatEpilogue(residual=residual, post=node.post, threshold=threshold)
            self.done.ops.append(Add(node.name, read, outputs, epilogue))
        self.convert(node.output, forms, node.name)

    def lookup(self, name: str, read: int, made: int, function: Activation) -> None:
        """Write the table of a function from the codes of tensor `read` to those of `made`."""
        source, result = (self.done.tensors[number] for number in (read, made))
        codes = np.arange(-128, 128, dtype=np.float32) - np.float32(source.zero_point)
        values = activate(function, codes * np.float32(source.scale))
        table = Quantization(result.scale, result.zero_point).quantize(values)
        self.done.ops.append(Lookup(name, read, made, table))

    def multiply(self, node: MulNode) -> None:
        """Write a product with one value a channel."""
        forms = self.wanted[node.output]
        if self.precisions.dense == "int8" and forms == [I8]:
            factors = [self.quantizations[value].scale for value in (node.input, node.factor)]
            ratio = math.prod(factors) / self.quantizations[node.output].scale
            channels = self.graph.shapes[node.output][2]
            scale = np.full(channels, ratio)
            reads = (self.held(node.input, I8), self.held(node.factor, I8))
            m, b, shift, _ = integer_terms(node.name, scale, 0 * scale, 0.0, 255 * 255)
            outputs: tuple[int, ...] = (self.tensor(node.output, I8, node.name),)
            epilogue: Epilogue = IntegerEpilogue(m, b, shift)
        else:
            written, threshold = written_forms(forms)
            reads = (self.held(node.input, F32), self.held(node.factor, F32))
            outputs = tuple(self.tensor(node.output, form, node.name) for form in written)
            epilogue = FloatEpilogue(threshold=threshold)
        self.done.ops.append(Mul(node.name, *reads, outputs, epilogue))
        self.convert(node.output, forms, node.name)

    def look_up(self, node: TableNode) -> None:
        read, made = self.held(node.input, I8), self.tensor(node.output, I8, node.name)
        self.done.ops.append(Lookup(node.name, read, made, node.table))
        self.convert(node.output, self.wanted[node.output], node.name)

    def concatenate(self, node: ConcatNode) -> None:
        """Write a concatenation; int8 inputs of another scale go through a table first."""
        forms = self.wanted[node.output]
        integer = self.precisions.dense == "int8" and forms == [I8]
        form = I8 if integer else F32
        made = self.tensor(node.output, form, node.name)
        reads = [self.held(value, form) for value in node.inputs]
        result = self.done.tensors[made]
        for at, read in enumerate(reads) if integer else ():
            source = self.done.tensors[read]
            if (source.scale, source.zero_point) == (result.scale, result.zero_point):
                continue
            name = f"{source.name}.rescaled"
            self.done.tensors.append(dataclasses.replace(result, shape=source.shape, name=name))
            reads[at] = len(self.done.tensors) - 1
            self.lookup(name, read, reads[at], Activation())
        self.done.ops.append(Concat(node.name, tuple(reads), made))
        self.convert(node.output, forms, node.name)

    def thresholds(
        self, node: ConvNode, form: Form
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None:
        taps = int(np.prod(node.weight.shape[1:]))
        values = form.threshold_array()
        threshold = None if values is None else torch.from_numpy(values)
        return integer_thresholds(lambda acc: node.run_tail(acc, threshold), len(node.weight), taps)

    def integer(self, node: ConvNode, source: Tensor, scale: Floats) -> IntegerEpilogue:
        """Return the integer epilogue: real values over the output's scale, times 2^shift, rounded."""
        target = self.quantizations[node.output].scale
        residual, ratio = None, 0.0
        if node.residual is not None:
            residual = self.held(node.residual, I8)
            ratio = self.quantizations[node.residual].scale / target
        widest = 255 if source.dtype == "i8" else 1
        per_weight = 1 if node.precision in ("w1", "w1a1") else 127
        bound = int(np.prod(node.weight.shape[1:])) * widest * per_weight
        factors = scale.astype(np.float64) / target
        offsets = 0 * factors if node.bias is None else node.bias.astype(np.float64) / target
        m, b, shift, r = integer_terms(node.name, factors, offsets, ratio, bound)
        return IntegerEpilogue(
            multiplier=m,
            bias=b,
            shift=shift,
            pre_relu=node.pre.kind in ("relu", "relu6"),
            residual=residual,
            residual_multiplier=r,
            post_relu=node.post.kind in ("relu", "relu6"),
        )

    # -- pools and conversions --------------------------------------------------------------------------

    def pool(self, node: PoolNode) -> None:
        """Write a pool or a resize; int8 where its output has the scale of its input."""
        forms = self.wanted[node.output]
        read_form, form = F32, F32
        if node.kind == "global" and forms == [I32]:
            read_form, form = I8, I32
        elif node.kind in KEEPS_SCALE and forms == [I8]:
            self.quantizations[node.output] = self.quantizations[node.input]
            read_form, form = I8, I8
        read, made = self.held(node.input, read_form), self.tensor(node.output, form, node.name)
        window = (node.kernel, node.stride, node.padding)
        match node.kind:
            case "global":
                op: Op = GlobalAvgPool(node.name, read, made)
            case "max":
                op = MaxPool(node.name, read, made, *window)
            case "nearest":
                op = Resize(node.name, read, made)
            case "bilinear":
                op = Bilinear(node.name, read, made)
            case _:
                op = AvgPool(node.name, read, made, *window, node.count_padding)
        self.done.ops.append(op)
        self.convert(node.output, forms, node.name)

    def convert(self, value: int, forms: list[Form], name: str) -> None:
        """Write the forms of `value` that are asked for and not there yet."""
        for form in forms:
            if (value, form) in self.done.held:
                continue
            if form == F32:
                read = self.held(value, I8)
                self.done.ops.append(Dequantize(name, read, self.tensor(value, F32, name)))
                continue
            read = self.held(value, F32)
            made = self.tensor(value, form, name)
            if form == I8:
                self.done.ops.append(Quantize(name, read, made))
            else:
                self.done.ops.append(Binarize(name, read, made, form.threshold_array()))


def _float32(values: npt.NDArray[Any] | None) -> Floats | None:
    return None if values is None else values.astype(np.float32)
