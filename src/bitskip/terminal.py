"""How numbers and tables look on the terminal: one look everywhere, whole numbers, no broken names."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence

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


def shape_text(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> str:
    """Return the shape of an input as text, e.g. 3x32x32; of several inputs each one's behind its name."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {shape_text(own)}" for name, own in shape.items())
    return "x".join(str(size) for size in shape)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left_columns: Sequence[int] = (0,),
    prose: Sequence[int] = (),
    footer: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    continued: bool = False,
    wide: bool = False,
) -> None:
    """Print a table to stdout; names are never broken.

    Where a terminal is too narrow, headings and prose wrap at spaces, then the last columns are left out and
    a line says so (or, if `continued`, they follow below). Where stdout is not a terminal, a table is as wide
    as it needs.

    Args:
        title: line above the table.
        columns: headings, the columns that matter most first.
        rows: cells, as text.
        left_columns: which columns are text (the others are numbers and flush right).
        prose: which columns hold sentences, that may wrap.
        footer: last row, set off by a line.
        notes: lines below the table.
        continued: put columns that do not fit below, with the first column again, not leave them out.
        wide: print all columns side by side, whatever the terminal's width.
    """
    width = terminal_width()
    lines = table_lines(
        title,
        columns,
        rows,
        left_columns=left_columns,
        prose=prose,
        footer=footer,
        continued=continued,
        width=None if wide else width,
    )
    for note in notes:
        lines += wrapped(note, width)
    sys.stdout.write("\n".join(lines) + "\n")


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None if it is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, width: int | None) -> list[str]:
    """Break a text at its spaces into lines of at most `width`, never within a word."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False, subsequent_indent="  ")


def table_lines(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left_columns: Sequence[int] = (0,),
    prose: Sequence[int] = (),
    footer: Sequence[str] | None = None,
    continued: bool = False,
    width: int | None = None,
) -> list[str]:
    """Return the lines of `print_table`: at most `width` characters, unless two columns take more."""
    cells = [*rows, *([] if footer is None else [footer])]
    longest = [max([_longest(row[at]) for row in cells], default=0) for at in range(len(columns))]
    natural = [max(_longest(heading), size) for heading, size in zip(columns, longest, strict=True)]
    # The narrowest a column can be: names whole, headings and prose broken at their spaces.
    narrow = [
        max(max(map(len, columns[at].split()), default=0), min(size, _PROSE) if at in prose else size)
        for at, size in enumerate(longest)
    ]
    lines = wrapped(title, width)
    shown = list(range(len(columns)))
    first = True
    while shown:
        fitting = shown if width is None else _fitting(shown, narrow, width)
        sizes = _sizes(fitting, narrow, natural, width)
        if not first:
            lines.append("")
        lines += _block(columns, rows, footer, fitting, sizes, left_columns)
        left_out = [at for at in shown if at not in fitting]
        if not continued or not left_out:
            break
        shown, first = [0, *left_out], False
    if left_out and not continued:
        names = ", ".join(" ".join(columns[at].split()) for at in left_out)
        lines += wrapped(f"with --wide: {names}", width)
    return lines


_GAP = 2  # spaces between columns; one before the first
_PROSE = 24  # a column of sentences is not narrower


def shown_width(text: str) -> int:
    """Return how many columns of a terminal a line takes: two a Chinese letter, none a combining accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _padded(text: str, size: int, left: bool) -> str:
    spaces = " " * (size - shown_width(text))
    return text + spaces if left else spaces + text


def _longest(text: str) -> int:
    return max(map(shown_width, text.split("\n")))


def _fitting(shown: list[int], narrow: list[int], width: int) -> list[int]:
    """Return the first of the columns `shown` that fit; at least two."""
    count = len(shown)
    while count > 2 and 1 + sum(narrow[at] + _GAP for at in shown[:count]) - _GAP > width:
        count -= 1
    return shown[:count]


def _sizes(shown: list[int], narrow: list[int], natural: list[int], width: int | None) -> list[int]:
    """Return the widths of columns: as they need, the first ones first, within `width`."""
    if width is None:
        return [natural[at] for at in shown]
    room = width - 1 + _GAP - sum(narrow[at] + _GAP for at in shown)
    sizes = []
    for at in shown:
        more = min(natural[at] - narrow[at], max(room, 0))
        sizes.append(narrow[at] + more)
        room -= more
    return sizes


def _block(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    footer: Sequence[str] | None,
    shown: list[int],
    sizes: list[int],
    left_columns: Sequence[int],
) -> list[str]:
    rule = " " + "-" * (sum(sizes) + _GAP * (len(sizes) - 1))

    def lines_of(row: Sequence[str], bottom: bool = False) -> list[str]:
        parts = [_cell(row[at], size) for at, size in zip(shown, sizes, strict=True)]
        height = max(map(len, parts))
        parts = [([""] * (height - len(p)) + p) if bottom else (p + [""] * (height - len(p))) for p in parts]
        return [
            " "
            + (" " * _GAP)
            .join(
                _padded(text, size, at in left_columns)
                for at, size, text in zip(shown, sizes, texts, strict=True)
            )
            .rstrip()
            for texts in zip(*parts, strict=True)
        ]

    lines = [*lines_of(columns, bottom=True), rule] if any(columns[at] for at in shown) else [rule]
    for row in rows:
        lines += lines_of(row)
    return lines if footer is None else [*lines, rule, *lines_of(footer)]


def _cell(text: str, size: int) -> list[str]:
    parts = []
    for line in text.split("\n"):
        parts += (
            [line]
            if shown_width(line) <= size
            else textwrap.wrap(line, size, break_long_words=False, break_on_hyphens=False)
        )
    return parts
