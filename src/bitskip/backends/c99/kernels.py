"""One op to C: which kernel runs it, its constants in the order in which that kernel reads them.

What is written here is data and calls; the kernels themselves are in templates/.
"""

from __future__ import annotations

import numpy as np

from bitskip.backends.c99.arrays import float_literal
from bitskip.backends.c99.bounds import integer_logits
from bitskip.backends.c99.cores import Core
from bitskip.backends.c99.epilogues import EpilogueWriter, Written
from bitskip.backends.c99.placement import Placement, window_of
from bitskip.backends.c99.weights import bit_stream, half_words, int8_words, nibbles, up4
from bitskip.bits import unpack_signs
from bitskip.program import (
    Add,
    Affine,
    AvgPool,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    FloatEpilogue,
    GlobalAvgPool,
    Lookup,
    MaxPool,
    Mul,
    Op,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
    Tensor,
    conv_precision,
    op_outputs,
)
from bitskip.program.bounds import accumulator_bound


def scratch_bytes(op: Op, program: Program, core: Core) -> int:
    """Return the working memory of an op, in bytes."""
    if isinstance(op, Mul | Add | Affine) and program.tensors[op.input].dtype == "i8":
        return 4 * program.tensors[op.input].shape[2]
    if not isinstance(op, Conv2d):
        return 0
    if op.groups > 1:
        return 4 * len(op.weight)
    source, channels = program.tensors[op.input], int(op.weight.shape[0])
    taps = op.kernel[0] * op.kernel[1]
    if source.dtype == "i8" and op.weight_dtype == "w1":
        patch = core.tile * up4(taps * source.shape[2]) if source.shape[2] % 4 else 0
        over_tables = up4(taps * source.shape[2]) <= 256 and channels < 64
        wide = 0 if over_tables else 4 * core.tile * (channels + 1)
        return 2 * core.tile * (128 + channels + 1) + wide + patch  # tables, lanes, 32-bit sums, inputs
    if source.dtype == "i8":
        return 8 * (channels + 1) + 4 * up4(taps * source.shape[2])
    if source.dtype == "bits":
        return 8 * taps * -(-source.shape[2] // 32) + 4 * channels
    return 0


class Writer(EpilogueWriter):
    """Writes the ops of one program."""

    def __init__(self, program: Program, placement: Placement, core: Core, wide_bias: bool) -> None:
        super().__init__(program, placement, core, wide_bias)
        self.grouped_taps = 0  # the most taps of a grouped convolution
        self.groups = {8}  # how many nibbles of a word of 1-bit weights a loop adds
        self.pads: dict[int, int] = {}  # zero point to the channels that a padded pixel needs
        for op in program.ops:
            source = program.tensors[op.input]
            if self.kernel(op) == "w1" and source.shape[2] % 4 == 0:
                self.pads[source.zero_point] = max(self.pads.get(source.zero_point, 0), source.shape[2])

    def kernel(self, op: Op) -> str:
        """Return what runs `op`: w1, i8, w1a1, f32, depthwise, grouped, head, logits; else its kind."""
        if not isinstance(op, Conv2d):
            return op.kind
        dtype = self.program.tensors[op.input].dtype
        if op.groups > 1:
            depthwise = op.groups == len(op.weight) == self.program.tensors[op.input].shape[2]
            return "depthwise" if depthwise and op.groups % 4 == 0 else "grouped"
        if dtype == "i32":
            return "logits" if integer_logits(op, self.program) else "head"
        return {"bits": "w1a1", "f32": "f32"}.get(dtype, "w1" if op.weight_dtype == "w1" else "i8")

    def write(self, at: int) -> Written:
        """Return op number `at`."""
        op = self.program.ops[at]
        match op:
            case Conv2d():
                return self.conv(at, op)
            case QuantizeInput():
                return self.picture(at, op)
            case Add() | Affine():
                return self.pointwise(at, op)
            case Binarize() | Quantize():
                return self.convert(at, op)
            case Dequantize():
                return self.dequantize(at, op)
            case MaxPool() | AvgPool():
                return self.pool(at, op)
            case GlobalAvgPool():
                return self.global_pool(at, op)
            case Mul():
                return self.product(at, op)
            case Lookup():
                return self.lookup(at, op)
            case Concat():
                return self.concat(op)
            case Resize():
                return self.resize(op)
            case Bilinear():
                raise AssertionError("refused by `target.unsupported`")

    def geometry(self, op: Conv2d | MaxPool | AvgPool) -> list[str]:
        """Return the statements that find the rows that a step reads."""
        window = window_of(op)
        first = f"y * {window.stride} - {window.padding}"
        return [
            f"const uint8_t *rows[{window.kernel}];",
            f"bsk_rows(run->arena, &tensor_{op.input}, {first}, {window.kernel}, rows);",
        ]

    # -- convolutions ---------------------------------------------------------------------------------------

    def conv(self, at: int, op: Conv2d) -> Written:
        source, target = self.tensor(op.input), self.tensor(op_outputs(op)[0])
        kernel, channels = self.kernel(op), source.shape[2]
        macs = op.kernel[0] * op.kernel[1] * (channels // op.groups) * int(np.prod(target.shape))
        done = Written(
            f"{op.name}: {op.kernel[0]}x{op.kernel[1]}, stride {op.stride[0]}, "
            f"{_shape(source)} -> {_shape(target)}, {_words(op, self.program)}, {macs:,} MACs"
        )
        self.uses.add("conv")
        weights, sums, inputs = self.weights(at, op, kernel)
        done.declarations.append(
            f"static const bsk_conv conv_{at} = {{\n"
            f"    {weights}, {sums},\n"
            f"    {source.shape[1]}, {channels}, {target.shape[1]}, {target.shape[2]},\n"
            f"    {op.kernel[0]}, {op.kernel[1]}, {op.stride[1]}, {op.padding[1]}, {inputs},\n"
            f"    {source.zero_point if source.dtype == 'i8' else 0}, {op.pad_value},\n}};"
        )
        if kernel == "logits":
            done.statements = self.logits(at, op)
            return done
        done.statements = [] if kernel == "head" else self.geometry(op)
        done.statements += self.finish(at, op, op.epilogue, done)
        scratch = f"run->arena + {self.placement.scratch.get(at, 0)}u"
        calls = {
            "w1": f"bsk_w1_row(&conv_{at}, rows, &finish, {self.pad(source)}, {scratch});",
            "i8": f"bsk_i8_row(&conv_{at}, rows, &finish, {scratch});",
            "w1a1": f"bsk_w1a1_row(&conv_{at}, rows, &finish, {scratch});",
            "f32": f"bsk_f32_row(&conv_{at}, rows, &finish, {int(op.weight_dtype == 'w1')});",
            "grouped": f"bsk_grouped_row(&conv_{at}, rows, &finish, {channels // op.groups}, "
            f"{target.shape[2] // op.groups}, {self.words(at)});",
            "depthwise": f"bsk_depthwise_row(&conv_{at}, rows, &finish, {self.words(at)});",
            "head": f"bsk_head(&conv_{at}, {self.row(op.input, '0', const=True)}, &finish);",
        }
        done.statements.append(calls[kernel])
        return done

    def weights(self, at: int, op: Conv2d, kernel: str) -> tuple[str, str, int]:
        """Return the C of a convolution's weights and of what goes with their sums, and its `inputs`."""
        source = self.tensor(op.input)
        channels, taps = source.shape[2], op.kernel[0] * op.kernel[1]
        inputs, sums = up4(taps * channels), "NULL"
        what = f"{op.name}: {_words(op, self.program).split(' x ')[0]} weights"
        name = f"weights_{at}"
        match kernel:
            case "w1":
                signs = unpack_signs(op.weight, channels).reshape(len(op.weight), -1)
                ones = np.ones((1, signs.shape[1]), signs.dtype)
                weights = self.constants.add(name, nibbles(np.concatenate([signs, ones])), what)
                offsets = np.append(-(128 + source.zero_point) * signs.sum(axis=1), 0).astype(np.int32)
                sums = self.constants.add(
                    f"offsets_{at}", offsets, f"{op.name}: -(128 + zero point) * sum of the signs; 0 for U"
                )
                self.uses |= {"w1", "integer_acc"} | ({"w1_gather"} if channels % 4 else set())
                self.uses |= {"w1_deep"} if inputs > 256 else set()
                self.groups.add(8 if inputs < 32 else inputs // 4 % 8 or 8)
                return weights, sums, inputs
            case "i8":
                packed = int8_words(op.weight, self.core.dsp and channels % 4 != 0)
                self.uses |= {"i8", "integer_acc"} | (set() if channels % 4 else {"i8_words"})
                return self.constants.add(name, packed, what), sums, inputs
            case "w1a1":
                self.uses |= {"w1a1", "integer_acc"}
                if op.pad_value == 0 and any(op.padding):
                    self.uses.add("w1a1_masked")
                packed = half_words(op.weight, channels)
                return self.constants.add(name, packed, what), sums, taps * -(-channels // 32)
            case "f32":
                self.uses.add("conv_f32")
                if op.weight_dtype == "w1":
                    signs = unpack_signs(op.weight, channels).reshape(len(op.weight), -1)
                    return self.constants.add(name, bit_stream(signs < 0), what), sums, inputs
                weights = self.constants.add(name, op.weight.astype(np.float32), what)
            case "grouped" | "depthwise":
                inputs = taps * channels // op.groups
                by_tap = np.ascontiguousarray(op.weight.reshape(len(op.weight), -1).T)
                weights = self.constants.add(name, by_tap, f"{what}, an input of all channels in turn")
                self.uses |= {kernel, "integer_acc"}
                self.grouped_taps = max(self.grouped_taps, taps)
            case _:  # head, logits
                inputs = channels
                weights = self.constants.add(name, op.weight, what)
                self.uses.add("logits" if kernel == "logits" else "head_i32")
        return f"(const uint32_t *)(const void *){weights}", sums, inputs

    def logits(self, at: int, op: Conv2d) -> list[str]:
        """Return the statements of a last layer whose logits are computed in integers."""
        assert isinstance(op.epilogue, FloatEpilogue)
        scale, bias = op.epilogue.scale, op.epilogue.bias
        assert scale is not None
        scales = self.constants.add(
            f"logit_scale_{at}", scale.view(np.uint32), "bits of float32: logit scales"
        )
        shifts = "NULL"
        if bias is not None:
            shifts = self.constants.add(f"logit_bias_{at}", bias.view(np.uint32), "bits of float32: biases")
        if accumulator_bound(op, self.program.tensors) >= 2**31:
            self.uses.add("logits_wide")
        read = self.row(op.input, "0", const=True)
        return ["(void)y;", f"bsk_logits(&conv_{at}, {read}, {scales}, {shifts}, run->out);"]

    def pad(self, source: Tensor) -> str:
        """Return a pixel of zero points."""
        if source.zero_point not in self.pads:
            return "NULL"
        name = f"pad_{'m' if source.zero_point < 0 else ''}{abs(source.zero_point)}"
        pixel = np.full(self.pads[source.zero_point], source.zero_point, np.int8).view(np.uint32)
        name = self.constants.add(
            name, pixel, f"a pixel outside the picture: {source.zero_point} in each byte"
        )
        return f"(const uint8_t *)(const void *){name}"

    # -- the rest -------------------------------------------------------------------------------------------

    def picture(self, at: int, op: QuantizeInput) -> Written:
        _, width, channels = self.tensor(op.input).shape
        done = Written(f"{op.name}: {_shape(self.tensor(op.input))} bytes to {self.tensor(op.output).dtype}")
        if op.table is not None:
            table = self.constants.add(
                f"input_table_{at}", op.table, "int8 value of each byte, a channel after another"
            )
            self.uses.add("input_i8")
            done.statements = [
                f"bsk_input_i8({table}, {width}, {channels}, {self.row(op.input)}, {self.row(op.output)});"
            ]
        else:
            assert op.scale is not None
            assert op.bias is not None
            scale = self.constants.add(f"input_scale_{at}", op.scale, "scale of a byte, by channel")
            bias = self.constants.add(f"input_bias_{at}", op.bias, "and bias")
            self.uses.add("input_f32")
            rows = f"{self.row(op.input)}, {self.row(op.output)}"
            done.statements = [f"bsk_input_f32({scale}, {bias}, {width}, {channels}, {rows});"]
        return done

    def pointwise(self, at: int, op: Add | Affine) -> Written:
        source = self.tensor(op.input)
        done = Written(f"{op.name}: {op.kind}, {_shape(source)}")
        done.statements = self.finish(at, op, op.epilogue, done)
        width, channels = source.shape[1:]
        read = self.row(op.input, const=True)
        if source.dtype == "i8":
            self.uses |= {"add_i8", "integer_acc"}
            done.statements.append(
                f"bsk_add_i8({width}, {channels}, {source.zero_point}, {read}, &finish, {self.words(at)});"
            )
        else:
            self.uses.add("pointwise")
            done.statements.append(f"bsk_pointwise_f32({width}, {channels}, {read}, &finish);")
        return done

    def product(self, at: int, op: Mul) -> Written:
        source, factor = self.tensor(op.input), self.tensor(op.factor)
        done = Written(f"{op.name}: {op.kind}, {_shape(source)} by {_shape(factor)}")
        done.statements = self.finish(at, op, op.epilogue, done)
        reads = f"{self.row(op.input, const=True)}, {self.row(op.factor, '0', const=True)}"
        sizes = f"{source.shape[1]}, {source.shape[2]}"
        if source.dtype == "i8":
            self.uses |= {"mul_i8", "integer_acc"}
            zeros = f"{source.zero_point}, {factor.zero_point}"
            done.statements.append(f"bsk_mul_i8({sizes}, {zeros}, {reads}, &finish, {self.words(at)});")
        else:
            self.uses.add("mul_f32")
            done.statements.append(f"bsk_mul_f32({sizes}, {reads}, &finish);")
        return done

    def lookup(self, at: int, op: Lookup) -> Written:
        source = self.tensor(op.input)
        table = self.constants.add(f"table_{at}", op.table, f"{op.name}: what becomes of -128, -127, ...")
        self.uses.add("lookup")
        count = source.shape[1] * source.shape[2]
        rows = f"{self.row(op.input, const=True)}, {self.row(op.output)}"
        return Written(
            f"{op.name}: {op.kind}, {_shape(source)}", [], [f"bsk_lookup({table}, {count}, {rows});"]
        )

    def concat(self, op: Concat) -> Written:
        target = self.tensor(op.output)
        self.uses.add("copy")
        element = 4 if target.dtype == "f32" else 1
        calls, first = [], 0
        for number in op.inputs:
            bytes_ = element * self.tensor(number).shape[2]
            calls.append(
                f"bsk_copy({target.shape[1]}, {bytes_}u, {self.bytes(number)}, {bytes_}u, "
                f"{self.bytes(op.output)} + {first}, {element * target.shape[2]}u);"
            )
            first += bytes_
        return Written(f"{op.name}: {op.kind} to {_shape(target)}", [], calls)

    def resize(self, op: Resize) -> Written:
        source, target = self.tensor(op.input), self.tensor(op.output)
        self.uses.add("nearest")
        pixel = source.shape[2] * (4 if source.dtype == "f32" else 1)
        read = self.bytes(op.input, f"y * {source.shape[0]} / {target.shape[0]}")
        call = (
            f"bsk_nearest({source.shape[1]}, {target.shape[1]}, {pixel}u, {read}, {self.bytes(op.output)});"
        )
        return Written(f"{op.name}: {op.kind}, {_shape(source)} -> {_shape(target)}", [], [call])

    def convert(self, at: int, op: Binarize | Quantize) -> Written:
        source, target = self.tensor(op.input), self.tensor(op.output)
        done = Written(f"{op.name}: {_shape(source)}, {source.dtype} to {target.dtype}")
        if isinstance(op, Binarize) and source.dtype == "i8":
            assert op.q_threshold is not None
            assert op.flip is not None
            self.uses |= {"binarize_i8", "threshold", "bits_out", "epilogue"}
            done.declarations.append(self.threshold(at, op.name, op.q_threshold, op.flip))
            sizes = f"{source.shape[1]}, {source.shape[2]}"
            rows = f"{self.row(op.input, const=True)}, {self.row(op.output)}"
            done.statements = [f"bsk_binarize_i8(&threshold_{at}, {sizes}, {rows});"]
            return done
        threshold = op.threshold if isinstance(op, Binarize) else None
        made = Affine(op.name, op.input, (op.output,), FloatEpilogue(threshold=threshold))
        return Written(done.comment, *_parts(self.pointwise(at, made)))

    def dequantize(self, at: int, op: Dequantize) -> Written:
        source = self.tensor(op.input)
        self.uses.add("dequantize")
        count = source.shape[1] * source.shape[2]
        call = (
            f"bsk_dequantize({float_literal(source.scale)}, {source.zero_point}, {count}, "
            f"{self.row(op.input, const=True)}, {self.row(op.output)});"
        )
        return Written(f"{op.name}: {_shape(source)}, i8 to f32", [], [call])

    def pool(self, at: int, op: MaxPool | AvgPool) -> Written:
        source, target = self.tensor(op.input), self.tensor(op.output)
        done = Written(f"{op.name}: {op.kind}, {_shape(source)} -> {_shape(target)}")
        count = op.kernel[0] * op.kernel[1] if isinstance(op, AvgPool) and op.count_padding else 0
        done.declarations.append(
            f"static const bsk_pool pool_{at} = {{ {source.shape[1]}, {source.shape[2]}, {target.shape[1]}, "
            f"{op.kernel[0]}, {op.kernel[1]}, {op.stride[1]}, {op.padding[1]}, {count} }};"
        )
        kind = "avg_pool" if isinstance(op, AvgPool) else f"max_pool_{source.dtype}"
        self.uses |= {"pool", kind}
        done.statements = [*self.geometry(op), f"bsk_{kind}(&pool_{at}, rows, {self.row(op.output)});"]
        return done

    def global_pool(self, at: int, op: GlobalAvgPool) -> Written:
        source = self.tensor(op.input)
        height, width, channels = source.shape
        read, sums = self.row(op.input, const=True), self.row(op.output, "0")
        if source.dtype == "i8":
            self.uses.add("gap_i8")
            call = f"bsk_gap_i8(y, {width}, {channels}, {source.zero_point}, {read}, {sums});"
        else:
            self.uses.add("gap_f32")
            call = f"bsk_gap_f32(y, {height}, {width}, {channels}, {read}, {sums});"
        return Written(f"{op.name}: global average of {_shape(source)}, one row a step", [], [call])


def _parts(written: Written) -> tuple[list[str], list[str]]:
    return written.declarations, written.statements


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _words(op: Conv2d, program: Program) -> str:
    precision = conv_precision(op, program.tensors)
    dtype = {"i8": "int8", "bits": "1-bit", "f32": "float", "i32": "int32"}[program.tensors[op.input].dtype]
    weights = {"w1": "1-bit", "w1a1": "1-bit", "int8": "int8", "fp32": "float"}[precision]
    return f"{weights} x {dtype}"
