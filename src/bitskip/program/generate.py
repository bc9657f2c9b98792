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
    SHAPES,
    WEIGHT_DTYPES,
    WIDE,
    Form,
)

__all__ = ["HEADER_FILE", "docs_tables", "header", "with_tables"]

ROOT = Path(__file__).parents[3]
HEADER_FILE = ROOT / "native" / "include" / "bitskip_ops.h"
DOCS_FILE = ROOT / "docs" / "program.md"
_PLACES = ("ops", "activations", "record")  # <!-- NAME --> ... <!-- end --> in docs/program.md
_RESIDUAL = {"none": 0, "may": 1, "must": 2}


def header() -> str:
    """Return the content of native/include/bitskip_ops.h."""
    lines = [
        "/* Made by `python -m bitskip.program.generate` from src/bitskip/program/schema.py; do not edit. */",
        "#ifndef BITSKIP_OPS_H",
        "#define BITSKIP_OPS_H",
        "",
        *_enum("bsk_dtype", "BSK_", {**DTYPES, "no_dtype": -1}),
        *_enum("bsk_act_kind", "BSK_ACT_", {kind: row[0] for kind, row in ACTIVATIONS.items()}),
        *_enum("bsk_epi_kind", "BSK_EPI_", {kind or "none": row.code for kind, row in EPILOGUES.items()}),
        *_enum("bsk_file_op", "BSK_FILE_", {kind: row.code for kind, row in OPS.items()}),
        *_enum("bsk_shape_rule", "BSK_SHAPE_", {name: code for name, (code, _) in SHAPES.items()}),
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
        " * scale, has a window, may be in place, may count padding) */",
        "#define BSK_ROWS(X) \\",
        *_rows(
            (
                row.code,
                SHAPES[row.shape][0],
                *row.inputs,
                _RESIDUAL[row.residual],
                row.keeps_scale,
                "stride" in row.attributes,
                "in_place" in row.attributes,
                "count_padding" in row.attributes,
            )
            for row in OPS.values()
        ),
        "",
        "/* Forms: X(op, dtype read, weights, epilogue, dtypes written, constants needed, constants taken,",
        " * may have groups); dtypes written and constants are masks of 1 << code. */",
        "#define BSK_FORMS(X) \\",
        *_rows(_form(row.code, form) for row in OPS.values() for form in row.forms),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


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
    """Return the tables of docs/program.md by the name of their place."""
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
    activations = ["| activation | code | computes |", "|---|--:|---|"]
    activations += [f"| `{kind}` | {code} | {formula} |" for kind, (code, _, formula) in ACTIVATIONS.items()]
    record = ["| byte | column | type |", "|--:|---|---|"]
    at = 0
    types = {"B": "uint8", "b": "int8", "H": "uint16", "I": "uint32", "i": "int32"}
    for column in COLUMNS:
        count = "" if column.count == 1 else f" x {column.count}"
        record.append(f"| {at} | `{column.name}` | {types[column.type]}{count} |")
        at += column.bytes
    return {"ops": "\n".join(ops), "activations": "\n".join(activations), "record": "\n".join(record)}


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
