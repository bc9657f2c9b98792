"""Writes a report into a folder, prints its tables, and draws the diagram of any spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitskip.errors import RunError
from bitskip.files import require_writable, write_bytes, write_text
from bitskip.report.charts import draw_accuracy, draw_losses, draw_puzzle, has_loss_curves, loss_rows_missing
from bitskip.report.diagram import draw_architecture
from bitskip.report.markdown import has_grid, tables_markdown
from bitskip.report.page import report_html
from bitskip.report.puzzle import puzzle_text
from bitskip.report.runs import other_models, treatments
from bitskip.report.scale import caveats
from bitskip.report.style import png_bytes, svg_text
from bitskip.report.tables import TextTable, other_models_table, paper_tables, treatments_table
from bitskip.results.study import Results
from bitskip.spec import NetworkSpec, named_spec
from bitskip.study.paper import FIGURES, TABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURE_KINDS = (".svg", ".png")


def write_report(results: Results, folder: str | Path) -> Path:
    """Write tables, figures and the page into `folder` and return the path of `report.html`.

    Files: `tables.md`, `report.html`, and as SVG and PNG `figure2` to `figure7` (the paper's numbers;
    losses, 5 to 7, only of two epochs and more), `accuracy_vs_effective_parameters` and, where treatments
    were run, `puzzle` with its `puzzle.txt`. Each file is replaced whole; the same results give the same
    files.

    Raises:
        RunError: if the folder cannot be written, or matplotlib is missing.
    """
    folder = Path(folder)
    require_writable(folder)
    svgs = {}
    for name, figure in _figures(results).items():
        svgs[name] = svg_text(figure)
        write_text(folder / f"{name}.svg", svgs[name])
        write_bytes(folder / f"{name}.png", png_bytes(figure))
    if treatments(results):
        write_text(folder / "puzzle.txt", "\n\n".join(puzzle_text(results)) + "\n")
    write_text(folder / "tables.md", tables_markdown(results))
    missing = [f"figure{table.loss_figure}" for table in TABLES if loss_rows_missing(results, table)]
    write_text(folder / "report.html", report_html(results, svgs, missing))
    return folder / "report.html"


def _figures(results: Results) -> dict[str, Figure]:
    figures = {f"figure{number}": draw_architecture(named_spec(model)) for number, model, _ in FIGURES}
    if has_grid(results) and has_loss_curves(results):
        figures |= {f"figure{table.loss_figure}": draw_losses(results, table) for table in TABLES}
    if has_grid(results):
        figures["accuracy_vs_effective_parameters"] = draw_accuracy(results)
    if treatments(results):
        figures["puzzle"] = draw_puzzle(results)
    return figures


def draw_spec(spec: NetworkSpec, path: str | Path) -> Path:
    """Draw the architecture of `spec` into an SVG or PNG file, by the path's ending, and return the path.

    Raises:
        RunError: for another ending, an unwritable path, or without matplotlib.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _PICTURE_KINDS:
        raise RunError(f"cannot draw into '{path}': expected a file name that ends in .svg or .png")
    figure = draw_architecture(spec)
    if kind == ".svg":
        write_text(path, svg_text(figure))
    else:
        write_bytes(path, png_bytes(figure))
    return path


def print_tables(results: Results) -> None:
    """Print the paper's tables 1 to 3 with ours beside them (and the puzzle's treatments) to stdout."""
    tables: list[TextTable] = [treatments_table(results)] if treatments(results) else []
    if has_grid(results):
        tables += paper_tables(results, printed_names=False)
    if other_models(results):
        tables.append(other_models_table(results))
    from bitskip.terminal import print_table

    for at, table in enumerate(tables):
        print_table(
            table.title,
            [f"{column.group}\n{column.heading}".strip() for column in table.columns],
            table.rows,
            left_columns=[number for number, column in enumerate(table.columns) if column.text],
            continued=True,
            notes=[*table.notes, *(caveats(results) if at == len(tables) - 1 else [])],
        )
