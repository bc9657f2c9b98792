"""How numbers and tables look on the terminal: one look everywhere, whole numbers, no cut cells."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

__all__ = ["byte_size", "number", "print_table"]

UNKNOWN = "?"


def number(value: int | float | None) -> str:
    """Return `1,234,567` for a count, one decimal if it is no whole number, `?` for an unknown."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def byte_size(value: int | None) -> str:
    """Return a size as bytes, KiB (1024 bytes) or MiB, `?` for an unknown."""
    if value is None:
        return UNKNOWN
    if value < 1024:
        return f"{value} B"
    return f"{value / 1024:,.1f} KiB" if value < 1024**2 else f"{value / 1024**2:,.2f} MiB"


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left_columns: Sequence[int] = (0,),
    footer: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table to stdout, never cutting a cell: where stdout is no terminal it is as wide as it needs.

    Args:
        title: line above the table.
        columns: headings.
        rows: cells, as text.
        left_columns: which columns are text (the others are numbers and flush right).
        footer: last row, set off by a line.
        notes: lines below the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_footer=footer is not None)
    for at, heading in enumerate(columns):
        table.add_column(
            heading,
            footer=footer[at] if footer else "",
            justify="left" if at in left_columns else "right",
            overflow="fold",
            no_wrap=False,
        )
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    console = Console(width=None if sys.stdout.isatty() else max(200, shutil.get_terminal_size().columns))
    console.print(table)
    for line in notes:
        console.print(Text(line), soft_wrap=True)
