"""What the commands print: what was gained, and how far they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bitskip.cli.options import interactive, say

if TYPE_CHECKING:
    from bitskip.pruning import Gain


def print_gains(title: str, gains: list[Gain]) -> None:
    """Print what a network costs before and after."""
    from bitskip.terminal import byte_size, number, print_table

    def cell(value: float | None, unit: str) -> str:
        if unit == "bytes":
            return byte_size(None if value is None else int(value))
        if unit == "seconds":
            return "?" if value is None else f"{value * 1000:.2f} ms"
        return number(None if value is None else int(value))

    rows = []
    for gain in gains:
        change = "" if gain.change is None else "=" if gain.change == 0 else f"{gain.change:+.1%}"
        rows.append(
            [gain.name, cell(gain.before, gain.unit), cell(gain.after, gain.unit), change, gain.remark]
        )
    print_table(title, ["", "before", "after", "change", ""], rows, left_columns=(0, 4), prose=(4,))


@contextmanager
def progress_bar(label: str) -> Iterator[Any]:
    """Yield a function (done, total, name) that shows a bar where somebody watches, else lines."""
    if not interactive():
        yield lambda done, total, name: say(f"{label} {done + 1}/{total}: {name}") if name else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=f"{label} {name}"
        )
