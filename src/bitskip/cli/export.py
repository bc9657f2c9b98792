"""`bitskip export`: a packed model in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export)


def export(
    file: Annotated[str, typer.Argument(metavar="M.bitskip", help="A packed model.")],
    to: Annotated[str, typer.Option("--to", help="The form to write it in.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")],
    as_json: JsonOption = False,
) -> None:
    """Write a packed model in another form, for microcontrollers or for other engines.

    Examples:

    - `bitskip export hybrid.bitskip --to c99 -o hybrid_c`
    """
    from bitskip.backends import export_target
    from bitskip.errors import LoweringError, RunError
    from bitskip.program import Program

    target = export_target(to)
    options: dict[str, Any] = {}  # one entry an option that was given
    strange = sorted(set(options) - target.options)
    if strange:
        known = ", ".join(sorted(target.options))
        raise RunError(f"--to {to} does not take --{strange[0]}; it takes {known}")
    program = Program.load(file)
    reasons = target.supports(program)
    if reasons:
        raise LoweringError(f"{file} cannot be exported to {to}: {'; '.join(reasons)}")
    written = target.export(program, out, options)
    if as_json:
        facts = {**written.facts, "files": [str(path) for path in written.files]}
        typer.echo(json.dumps(facts, indent=2))
        return
    for line in (f"wrote {written.files[0]}", *written.lines):
        typer.echo(line)
