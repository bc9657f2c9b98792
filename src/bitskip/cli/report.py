"""`bitskip report`: the tables, figures and page of a study, drawn again from its results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("report")(report)


def report(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS.json", help="A study's results file.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the report.  [default: the results file's]", show_default=False),
    ] = None,
) -> None:
    """Write tables.md, the figures and report.html from a results file, and print the tables.

    Nothing is trained and torch is not needed; the same file gives the same report.

    Examples:

    - `bitskip report runs/quick/results.json`
    - `bitskip report results.json --out report`
    """
    from bitskip.report import print_tables, write_report
    from bitskip.study.results import Results

    loaded = Results.load(results)
    page = write_report(loaded, Path(results).parent if out is None else Path(out))
    print_tables(loaded)
    typer.echo(f"report: {page}")
