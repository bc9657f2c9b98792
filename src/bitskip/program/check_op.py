"""The check of one op against its row of the table and the tensors that it names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from bitskip.bits import WORD_BITS, words_for
from bitskip.errors import FileFormatError
from bitskip.program.bounds import accumulator_bound, integer_bound
from bitskip.program.ops import (
    Activation,
    Conv2d,
    IntegerEpilogue,
    Op,
    Tensor,
    op_inputs,
    op_outputs,
    op_residual,
)
from bitskip.program.record import Flat, flatten
from bitskip.program.schema import (
    ACCUMULATOR_LIMIT,
    ACTIVATIONS,
    EPILOGUES,
    INTEGER_LIMIT,
    LIMITS,
    OPS,
    Form,
)
from bitskip.program.shapes import SHAPES, evaluate

MAX_SIDE, MAX_CHANNELS, MAX_KERNEL = LIMITS["MAX_SIDE"], LIMITS["MAX_CHANNELS"], LIMITS["MAX_KERNEL"]


def fail(where: str, message: str) -> NoReturn:
    """Raise the FileFormatError of `where`, an op or a tensor."""
    raise FileFormatError(f"{where}: {message}")


def whole(value: object, low: int, high: int, where: str, what: str) -> int:
    """Return `value` if it is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        fail(where, f"{what} is {value!r}, expected a whole number in {low}..{high}")
    return value


@dataclass(frozen=True)
class Window:
    """What a window covers, height and width; the default is that of an op without one."""

    reach: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    taps: int = 1  # pixels under the kernel


class OpCheck:
    """Checks one op against its row of the table and the tensors that it names."""

    def __init__(self, tensors: tuple[Tensor, ...], op: Op, bounds: dict[int, int]) -> None:
        self.tensors, self.op, self.bounds = tensors, op, bounds
        self.where = f"op '{op.name}'"
        self.row = OPS[op.kind]
        self.source = tensors[op.input]
        self.results = [tensors[number] for number in op_outputs(op)]

    def fail(self, message: str) -> NoReturn:
        fail(self.where, message)

    def check(self) -> None:
        for name in ("in_place", "count_padding"):
            if not isinstance(getattr(self.op, name, False), bool):
                self.fail(f"{name} is {getattr(self.op, name)!r}, expected true or false")
        flat = flatten(self.op)
        form = self.form(flat)
        self.written(form)
        self.constants(flat, form)
        if isinstance(self.op, Conv2d):
            self.convolution(self.op, form)
        window = self.window() if self.row.has_window else Window()
        self.shape(window)
        self.values(flat)
        if self.row.keeps_scale:
            self.same_scale()
        self.residual()
        bound = self.accumulator()
        epilogue = getattr(self.op, "epilogue", None)
        if isinstance(epilogue, IntegerEpilogue):
            self.integer(epilogue, bound)

    # -- types ----------------------------------------------------------------------------------------

    def form(self, flat: Flat) -> Form:
        """Return the form of the table that the op has."""
        forms = self.row.forms
        fitting = [form for form in forms if form.source == self.source.dtype]
        if not fitting:
            known = ", ".join(dict.fromkeys(form.source for form in forms))
            self.fail(f"reads {self.source.dtype}, expected {known}")
        weight = flat.values.get("weight_dtype", "")
        fitting = [form for form in fitting if form.weight == weight]
        if not fitting:
            self.fail(f"has {self.source.dtype} input and {weight!r} weights, which do not combine")
        fitting = [form for form in fitting if form.epilogue == flat.epilogue]
        if not fitting:
            self.fail(f"has a {flat.epilogue} epilogue, which does not take {self.source.dtype} here")
        written = {result.dtype for result in self.results}
        for form in fitting:
            if written <= set(form.writes):
                return form
        self.fail(
            f"turns {self.source.dtype} into {' and '.join(sorted(written))}, expected "
            f"{' or '.join(dict.fromkeys(name for form in fitting for name in form.writes))}"
        )

    def written(self, form: Form) -> None:
        dtypes = [result.dtype for result in self.results]
        if len(set(dtypes)) != len(dtypes):
            self.fail(f"has two outputs of dtype {dtypes[0]}")
        if len(dtypes) > 1 and form.epilogue != "float":
            self.fail(f"writes {' and '.join(dtypes)}, expected one output")
        least, most = self.row.inputs
        plain = self.plain_inputs()
        if not least <= len(plain) <= most:
            self.fail(f"reads {len(plain)} tensors, expected {least} to {most}")
        for number in plain[1:]:
            if self.tensors[number].dtype != self.source.dtype:
                self.fail(f"reads {self.source.dtype} and {self.tensors[number].dtype}, expected one dtype")

    def plain_inputs(self) -> tuple[int, ...]:
        """Return the tensors that it reads, without the residual."""
        inputs = op_inputs(self.op)
        return inputs[: len(inputs) - (op_residual(self.op) is not None)]

    def constants(self, flat: Flat, form: Form) -> None:
        given = set(flat.constants)
        for name in sorted(form.needed - given):
            self.fail(f"lacks its {name}")
        for name in sorted(given - form.taken):
            self.fail(f"takes no {name} with {self.source.dtype} input")
        written = {result.dtype for result in self.results}
        if form.epilogue == "float" and "threshold" in given and "bits" not in written:
            self.fail("has a threshold, but no bits output")
        for at in ("pre", "post"):
            if form.epilogue == "float" and at in flat.values:
                self.activation(getattr(self.op.epilogue, at), at)  # type: ignore[union-attr]
                kind = flat.values[at]
                if kind != "none" and form.takes is not None and f"{at}_slope" not in form.takes:
                    self.fail(f"takes no activation {at}")
        if form.epilogue == "integer":
            epilogue: Any = self.op.epilogue  # type: ignore[union-attr]
            self.integer_fields(epilogue)

    def activation(self, activation: object, what: str) -> None:
        if not isinstance(activation, Activation) or activation.kind not in ACTIVATIONS:
            kind = getattr(activation, "kind", activation)
            self.fail(f"{what} is {kind!r}, expected one of {', '.join(ACTIVATIONS)}")
        needed = ACTIVATIONS[activation.kind][1]
        for name in ("shift_in", "slope", "shift_out"):
            if (getattr(activation, name) is not None) != (name in needed):
                has = "lacks its" if name in needed else "takes no"
                self.fail(f"{what} '{activation.kind}' {has} {name}")

    def integer_fields(self, epilogue: IntegerEpilogue) -> None:
        whole(epilogue.shift, 1, LIMITS["MAX_SHIFT"], self.where, "shift")
        most = (1 << 31) - 1
        whole(epilogue.residual_multiplier, -most - 1, most, self.where, "residual_multiplier")
        if epilogue.residual is None and epilogue.residual_multiplier:
            self.fail("has a residual_multiplier, but no residual")
        for what in ("pre_relu", "post_relu"):
            if not isinstance(getattr(epilogue, what), bool):
                self.fail(f"{what} is {getattr(epilogue, what)!r}, expected true or false")

    # -- shapes ---------------------------------------------------------------------------------------

    def shape(self, window: Window) -> None:
        shape, source = self.results[0].shape, self.source.shape
        if any(result.shape != shape for result in self.results):
            self.fail(f"has outputs of shapes {shape} and {self.results[1].shape}, expected the same")
        rule = SHAPES[self.row.shape]
        inputs = [self.tensors[number].shape for number in self.plain_inputs()]
        for axis in range(2):
            size, result = source[axis], shape[axis]
            reach, stride, padding = window.reach[axis], window.stride[axis], window.padding[axis]
            if not evaluate(rule.side, size=size, result=result, reach=reach, stride=stride, padding=padding):
                of_window = f" with kernel {reach}, stride {stride} and padding {padding}"
                self.fail(
                    f"output size {result} on axis {axis} does not follow from {size}"
                    f"{of_window if self.row.has_window else ''}, expected {rule.says}"
                )
        pixels, taps = source[0] * source[1], window.taps
        total = sum(other[2] for other in inputs)
        if not evaluate(
            rule.channels, channels=source[2], total=total, result=shape[2], pixels=pixels, taps=taps
        ):
            self.fail(f"turns shape {source} into {shape}, expected {rule.says}")
        for other in inputs[1:]:
            if not (
                evaluate(rule.other_channels, other=other[2], channels=source[2])
                and all(
                    evaluate(rule.other_side, other=side, size=size)
                    for side, size in zip(other[:2], source[:2], strict=True)
                )
            ):
                self.fail(f"reads shapes {source} and {other}, which do not go together")

    def window(self) -> Window:
        """Return the window, its numbers checked."""
        op: Any = self.op
        pool = self.row.is_pool
        kernel = self.pair(op.kernel, 1, MAX_SIDE if pool else MAX_KERNEL, "kernel")
        stride = self.pair(op.stride, 1, LIMITS["MAX_STRIDE"], "stride")
        padding = self.pair(op.padding, 0, MAX_KERNEL - 1, "padding")
        window = Window(kernel, stride, padding, kernel[0] * kernel[1])
        if pool:
            if window.taps > LIMITS["MAX_POOL_TAPS"]:
                self.fail(f"its kernel {kernel} covers more than {LIMITS['MAX_POOL_TAPS']} pixels")
            if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
                self.fail("padding is more than half of the kernel")
        else:
            self.pair(op.dilation, 1, LIMITS["MAX_DILATION"], "dilation")
            reach = self.pair(op.reach, 1, MAX_SIDE, "dilation * (kernel - 1) + 1")
            if any(step > 1 and side == 1 for step, side in zip(op.dilation, kernel, strict=True)):
                self.fail(f"its kernel {kernel} has dilation {op.dilation}, expected 1 where the kernel is 1")
            window = replace(window, reach=reach)
        for pad, reach_along in zip(padding, window.reach, strict=True):
            if pad >= reach_along:
                self.fail(f"padding {pad} is not below the kernel's {reach_along}")
        return window

    def pair(self, values: object, low: int, high: int, what: str) -> tuple[int, int]:
        if not isinstance(values, tuple) or len(values) != 2:
            self.fail(f"{what} is {values!r}, expected two whole numbers")
        first, second = (whole(value, low, high, self.where, what) for value in values)
        return first, second

    def convolution(self, op: Conv2d, form: Form) -> None:
        if not isinstance(op.weight, np.ndarray) or op.weight.ndim != 4:
            self.fail("weights must have four axes (O, KH, KW, I)")
        whole(op.pad_value, -1, 1, self.where, "pad_value")
        if op.pad_value and self.source.dtype != "bits":
            self.fail(f"pads {self.source.dtype} with {op.pad_value}, expected 0")
        if self.source.dtype == "i32" and (op.kernel != (1, 1) or self.source.shape[:2] != (1, 1)):
            self.fail("an i32 input must be a vector, and its kernel 1x1")
        groups = whole(op.groups, 1, MAX_CHANNELS, self.where, "groups")
        if groups > 1 and not form.groups:
            types = f"{self.source.dtype} and {op.weight_dtype} weights"
            self.fail(f"has {groups} groups, expected 1 with {types}")
        if self.source.shape[2] % groups or self.results[0].shape[2] % groups:
            self.fail(
                f"its {self.source.shape[2]} and {self.results[0].shape[2]} channels do not divide into "
                f"{groups} groups"
            )

    # -- values ---------------------------------------------------------------------------------------

    def values(self, flat: Flat) -> None:
        channels = self.results[0].shape[2]
        for name, array in flat.constants.items():
            self.array(array, *self.expected(name, flat, channels), name)
        if isinstance(self.op, Conv2d):
            self.weights(self.op)

    def expected(self, name: str, flat: Flat, channels: int) -> tuple[Any, tuple[int, ...]]:
        """Return the dtype and the shape that a constant must have."""
        if isinstance(self.op, Conv2d) and name == "weight":
            inputs = self.source.shape[2] // self.op.groups
            dtype, last = {
                "f32": (np.float32, inputs),
                "i8": (np.int8, inputs),
                "w1": (np.uint64, words_for(inputs)),
            }[self.op.weight_dtype]
            return dtype, (channels, *self.op.kernel, last)
        if name == "table":
            return np.int8, (channels, 256) if self.row.channel_tables else (256,)
        dtypes: dict[str, Any] = {"flip": np.bool_, "multiplier": np.int32}
        if flat.epilogue == "integer":
            dtypes["bias"] = np.int64
        if flat.epilogue == "threshold":
            dtypes["threshold"] = np.int32
        return dtypes.get(name, np.float32), (channels,)

    def array(self, values: object, dtype: Any, shape: tuple[int, ...], what: str) -> None:
        if not isinstance(values, np.ndarray) or values.dtype != dtype or values.shape != shape:
            got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else repr(values)[:40]
            self.fail(f"{what} is {got}, expected {np.dtype(dtype)} {shape}")
        if values.dtype == np.float32 and not np.isfinite(values).all():
            self.fail(f"{what} holds a value that is not finite")

    def weights(self, op: Conv2d) -> None:
        if op.weight_dtype == "i8" and op.weight.min() == -128:
            self.fail("an int8 weight is -128, expected -127..127")
        unused = -self.source.shape[2] % WORD_BITS
        if op.weight_dtype == "w1" and unused and (op.weight[..., -1] >> np.uint64(WORD_BITS - unused)).any():
            self.fail("unused bits of the 1-bit weights are not 0")

    def same_scale(self) -> None:
        kept = {(t.scale, t.zero_point) for t in self.results}
        kept |= {(self.tensors[n].scale, self.tensors[n].zero_point) for n in op_inputs(self.op)}
        if self.source.dtype == "i8" and len(kept) != 1:
            self.fail(f"the scale or the zero point changes under {self.op.kind}")

    def residual(self) -> None:
        epilogue = getattr(self.op, "epilogue", None)
        number = getattr(epilogue, "residual", None)
        if number is None:
            if self.row.residual == "must":
                self.fail("adds no residual")
            if getattr(self.op, "in_place", False):
                self.fail("is in place, but adds no residual")
            return
        if self.row.residual == "none":
            self.fail(f"{self.op.kind} adds no residual, but tensor {number} is given")
        dtype, shape = EPILOGUES[epilogue.kind].residual, self.results[0].shape  # type: ignore[union-attr]
        added = self.tensors[number]
        if added.dtype != dtype or added.shape != shape:
            self.fail(f"adds {added.dtype} {added.shape}, expected {dtype} {shape}")

    # -- bounds ---------------------------------------------------------------------------------------

    def accumulator(self) -> int:
        """Return the largest |acc| of an integer accumulator, 0 for a float one."""
        op, source = self.op, self.source
        if isinstance(op, Conv2d):
            bound = accumulator_bound(op, self.tensors, self.bounds.get(op.input, 0))
            limit = INTEGER_LIMIT if source.dtype == "i32" else ACCUMULATOR_LIMIT
            if bound >= limit:
                self.fail(f"its accumulator can reach {bound}, expected less than {limit}")
            return bound
        if source.dtype != "i8":
            return 0
        bound = evaluate(self.row.largest, pixels=source.shape[0] * source.shape[1])
        if bound >= ACCUMULATOR_LIMIT:
            self.fail(f"its sum can reach {bound}, expected less than 2^31")
        if self.results[0].dtype == "i32":
            self.bounds[op_outputs(op)[0]] = bound
        return bound

    def integer(self, epilogue: IntegerEpilogue, bound: int) -> None:
        if integer_bound(epilogue, bound) >= INTEGER_LIMIT:
            self.fail("the integer epilogue can reach 2^62")
