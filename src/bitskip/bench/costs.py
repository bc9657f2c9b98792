"""What a layer costs on this machine: a table measured once, and any Program's latency predicted from it.

1. A row is a convolution by its types, kernel side, stride and shape, with the plainest epilogue of its
   types, timed on one thread with the kernel that the runtime chooses for it.
2. A convolution between rows takes nanoseconds a multiply-accumulate from the rows of its types, kernel and
   stride, each weighted by the inverse fourth power of its distance in doublings of channels in, channels
   out and side. Output channels count in whole tiles of 32, as kernels compute them, and only rows that the
   same kernel of the runtime ran count, where this machine can say which that is.
   One with groups counts as one of as many channels in as a group has, which its kernels are not timed for.
3. Other epilogues, and operations that are no convolution, are nanoseconds an output element.
Importing this module loads numpy alone.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.errors import FileFormatError, RunError
from bitskip.files import read_json, write_json
from bitskip.program import Conv2d, FloatEpilogue, Op, Program, ThresholdEpilogue, op_outputs, op_residual
from bitskip.results.codec import decode

VERSION = 2
PASSES = 3  # over all rows: what disturbs a machine for a while then meets no row in each
TILE = 32  # output channels of a kernel's tile
_OTHER_DATA = np.empty(1 << 21, np.uint8)  # more than a core's own cache
CHANNELS, SIDES = (16, 32, 64, 128, 256), (8, 16, 32)
SHAPES = ((3, 1), (3, 2), (1, 1), (1, 2))  # kernel side, stride
TYPES = {
    "bits_w1": (3, 3),
    "i8_w1": (2, 3),
    "i8_i8": (2, 2),
    "f32_w1": (1, 3),
    "f32_f32": (1, 1),
}  # of a tensor
ACTIVATIONS = {"none": 0, "relu": 1, "prelu": 2, "rprelu": 3}


@dataclass(frozen=True)
class ConvCost:
    """A measured convolution: one picture, one thread, padding kernel // 2."""

    types: str  # input_weights, as kernels are named: i8_w1
    kernel: int
    stride: int
    inputs: int
    outputs: int
    side: int  # of the output
    us: float
    variant: str = ""  # the kernel that ran it

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one picture, in whole tiles of output channels."""
        return _macs(self.kernel, self.inputs, self.outputs, self.side)


def _macs(kernel: float, inputs: int, outputs: int, side: float) -> float:
    return side**2 * -(-outputs // TILE) * TILE * inputs * kernel**2


@dataclass(frozen=True)
class CostTable:
    """Rows, and nanoseconds an output element of what is added to a plain convolution."""

    isa: str
    features: tuple[str, ...]
    convs: tuple[ConvCost, ...]
    extras: dict[
        str, float
    ]  # of epilogues beyond the plain one of their kind: residual, bits, i8, prelu, rprelu
    element_ns: float  # of an operation that is no convolution

    def conv_us(
        self,
        types: str,
        kernel: int,
        stride: int,
        inputs: int,
        outputs: int,
        side: float,
        variant: str | None = None,
    ) -> float:
        """Return the microseconds of a convolution with a plain epilogue.

        Args:
            types: of input and weights, as in `ConvCost`.
            kernel: its side.
            stride: of both axes.
            inputs: channels in.
            outputs: channels out.
            side: of the output.
            variant: the kernel that runs it, where that is known.

        Raises:
            RunError: if the table has no row of these types.
        """
        rows = [row for row in self.convs if row.types == types]
        if not rows:
            raise RunError(f"the cost table has no convolution of {types}; measure it again")
        like = [row for row in rows if (row.kernel, row.stride) == (kernel, stride)]
        rows = like or [row for row in rows if row.stride == min(stride, 2)] or rows
        rows = [row for row in rows if row.variant == variant] or rows
        here = np.log2([inputs, outputs, side])
        distance = [float(np.sum((np.log2([r.inputs, r.outputs, r.side]) - here) ** 2)) for r in rows]
        weight = np.array([1.0 / (d * d + 1e-12) for d in distance])
        rate = np.array([math.log(row.us / row.macs) for row in rows])
        macs = _macs(kernel, inputs, outputs, side)
        return macs * math.exp(float((weight * rate).sum() / weight.sum()))

    def op_us(self, program: Program, op: Op, variant: str | None = None) -> float:
        """Return the microseconds of one operation, which the kernel `variant` runs where that is known."""
        height, width, channels = program.tensors[op_outputs(op)[0]].shape
        elements = height * width * channels
        given = program.tensors[op.input].dtype
        if not isinstance(op, Conv2d) or given == "i32":
            return elements * self.element_ns / 1e3
        types = f"{given}_{op.weight_dtype}"
        side = math.sqrt(height * width)
        kernel = round(math.sqrt(op.kernel[0] * op.kernel[1]))
        inputs = program.tensors[op.input].shape[2] // op.groups
        us = self.conv_us(types, kernel, op.stride[0], inputs, channels, side, variant)
        return us + elements * sum(self.extras.get(name, 0.0) for name in extras_of(program, op)) / 1e3

    def predict_us(self, program: Program) -> float:
        """Return the microseconds of one picture on one thread."""
        from bitskip.backends.native import NativeProgram, available_isas

        variants: tuple[str | None, ...] = (None,) * len(program.ops)
        if self.isa in available_isas():
            variants = NativeProgram(program, 1, self.isa).kernels
        return sum(map(self.op_us, itertools.repeat(program), program.ops, variants))

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        write_json(path, {"version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> CostTable:
        """Read a table that `save` wrote.

        Raises:
            RunError: if the file is not one.
        """
        try:
            return decode(cls, read_json(path), str(path), ("version", VERSION))
        except FileFormatError as error:
            raise RunError(
                f"{path} is not a cost table of this version ({error}); remove it to measure another"
            ) from None


def extras_of(program: Program, op: Conv2d) -> list[str]:
    """Return what an epilogue does beyond the plain one of its types, by the names of `extras`."""
    epilogue = op.epilogue
    if isinstance(epilogue, ThresholdEpilogue):
        return []
    kind = "float" if isinstance(epilogue, FloatEpilogue) else "integer"
    found = [f"{kind} residual"] if op_residual(op) is not None else []
    if isinstance(epilogue, FloatEpilogue):
        if program.tensors[op.input].dtype != "f32":
            found.append("float from integers")
        found += [f"float {act.kind}" for act in (epilogue.pre, epilogue.post) if act.kind.endswith("prelu")]
        dtypes = [program.tensors[number].dtype for number in op.outputs]
        found += [f"float {dtype}" for dtype in dtypes if dtype != "f32"]
    return found


def calibrate(
    isa: str, say: Callable[[str], None] = lambda _: None, sides: Sequence[int] = SIDES
) -> CostTable:
    """Measure this machine; about half a minute.

    Args:
        isa: instruction set of the kernels.
        say: told of progress.
        sides: of the outputs that are measured.
    """
    from bitskip.backends.native import cpu_features

    rows: dict[tuple[Any, ...], ConvCost] = {}
    for at, types, (kernel, stride) in itertools.product(range(PASSES), TYPES, SHAPES):
        say(f"{types}, kernel {kernel}x{kernel}, stride {stride}, pass {at + 1} of {PASSES}")
        for inputs, outputs, side in itertools.product((3, *CHANNELS), CHANNELS, sides):
            if outputs in (inputs, 2 * inputs) or (inputs == 3 and outputs <= 64 and kernel == 3):
                shape = (types, kernel, stride, inputs, outputs, side)
                us, variant = _time(_conv(*shape), isa)
                if shape not in rows or us < rows[shape].us:
                    rows[shape] = ConvCost(*shape, us, variant)
    per_element = 1e3 / (32 * 32 * 64)

    def least(described: tuple[dict[str, Any], int]) -> float:
        return min(_time(described, isa)[0] for _ in range(PASSES))

    extras = {}
    for name, (types, more) in _EXTRAS.items():
        plain, whole = (least(_conv(types, 1, 1, 32, 64, 32, parts)) for parts in ((), more))
        extras[name] = max(0.0, whole - plain) * per_element
    element = least(_elementwise(32, 64)) * per_element
    return CostTable(isa, cpu_features(), tuple(rows.values()), extras, element)


# By name: the types of the convolution, and what its description gets.
_EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "integer residual": ("i8_w1", ("residual",)),
    "float residual": ("f32_f32", ("residual",)),
    "float from integers": ("bits_w1", ("float",)),
    "float prelu": ("f32_f32", ("prelu",)),
    "float rprelu": ("f32_f32", ("rprelu",)),
    "float bits": ("f32_f32", ("bits",)),
    "float i8": ("f32_f32", ("i8",)),
}


def _bytes(dtype: int, side: int, channels: int) -> int:
    each = -(-channels // 64) * 8 if dtype == 3 else channels * (4 if dtype == 1 else 1)
    return -(-side * side * each // 64) * 64


def _conv(
    types: str, kernel: int, stride: int, inputs: int, outputs: int, side: int, more: tuple[str, ...] = ()
) -> tuple[dict[str, Any], int]:
    """Return a convolution as `bitskip._native.Engine` takes it, and the bytes of its arena."""
    rng = np.random.default_rng(0)
    given, weights = TYPES[types]
    shape = (outputs, kernel, kernel, inputs)
    taken: Any
    if weights == 3:
        words = (*shape[:3], -(-inputs // 64))
        taken = rng.integers(0, 1 << 63, words, np.uint64) & np.uint64((1 << min(inputs, 63)) - 1)
    else:
        taken = rng.integers(-40, 41, shape).astype(np.int8 if weights == 2 else np.float32)
    large, pad = side * stride, kernel // 2
    arena = _bytes(given, large, inputs)
    d: dict[str, Any] = {
        "kind": 0, "in": (given, large, large, inputs, -128 if given == 2 else 0, 0), "weight_dtype": weights,
        "weights": taken, "kh": kernel, "kw": kernel, "sh": stride, "sw": stride, "ph": pad, "pw": pad,
    }  # fmt: skip

    def place(key: str, dtype: int) -> None:
        nonlocal arena
        d[key] = (dtype, side, side, outputs, 0, arena)
        arena += _bytes(dtype, side, outputs)

    ones = np.ones(outputs, np.float32)
    if given == 1 or "float" in more:
        d |= {"epilogue": 1, "scale": ones, "bias": ones, "pre": ACTIVATIONS["relu"], "inv_scale": 1.0}
        place("out_f32", 1)
    elif given == 2:
        d |= {
            "epilogue": 3,
            "m": np.full(outputs, 99_999, np.int32),
            "b": np.zeros(outputs, np.int64),
            "shift": 24,
        }
        d |= {"pre": 0, "post": 1}
        place("out_i8", 2)
    else:
        d |= {"epilogue": 2, "t": np.zeros(outputs, np.int32)}
        place("out_bits", 3)
    for name in more:
        if name in ACTIVATIONS:
            d |= {
                "post": ACTIVATIONS[name],
                "post_slope": ones,
                "post_shift_in": ones,
                "post_shift_out": ones,
            }
        elif name == "residual":
            place("residual", 2 if given == 2 else 1)
            d["residual_m"] = 1 << 20
        elif name in ("bits", "i8"):
            place(f"out_{name}", 3 if name == "bits" else 2)
    return d, arena


def _elementwise(side: int, channels: int) -> tuple[dict[str, Any], int]:
    bytes_ = _bytes(1, side, channels)
    shape = (1, side, side, channels, 0)
    return {"kind": 2, "epilogue": 1, "in": (*shape, 0), "out_f32": (*shape, bytes_)}, 2 * bytes_


def _time(described: tuple[dict[str, Any], int], isa: str) -> tuple[float, str]:
    """Return the least microseconds of a dozen runs, which is what one takes undisturbed, and the kernel.

    As in a network, its weights were in none of the core's own caches before, and int8 inputs are as behind
    a ReLU: kernels that look sums up are slower where activations are larger.
    """
    from bitskip import _native
    from bitskip.backends.native import isa_number

    description, arena = described
    engine = _native.Engine([description], arena, isa_number(isa), 1)
    dtype, side, _, channels, *_ = description["in"]
    if dtype == 2:
        engine.write(0, np.random.default_rng(0).integers(128, 192, _bytes(2, side, channels), np.uint8))
    least = math.inf
    for _ in range(13):
        _OTHER_DATA.fill(0)
        start = time.perf_counter()
        engine.run_op(0)
        least = min(least, time.perf_counter() - start)
    return least * 1e6, str(engine.kernels[0])
