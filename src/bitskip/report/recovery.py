"""The page and the plot of a recovery experiment (`bitskip.study.recovery`), from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.errors import FileFormatError
from bitskip.files import write_text
from bitskip.report.style import COLOURS, INK, MUTED, SURFACE, figure_style, new_figure, svg_text
from bitskip.runtime.accuracy import wilson_interval
from bitskip.study.results import RECOVERY_FORMAT_VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BARS", "draw_recovery", "recovery_markdown", "write_recovery"]

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
        axes.set_xlabel("points of test accuracy, less the teacher's; line: 95% interval of the accuracy")
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
    lines = [
        f"# Taking the shortcuts from {values['teacher']}",
        "",
        f"Generated from `results.json`: {values['data']}, {values['train_images']:,} training pictures, "
        f"{values['test_images']:,} test pictures, seed {settings['seed']}, "
        f"Adam at {settings['learning_rate']:g}, {settings['precision']}, "
        f"{values['machine'].get('cpu', 'unknown processor')}, torch {values['versions']['torch']}.",
        "",
        f"The teacher, with all shortcuts, has {teacher:.2%} on the test set. The bar is "
        + " and ".join(f"{bar:g} points below it for `{target}`" for target, bar in BARS.items())
        + ".",
        "",
        f"![Test accuracy of each arm against the teacher's]({picture})",
        "",
        "| shortcuts | how | epochs | test accuracy | to the teacher | to it trained on | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    control = next((row["test_accuracy"] for row in values["rows"] if row["arm"] == "continued"), None)
    for row in values["rows"]:
        points = 100 * (row["test_accuracy"] - teacher)
        bar = BARS.get(row["target"])
        met = "" if bar is None else "met" if round(points, 6) >= -bar else "missed"
        lines.append(
            f"| {row['target']} | {row['arm']} | {row['epochs']} | {row['test_accuracy']:.2%} | "
            f"{points:+.2f} | {_points(row['test_accuracy'], control)} | {met} |"
        )
    for target in BARS:
        gains: list[dict[str, Any]] = values["gains"].get(target, [])
        if not gains:
            continue
        lines += [
            "",
            f"What `{target}` buys:",
            "",
            "| | before | after | change | |",
            "|---|---|---|---|---|",
        ]
        lines += [_gain_line(gain) for gain in gains]
    return "\n".join(lines) + "\n"


def _points(accuracy: float, reference: float | None) -> str:
    return "" if reference is None else f"{100 * (accuracy - reference):+.2f}"


def _gain_line(gain: Mapping[str, Any]) -> str:
    def show(value: float | None) -> str:
        if value is None:
            return "?"
        return f"{value * 1000:.2f} ms" if gain["unit"] == "seconds" else f"{value:,.0f}"

    change = "" if gain["change"] is None else f"{gain['change']:+.1%}"
    unit = ", bytes" if gain["unit"] == "bytes" else ""
    before, after = show(gain["before"]), show(gain["after"])
    return f"| {gain['name']}{unit} | {before} | {after} | {change} | {gain['remark']} |"
