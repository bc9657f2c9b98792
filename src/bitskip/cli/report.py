"""`bitskip report`: the page of a study or an ablation, drawn again from its results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def report(
    results: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS",
            help="A results file of `study` or `ablate`, or the folder that it lies in.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the report.  [default: the results file's]", show_default=False),
    ] = None,
) -> None:
    """Write the page, tables and figures of a results file, and print its tables.

    It may be a study's results.json (report.html, tables.md, figures), or an ablation's or a recovery
    experiment's (page.md and a plot). Nothing is trained and torch is not needed; the same file gives the
    same report.

    Examples:

    - `bitskip report runs/quick`
    - `bitskip report results.json --out report`
    - `bitskip report results/ablation/full/results.json --out ablation`
    """
    from bitskip.errors import FileFormatError
    from bitskip.files import read_json

    if Path(results).is_dir():  # of the command that wrote them
        inside = Path(results) / "results.json"
        if not inside.is_file():
            raise FileFormatError(
                f"'{results}' is a folder without results.json; expected what `study` wrote"
            )
        results = str(inside)
    values = read_json(Path(results))
    folder = Path(results).parent if out is None else Path(out)
    if not isinstance(values, dict):
        raise FileFormatError(f"{results} does not hold results; expected those of a study or an ablation")
    if "bitskip_shortcut_recovery" in values:
        from bitskip.report.recovery import write_recovery
        from bitskip.results.recovery import check_recovery

        check_recovery(values, results)
        page = write_recovery(values, folder)
    elif "bitskip_ablation" in values:
        from bitskip.report.ablation import write_ablation
        from bitskip.results.ablation import check_ablation

        check_ablation(values, results)
        page = write_ablation(values, folder)
        print_ablation(values)
    else:
        from bitskip.report import print_tables, write_report
        from bitskip.results.study import Results

        loaded = Results.from_dict(values, results)
        page = write_report(loaded, folder)
        print_tables(loaded)
    typer.echo(f"report: {page}")


def print_ablation(values: dict[str, Any]) -> None:
    """Print the tables of an ablation's results."""
    from bitskip.report.ablation import ablation_tables
    from bitskip.terminal import print_table

    for table in ablation_tables(values):
        headings = [column.heading for column in table.columns]
        print_table(table.title, headings, table.rows, left_columns=(0, 1), notes=table.notes, continued=True)
