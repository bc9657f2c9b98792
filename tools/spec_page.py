"""Writes the table of docs/spec.md from NetworkSpec's fields and the comment beside each.

Run it after a change of them: `python tools/spec_page.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from bitskip import network_spec
from bitskip.network_spec import PRECISIONS, NetworkSpec, choices

PAGE = Path(__file__).resolve().parent.parent / "docs" / "spec.md"
BEGIN, END = "<!-- fields: written by tools/spec_page.py -->", "<!-- end of fields -->"


def comments() -> dict[str, str]:
    """Return what the source says beside each field of NetworkSpec."""
    source = inspect.getsource(network_spec)
    lines = source.splitlines()
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "NetworkSpec"
    )
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            line = lines[node.lineno - 1]
            found[node.target.id] = line[node.end_col_offset :].partition("#")[2].strip()
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{json.dumps(field.default)}`"
    return "`{}`" if field.default_factory is not dataclasses.MISSING else "required"


def _kind(field: dataclasses.Field[Any]) -> str:
    if allowed := choices().get(field.name):
        return ", ".join(f"`{json.dumps(value)}`" for value in allowed)
    kinds = {
        "str": "text",
        "int": "whole number, at least 1",
        "tuple[int, ...]": "list of whole numbers, one a stage",
        "tuple[str, ...]": "list, one a stage: " + ", ".join(f'`"{name}"`' for name in PRECISIONS),
        "tuple[bool, ...]": "list of `true` and `false`, one a stage",
        "Mapping[str, str]": "object: layer name to precision",
        "Mapping[str, bool]": "object: block name to `true` or `false`",
    }
    return kinds[str(field.type)]


def table() -> str:
    """Return the table of all fields in Markdown."""
    said = comments()
    rows = ["| field | what it is | value | default |", "|---|---|---|---|"]
    for field in dataclasses.fields(NetworkSpec):
        rows.append(f"| `{field.name}` | {said[field.name]} | {_kind(field)} | {_default(field)} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """Return `text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
