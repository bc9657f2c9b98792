"""The page and the plot of a recovery experiment (`bitskip.study.recovery`), from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.errors import FileFormatError
from bitskip.files import write_text
from bitskip.report.markdown import markdown_table
from bitskip.report.style import COLOURS, INK, MUTED, SURFACE, figure_style, new_figure, svg_text
from bitskip.report.tables import Column, TextTable
from bitskip.report.wording import count, listing, per_cent, points, relative
from bitskip.results.recovery import RECOVERY_FORMAT_VERSION
from bitskip.runtime.accuracy import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = {"middle": 0.5, "none": 1.0}  # points below the teacher that count as met


def write_recovery(values: Mapping[str, Any], folder: Path) -> Path:
    """Write `page.md` and `recovery.svg` into `folder`; returns the page's path.

    Raises:
        RunError: if they cannot be written, or matplotlib is missing.
    """
    write_text(folder / "recovery.svg", svg_text(draw_recovery(values)))
    write_text(folder / "page.md", recovery_markdown(values, "recovery.svg"))
    return folder / "page.md"


def draw_recovery(values: Mapping[str, Any]) -> Figure:
    """Return a row for each arm: points of test accuracy to the teacher, with the accuracy's 95% interval."""
    rows = [row for row in values["rows"] if row["arm"] != "refit"]  # far below all others; in the table
    teacher, images = values["teacher_test_accuracy"], values["test_images"]
    with figure_style():
        figure = new_figure(8.6, 1.3 + 0.34 * max(1, len(rows)))
        axes = figure.subplots()
        for place, row in enumerate(reversed(rows)):
            shown = 100 * (row["test_accuracy"] - teacher)
            low, high = wilson_interval(round(row["test_accuracy"] * images), images)
            colour = COLOURS[row["target"]][0]
            axes.plot([100 * (end - teacher) for end in (low, high)], [place, place], color=colour, zorder=2)
            if row["target"] in BARS:
                bar = -BARS[row["target"]]
                axes.plot([bar, bar], [place - 0.3, place + 0.3], ":", color=INK, linewidth=1.2, zorder=1)
            axes.plot(shown, place, "o", color=colour, markersize=6, zorder=3)
            axes.annotate(
                f"{shown:+.2f}", (shown, place), (0, 6), textcoords="offset points", ha="center",
                color=INK, fontsize=8, bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.axvline(0, color=MUTED, linewidth=1)
        names = [f"{row['target']}: {row['arm'].replace('_', ' ')}" for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.2)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(
            "points of test accuracy, less the teacher's; line: 95% interval of the accuracy; dotted: the bar"
        )
        figure.tight_layout()
    return figure


def recovery_markdown(values: Mapping[str, Any], picture: str) -> str:
    """Return the page; `picture` is the plot's file name beside it.

    Raises:
        FileFormatError: for results of another format.
    """
    if values.get("bitskip_shortcut_recovery") != RECOVERY_FORMAT_VERSION:
        raise FileFormatError(
            f"got results of format {values.get('bitskip_shortcut_recovery')}, expected recovery results of "
            f"format {RECOVERY_FORMAT_VERSION}; run the experiment again"
        )
    teacher = values["teacher_test_accuracy"]
    settings = values["settings"]
    parts = [
        f"# Taking the shortcuts from {values['teacher']}\n",
        f"Generated from `results.json`: {values['data']}, {count(values['train_images'])} training pictures "
        f"({count(values['held_out_images'])} of them held out) and {count(values['test_images'])} test "
        f"pictures, seed {settings['seed']}, "
        f"Adam at {settings['learning_rate']:g}, {settings['precision']}, "
        f"{values['machine'].get('cpu', 'unknown processor')}, torch {values['versions']['torch']}.\n",
        f"The teacher, with all shortcuts, has {per_cent(teacher)}% on the test set. The bar is "
        + listing(f"{bar:g} points below it for `{target}`" for target, bar in BARS.items())
        + ".\n",
        f"![Test accuracy of each arm against the teacher's]({picture})\n",
        markdown_table(_arms_table(values)),
    ]
    parts += [
        markdown_table(_gains_table(target, values["gains"][target]))
        for target in BARS
        if values["gains"].get(target)
    ]
    return "\n".join(parts)


def _arms_table(values: Mapping[str, Any]) -> TextTable:
    teacher = values["teacher_test_accuracy"]
    control = next((row["test_accuracy"] for row in values["rows"] if row["arm"] == "continued"), None)
    rows = []
    for row in values["rows"]:
        accuracy, bar = row["test_accuracy"], BARS.get(row["target"])
        met = round(100 * (accuracy - teacher), 6) >= -bar if bar is not None else None
        rows.append(
            (
                row["target"],
                row["arm"],
                str(row["epochs"]),
                per_cent(accuracy),
                points(accuracy - teacher),
                "" if control is None else points(accuracy - control),
                "" if met is None else "met" if met else "missed",
            )
        )
    return TextTable(
        "Accuracy",
        (
            Column("shortcuts", text=True),
            Column("how", text=True),
            Column("epochs"),
            Column("test accuracy, %"),
            Column("to the teacher, points"),
            Column("to it trained on, points"),
            Column("bar", text=True),
        ),
        tuple(rows),
        (
            "`continued` is the teacher, trained on for as long, shortcuts and all: longer training "
            "alone raises an accuracy. `scratch` was trained without the shortcuts from the start.",
        ),
    )


def _gains_table(target: str, gains: Sequence[Mapping[str, Any]]) -> TextTable:
    return TextTable(
        f"What `{target}` buys",
        (
            Column("", text=True),
            Column("before"),
            Column("after"),
            Column("change"),
            Column("remark", text=True),
        ),
        tuple(_gain_cells(gain) for gain in gains),
    )


def _gain_cells(gain: Mapping[str, Any]) -> tuple[str, ...]:
    def show(value: float | None) -> str:
        if value is None or gain["unit"] != "seconds":
            return count(None if value is None else round(value))
        return f"{value * 1000:.2f} ms"

    before, after = gain["before"], gain["after"]
    change = "" if gain["change"] is None else relative(after, before)
    unit = ", bytes" if gain["unit"] == "bytes" else ""
    return (gain["name"] + unit, show(before), show(after), change, gain["remark"])
