"""`python -m bitskip.program.generate`: what else is made from the table of ops.

Writes native/include/bitskip_ops.h (codes, limits, the record's layout, the forms) and the tables of
docs/program.md, in the repository that the package is installed from.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bitskip.files import write_text
from bitskip.program.file import HEADER, TENSOR
from bitskip.program.schema import (
    ACTIVATIONS,
    COLUMNS,
    CONSTANTS,
    DTYPES,
    EPILOGUES,
    LIMITS,
    NONE,
    OPS,
    RECORD,
    WEIGHT_DTYPES,
    WIDE,
    Form,
)
from bitskip.program.shapes import SHAPES, Shape, c_function

ROOT = Path(__file__).parents[3]
HEADER_FILE = ROOT / "native" / "include" / "bitskip_ops.h"
DOCS_FILE = ROOT / "docs" / "program.md"
_PIXELS = LIMITS["MAX_SIDE"] ** 2
_RESIDUAL = {"none": 0, "may": 1, "must": 2}


def header() -> str:
    """Return the content of native/include/bitskip_ops.h."""
    lines = [
        "/* Made by `python -m bitskip.program.generate` from src/bitskip/program/schema.py; do not edit. */",
        "#ifndef BITSKIP_OPS_H",
        "#define BITSKIP_OPS_H",
        "",
        "#include <stdint.h>",
        "",
        *_enum("bsk_dtype", "BSK_", {**DTYPES, "no_dtype": -1}),
        *_enum("bsk_act_kind", "BSK_ACT_", {kind: row[0] for kind, row in ACTIVATIONS.items()}),
        *_enum("bsk_epi_kind", "BSK_EPI_", {kind or "none": row.code for kind, row in EPILOGUES.items()}),
        *_enum("bsk_file_op", "BSK_FILE_", {kind: row.code for kind, row in OPS.items()}),
        *_enum("bsk_constant", "BSK_CONST_", {name: at for at, name in enumerate((*CONSTANTS, "count"))}),
        "/* Limits */",
        *(f"#define BSK_{name} {value}" for name, value in LIMITS.items()),
        "",
        "/* The file: bytes of its header and of a record, and where the columns of an op's record lie. */",
        f"#define BSK_HEADER_BYTES {HEADER.size}",
        f"#define BSK_TENSOR_BYTES {TENSOR.size}",
        f"#define BSK_RECORD_BYTES {RECORD.size}",
        f"#define BSK_NO_TENSOR {NONE}",
        f"#define BSK_WIDE_BIAS {WIDE}",
    ]
    at = 0
    for column in COLUMNS:
        if column.name == CONSTANTS[0]:
            lines.append(f"#define BSK_COL_CONSTANTS {at} /* offsets, in the order of bsk_constant */")
        if column.name not in CONSTANTS:
            lines.append(f"#define BSK_COL_{column.name.upper()} {at}")
        at += column.bytes
    lines += [
        "",
        "/* Activations: X(code, has slope, has shift_in and shift_out) */",
        "#define BSK_ACTIVATIONS(X) \\",
        *_rows((row[0], "slope" in row[1], "shift_in" in row[1]) for row in ACTIVATIONS.values()),
        "",
        "/* Ops: X(code, shape rule, fewest inputs, most inputs, residual (0 none, 1 may, 2 must), keeps the",
        " * scale, has a window, is a pool, may be in place, may count padding, has a table a channel) */",
        "#define BSK_ROWS(X) \\",
        *_rows(
            (
                row.code,
                list(SHAPES).index(row.shape),
                *row.inputs,
                _RESIDUAL[row.residual],
                row.keeps_scale,
                row.has_window,
                row.is_pool,
                "in_place" in row.attributes,
                "count_padding" in row.attributes,
                row.channel_tables,
            )
            for row in OPS.values()
        ),
        "",
        "/* Forms: X(op, dtype read, weights, epilogue, dtypes written, constants needed, constants taken,",
        " * may have groups); dtypes written and constants are masks of 1 << code. */",
        "#define BSK_FORMS(X) \\",
        *_rows(_form(row.code, form) for row in OPS.values() for form in row.forms),
        "",
        *shape_functions(SHAPES.values()),
        "/* What |acc| of i8 inputs cannot exceed; `pixels` are the first input's. Not of convolutions. */",
        *c_function("bsk_largest_acc", [(op.code, op.largest) for op in OPS.values()], {"pixels": _PIXELS}),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def shape_functions(shapes: Iterable[Shape]) -> list[str]:
    """Return the lines of four C functions, one for each kind of condition that a shape rule has."""
    side, channels = LIMITS["MAX_SIDE"], LIMITS["MAX_CHANNELS"]
    window = {"reach": side, "stride": LIMITS["MAX_STRIDE"], "padding": LIMITS["MAX_KERNEL"]}
    everything = {
        "channels": channels,
        "total": channels * LIMITS["MAX_INPUTS"],
        "result": channels,
        "pixels": _PIXELS,
        "taps": LIMITS["MAX_POOL_TAPS"],
    }
    rules = list(enumerate(shapes))
    return [
        "/* Shape rules: does the output's height or width follow, its channels; do further inputs fit? */",
        *c_function(
            "bsk_side_follows", [(n, r.side) for n, r in rules], {"size": side, "result": side, **window}
        ),
        *c_function("bsk_channels_follow", [(n, r.channels) for n, r in rules], everything),
        *c_function(
            "bsk_other_side_fits", [(n, r.other_side) for n, r in rules], {"other": side, "size": side}
        ),
        *c_function(
            "bsk_other_channels_fit",
            [(n, r.other_channels) for n, r in rules],
            {"other": channels, "channels": channels},
        ),
    ]


def _enum(name: str, prefix: str, codes: dict[str, int]) -> list[str]:
    values = ", ".join(f"{prefix}{key.upper()} = {code}" for key, code in codes.items())
    return [f"typedef enum {{ {values} }} {name};", ""]


def _rows(rows: Iterable[tuple[int | bool, ...]]) -> list[str]:
    made = [f"  X({', '.join(str(int(value)) for value in row)})" for row in rows]
    return [line + " \\" for line in made[:-1]] + made[-1:]


def _form(code: int, form: Form) -> tuple[int | bool, ...]:
    return (
        code,
        DTYPES[form.source],
        WEIGHT_DTYPES[form.weight],
        EPILOGUES[form.epilogue].code,
        sum(1 << DTYPES[name] for name in form.writes),
        sum(1 << CONSTANTS.index(name) for name in form.needed),
        sum(1 << CONSTANTS.index(name) for name in form.taken),
        form.groups,
    )


def docs_tables() -> dict[str, str]:
    """Return the tables of docs/program.md by their place, `<!-- name -->` to `<!-- end -->`."""
    ops = [
        "| op | code | reads | weights | epilogue | writes | shape | residual |",
        "|---|--:|---|---|---|---|---|---|",
    ]
    for kind, row in OPS.items():
        for form in row.forms:
            inputs = (
                ""
                if row.inputs == (1, 1)
                else f" x {row.inputs[0]}"
                + ("" if row.inputs[0] == row.inputs[1] else f" to {row.inputs[1]}")
            )
            ops.append(
                f"| `{kind}` | {row.code} | `{form.source}`{inputs} | {form.weight or '-'} | "
                f"{form.epilogue or '-'} | {', '.join(form.writes)} | {row.shape} | {row.residual} |"
            )
    shapes = ["| shape | the output's |", "|---|---|"]
    shapes += [f"| {name} | {rule.says} |" for name, rule in SHAPES.items()]
    activations = ["| activation | code | computes |", "|---|--:|---|"]
    activations += [f"| `{kind}` | {code} | {formula} |" for kind, (code, _, formula) in ACTIVATIONS.items()]
    record = ["| byte | column | type |", "|--:|---|---|"]
    at = 0
    types = {"B": "uint8", "b": "int8", "H": "uint16", "I": "uint32", "i": "int32"}
    for column in COLUMNS:
        count = "" if column.count == 1 else f" x {column.count}"
        record.append(f"| {at} | `{column.name}` | {types[column.type]}{count} |")
        at += column.bytes
    tables = {"ops": ops, "shapes": shapes, "activations": activations, "record": record}
    return {name: "\n".join(lines) for name, lines in tables.items()}


def with_tables(text: str) -> str:
    """Return docs/program.md with its tables as they should be."""
    for name, table in docs_tables().items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition("<!-- end -->")
        text = f"{before}<!-- {name} -->\n{table}\n{mark}{after}"
    return text


def main() -> None:
    """Write both files."""
    write_text(HEADER_FILE, header())
    write_text(DOCS_FILE, with_tables(DOCS_FILE.read_text()))


if __name__ == "__main__":
    main()
