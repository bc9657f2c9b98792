"""The page and the plot of an ablation, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.files import write_text
from bitskip.report.markdown import markdown_table
from bitskip.report.style import COLOURS, INK, MUTED, figure_style, new_figure, svg_text
from bitskip.report.tables import Column, TextTable
from bitskip.report.wording import count, duration, per_cent, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_ablation(values: Mapping[str, Any], folder: Path) -> Path:
    """Write `page.md` and `ablation.svg` into `folder`; returns the page's path.

    Raises:
        RunError: if they cannot be written, or matplotlib is missing.
    """
    write_text(folder / "ablation.svg", svg_text(draw_ablation(values)))
    write_text(folder / "page.md", ablation_markdown(values, "ablation.svg"))
    return folder / "page.md"


def ablation_markdown(values: Mapping[str, Any], picture: str) -> str:
    """Return the page; `picture` is the plot's file name beside it."""
    machine, versions = values["machine"], values["versions"]
    changes = ", ".join(f"{key}={value}" for key, value in values["changes"].items())
    parts = [
        f"# What each part of the recipe `{values['recipe']}` buys\n",
        f"Generated from `results.json`: width {values['width']:g}, {values['epochs']} epochs, "
        f"{values['data']}, {count(values['train_images'])} training pictures "
        f"({count(values['held_out_images'])} of them held out) and {count(values['test_images'])} test "
        "pictures"
        + (f", teacher {values['teacher']}" if values["teacher"] else "")
        + (f", with {changes}" if changes else "")
        + f"; {machine.get('cpu', 'unknown processor')}, torch {versions['torch']}"
        + (f", convolutions {versions['convolutions']}" if "convolutions" in versions else "")
        + ".\n",
        "Each row switches one part of the recipe and leaves the others. Accuracies are the last epoch's on "
        "the whole test set, without test-time augmentation; means over seeds with their standard deviation. "
        "The difference to the whole recipe is taken seed by seed, with the 95% t-interval of its mean: an "
        "interval that holds 0 shows nothing either way, and with few seeds it is wide. A part may also "
        "matter only together with another, or only at another width or length.\n",
        f"![Difference of each arm to the whole recipe]({picture})\n",
    ]
    if values["runs_done"] < values["runs"]:
        parts.append(f"Not complete: {values['runs_done']} of {values['runs']} runs are done.\n")
    parts += [markdown_table(table) for table in ablation_tables(values)]
    return "\n".join(parts)


def ablation_tables(values: Mapping[str, Any]) -> list[TextTable]:
    """Return a table for each model."""
    return [_table(model, rows) for model, rows in _by_model(values).items()]


def _by_model(values: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    models: dict[str, list[Mapping[str, Any]]] = {}
    for row in values["rows"]:
        models.setdefault(row["model"], []).append(row)
    return models


def _table(model: str, rows: Sequence[Mapping[str, Any]]) -> TextTable:
    cells = []
    for row in rows:
        low_high = row["interval_95"]
        deviation = row["standard_deviation"]
        cells.append(
            (
                row["arm"],
                row["what"],
                per_cent(row["mean"]) + ("" if deviation is None else f" ± {per_cent(deviation)}"),
                str(row["n"]),
                "" if row["difference"] is None else points(row["difference"]),
                "" if low_high is None else f"{points(low_high[0])} to {points(low_high[1])}",
                duration(row["seconds"]),
            )
        )
    return TextTable(
        model,
        (
            Column("arm", text=True),
            Column("what changes", text=True),
            Column("accuracy, %"),
            Column("seeds"),
            Column("difference, points"),
            Column("95% interval"),
            Column("time a run"),
        ),
        tuple(cells),
        (),
    )


def draw_ablation(values: Mapping[str, Any]) -> Figure:
    """Return a panel for each model, with a bar for each arm's difference to the whole recipe."""
    models = {
        model: [row for row in rows if row["difference"] is not None]
        for model, rows in _by_model(values).items()
    }
    models = {model: rows for model, rows in models.items() if rows}
    with figure_style():
        most = max((len(rows) for rows in models.values()), default=1)
        figure = new_figure(8.6, max(2.2, 1.2 + 0.3 * most) * max(len(models), 1))
        panels = figure.subplots(max(len(models), 1), 1, squeeze=False)[:, 0]
        for axes, (model, rows) in zip(panels, models.items(), strict=False):
            _bars(axes, model, sorted(rows, key=lambda row: -row["difference"]))
        if not models:
            panels[0].text(0.5, 0.5, "no arm is done yet", transform=panels[0].transAxes, ha="center")
            panels[0].set_axis_off()
        figure.tight_layout(h_pad=1.6)
    return figure


def _bars(axes: Axes, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(rows):
        difference = 100 * row["difference"]
        colour = COLOURS["none" if difference < 0 else "middle"][0]
        axes.barh(place, difference, height=0.62, color=colour, alpha=0.85, zorder=2)
        if row["interval_95"] is not None:
            low, high = (100 * value for value in row["interval_95"])
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2, zorder=3)
            axes.plot([low, high], [place, place], "|", color=INK, markersize=6, zorder=3)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row['arm']}: {row['what']}" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of test accuracy, less the whole recipe; line: 95% interval")
    axes.set_title(model, pad=8)
