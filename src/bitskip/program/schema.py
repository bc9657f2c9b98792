"""The table of ops, a row an op: the file's codec, the check, the C header and the docs are made from it.

A row says in which **forms** an op exists (types of what it reads and writes, constants that it needs or
takes), how the output's shape follows from the input's, and where each of its fields lies in the file's
record. `python -m bitskip.program.generate` writes native/include/bitskip_ops.h and the tables of
docs/program.md from it; a test compares them.

What an op computes is said in docs/program.md and, as numpy, in `bitskip.backends.reference`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from bitskip.program import ops
from bitskip.program.shapes import SHAPES

__all__ = [
    "ACTIVATIONS",
    "COLUMNS",
    "CONSTANTS",
    "DTYPES",
    "EPILOGUES",
    "LIMITS",
    "OPS",
    "RECORD",
    "SHAPES",
    "Column",
    "Form",
    "Row",
    "row_of",
]

# -- codes and limits -----------------------------------------------------------------------------------

DTYPES = {"u8": 0, "f32": 1, "i8": 2, "bits": 3, "i32": 4}
WEIGHT_DTYPES = {"": 0, "f32": 1, "i8": 2, "w1": 3}

# kind -> (code, vectors that it has, formula; every operation is one rounded float32 operation)
ACTIVATIONS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "none": (0, (), "y"),
    "relu": (1, (), "y > 0 ? y : 0"),
    "prelu": (2, ("slope",), "y >= 0 ? y : y * slope[c]"),
    "rprelu": (
        3,
        ("shift_in", "slope", "shift_out"),
        "z = y - shift_in[c]; (z >= 0 ? z : z * slope[c]) + shift_out[c]",
    ),
    "relu6": (4, (), "z = y > 0 ? y : 0; z < 6 ? z : 6"),
    "sigmoid": (5, (), "1 / (1 + exp(-y)), exp as below"),
    "hard_sigmoid": (6, (), "relu6(y + 3) * float32(1 / 6)"),
    "hard_swish": (7, (), "y * relu6(y + 3) * float32(1 / 6), from the left"),
    "silu": (8, (), "y * sigmoid(y)"),
}

LIMITS = {
    "MAX_OPS": 4096,
    "MAX_TENSORS": 8192,
    "MAX_OUTPUTS": 16,
    "MAX_PICTURES": 16,  # inputs of a program
    "MAX_INPUTS": 4,  # that one op reads
    "MAX_SIDE": 1 << 16,  # height, width, and what a window reaches over
    "MAX_STRIDE": (1 << 16) - 1,
    "MAX_DILATION": 1 << 15,
    "MAX_CHANNELS": 1 << 20,
    "MAX_KERNEL": 255,  # of a convolution; padding stays below, of pools too
    "MAX_POOL_TAPS": 1 << 24,  # pixels under a pool's kernel
    "MAX_SHIFT": 40,  # of an integer epilogue
    "MAX_BIAS_SHIFT": 31,  # 32 bits shifted by it stay within 2^62
    "MAX_NAME": 1000,  # bytes of UTF-8
    "MAX_BYTES": (1 << 31) - 1,  # of a file, an arena, a picture
}
ACCUMULATOR_LIMIT = 1 << 31  # |acc| of a convolution or a sum stays below
INTEGER_LIMIT = 1 << 62  # |t| of an integer epilogue stays below

# -- the record of an op in the file ----------------------------------------------------------------------

NONE = 0xFFFF  # no tensor
WIDE = 0xFF  # in bias_shift: the bias is int64


@dataclass(frozen=True)
class Column:
    """One column of the record: `count` values of struct's `type`, each `unused` where it has none."""

    name: str
    type: str
    count: int = 1
    unused: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that it takes."""
        return struct.calcsize("<" + self.type) * self.count


# Constants: where they lie, bytes from the file's start; 0 where an op has none. In this order in the file.
CONSTANTS = (
    "weight",
    "table",
    "scale",
    "bias",
    "multiplier",
    "threshold",
    "flip",
    "pre_slope",
    "pre_shift_in",
    "pre_shift_out",
    "post_slope",
    "post_shift_in",
    "post_shift_out",
)
COLUMNS = (
    Column("kind", "B"),
    Column("epilogue", "B"),
    Column("weight_dtype", "B"),
    Column("in_place", "B"),
    Column("count_padding", "B"),
    Column("pre", "B"),
    Column("post", "B"),
    Column("pad_value", "b"),
    Column("shift", "B"),
    Column("bias_shift", "B"),
    Column("padding", "B", 2),
    Column("inputs", "H", 4, NONE),
    Column("outputs", "H", 2, NONE),
    Column("kernel", "I", 2),
    Column("steps", "H", 4),  # stride and dilation - 1, of the height and then of the width
    Column("groups", "I"),
    Column("residual_multiplier", "i"),
    *(Column(name, "I") for name in CONSTANTS),
)
RECORD = struct.Struct("<" + "".join(f"{column.count}{column.type}" for column in COLUMNS))

# -- epilogues and forms ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpilogueRow:
    """An epilogue: its code, class, the constants that it must have or may have, and what it writes."""

    code: int
    cls: type[Any] | None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    residual: str = ""  # dtype of what it can add


_VECTORS = tuple(name for name in CONSTANTS if name.startswith(("pre_", "post_")))
EPILOGUES: dict[str, EpilogueRow] = {
    "": EpilogueRow(0, None),
    "float": EpilogueRow(
        1,
        ops.FloatEpilogue,
        takes=("scale", "bias", "threshold", *_VECTORS),
        writes=("f32", "bits", "i8"),
        residual="f32",
    ),
    "threshold": EpilogueRow(2, ops.ThresholdEpilogue, ("threshold", "flip"), writes=("bits",)),
    "integer": EpilogueRow(3, ops.IntegerEpilogue, ("multiplier", "bias"), writes=("i8",), residual="i8"),
}


@dataclass(frozen=True)
class Form:
    """One combination of types that an op has.

    Args:
        source: dtype of every input but an epilogue's residual.
        writes: dtypes of its outputs; two different ones are allowed where an epilogue writes them.
        weight: dtype of the weights.
        epilogue: kind of epilogue, "" for none.
        needs: constants that it must have, besides the epilogue's.
        takes: constants that it may have; () leaves what the epilogue says.
        groups: whether a convolution may have more than one.
    """

    source: str
    writes: tuple[str, ...]
    weight: str = ""
    epilogue: str = ""
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] | None = None
    groups: bool = False

    @property
    def needed(self) -> frozenset[str]:
        """Constants that must be there."""
        return frozenset(self.needs + EPILOGUES[self.epilogue].needs)

    @property
    def taken(self) -> frozenset[str]:
        """Constants that may be there."""
        takes = EPILOGUES[self.epilogue].takes if self.takes is None else self.takes
        return self.needed | frozenset(takes)


def _epilogues(source: str, weight: str, kinds: tuple[str, ...], groups: bool = False) -> tuple[Form, ...]:
    return tuple(
        Form(source, EPILOGUES[kind].writes, weight, kind, ("weight",), groups=groups) for kind in kinds
    )


@dataclass(frozen=True)
class Row:
    """One op.

    Args:
        code: its number in the file.
        cls: its dataclass.
        forms: combinations of types.
        shape: a key of `SHAPES`.
        attributes: fields of the dataclass that columns of the same name hold.
        residual: "none", "may" or "must": whether its epilogue adds one.
        inputs: fewest and most tensors that it reads, without the residual.
        keeps_scale: an i8 output has the scale and zero point of every input.
        largest: what |acc| of i8 inputs cannot exceed; `pixels` are the first input's. Not of convolutions.
        channel_tables: its table has 256 entries a channel, not 256 in all.
    """

    code: int
    cls: type[Any]
    forms: tuple[Form, ...]
    shape: str = "same"
    attributes: tuple[str, ...] = ()
    residual: str = "none"
    inputs: tuple[int, int] = (1, 1)
    keeps_scale: bool = False
    largest: str = "255"
    channel_tables: bool = False

    @property
    def kind(self) -> str:
        """Its name."""
        return str(self.cls.kind)

    @property
    def columns(self) -> frozenset[str]:
        """The columns, constants and `epilogue` apart, that it uses."""
        return frozenset(self.attributes) & {column.name for column in COLUMNS} - set(CONSTANTS)

    @property
    def has_window(self) -> bool:
        """Whether it has a kernel, a stride and padding."""
        return "stride" in self.attributes

    @property
    def is_pool(self) -> bool:
        """Whether it has a window, but no weights."""
        return self.has_window and "weight" not in self.attributes


_ALL = ("float", "threshold", "integer")
_WINDOW = ("kernel", "stride", "padding")
_PLAIN_FLOAT = ("threshold", *(name for name in _VECTORS if name.startswith("post_")))
_ROWS = (
    Row(
        1,
        ops.QuantizeInput,
        (Form("u8", ("f32",), needs=("scale", "bias")), Form("u8", ("i8",), needs=("table",))),
        attributes=("scale", "bias", "table"),
        channel_tables=True,
    ),
    Row(
        2,
        ops.Conv2d,
        (
            *_epilogues("f32", "f32", ("float",), groups=True),
            *_epilogues("f32", "w1", ("float",)),
            *_epilogues("i8", "i8", _ALL, groups=True),
            *_epilogues("i8", "w1", _ALL),
            *_epilogues("bits", "w1", _ALL),
            *_epilogues("i32", "i8", ("float",)),
        ),
        "window",
        (*_WINDOW, "dilation", "weight_dtype", "weight", "pad_value", "in_place", "groups"),
        "may",
    ),
    Row(
        3,
        ops.Binarize,
        (
            Form("f32", ("bits",), epilogue="float", takes=("threshold",)),
            Form("i8", ("bits",), epilogue="threshold"),
        ),
    ),
    Row(
        4,
        ops.Add,
        (
            Form("f32", ("f32", "bits", "i8"), epilogue="float", takes=_PLAIN_FLOAT),
            Form("i8", ("i8",), epilogue="integer"),
        ),
        attributes=("in_place",),
        residual="must",
    ),
    Row(5, ops.Affine, (Form("f32", ("f32", "bits", "i8"), epilogue="float"),)),
    Row(6, ops.MaxPool, (Form("f32", ("f32",)), Form("i8", ("i8",))), "ceil", _WINDOW, keeps_scale=True),
    Row(7, ops.AvgPool, (Form("f32", ("f32",)),), "ceil", (*_WINDOW, "count_padding")),
    Row(
        8,
        ops.GlobalAvgPool,
        (Form("f32", ("f32",)), Form("i8", ("i32",))),
        "global",
        largest="255 * pixels",
    ),
    Row(9, ops.Quantize, (Form("f32", ("i8",)),)),
    Row(10, ops.Dequantize, (Form("i8", ("f32",)),)),
    Row(
        11,
        ops.Concat,
        (Form("f32", ("f32",)), Form("i8", ("i8",))),
        "concat",
        inputs=(2, LIMITS["MAX_INPUTS"]),
        keeps_scale=True,
    ),
    Row(12, ops.Resize, (Form("f32", ("f32",)), Form("i8", ("i8",))), "resize", keeps_scale=True),
    Row(
        13,
        ops.Mul,
        (
            Form("f32", ("f32", "bits", "i8"), epilogue="float"),
            Form("i8", ("i8",), epilogue="integer"),
        ),
        "factor",
        inputs=(2, 2),
        largest="255 * 255",
    ),
    Row(14, ops.Lookup, (Form("i8", ("i8",), needs=("table",)),), attributes=("table",)),
    Row(15, ops.Bilinear, (Form("f32", ("f32",)),), "resize"),
)
OPS: dict[str, Row] = {row.kind: row for row in _ROWS}


def row_of(op: object) -> Row | None:
    """Return the row of `op`, or None if it is not an op."""
    row = OPS.get(getattr(op, "kind", ""))
    return row if row is not None and row.cls is type(op) else None
