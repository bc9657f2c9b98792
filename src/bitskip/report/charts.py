"""The report's charts: validation losses, accuracy against effective parameters, and the puzzle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitskip.report.runs import Treatment, grid_rows, mean_curve, measured, other_models, treatments
from bitskip.report.scatter import Label, thousands, write_labels
from bitskip.report.style import COLOURS, INK, MUTED, SURFACE, figure_style, new_figure
from bitskip.report.wording import NOT_RUN
from bitskip.results.study import Results
from bitskip.study.paper import POLICIES, POLICY_NAMES, PRECISION_NAMES, TABLES, PaperTable, policies_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POLICY_LINES: dict[str, Any] = {"all": "solid", "middle": (0, (5, 1.6)), "none": (0, (1.2, 1.2))}
_PRECISION_COLOURS = {"full": "fp32", "hybrid": "hybrid", "binary": "w1"}


def loss_rows_missing(results: Results, table: PaperTable) -> bool:
    """Whether the study has no run with a validation loss at this table's precision."""
    return not any(
        record for row in table.rows for run in grid_rows(results, row.model) for record in run.validation
    )


def has_loss_curves(results: Results) -> bool:
    """Whether validation losses can be drawn: not after one epoch, for a point is no curve.

    Where nothing was run yet they can: the figures say so.
    """
    runs = [run for table in TABLES for row in table.rows for run in grid_rows(results, row.model)]
    return max((len(run.validation) for run in runs), default=0) != 1


def draw_losses(results: Results, table: PaperTable) -> Figure:
    """Return the validation loss after each epoch for the three shortcut policies of one precision.

    Several seeds: each as a thin line, their mean as a thick one. A loss that is not finite breaks the
    line, and a cross marks the epoch before.
    """
    with figure_style():
        figure = new_figure(6.4, 3.7)
        axes = figure.subplots()
        longest = 1
        for policy in POLICIES:
            rows = grid_rows(results, f"resnet14-{table.precision_policy}-{policy}")
            curves = [[record.loss for record in row.validation] for row in rows if row.validation]
            name = POLICY_NAMES[policy]
            colour, line = COLOURS[policy][0], _POLICY_LINES[policy]
            if not curves:
                axes.plot([], [], color=colour, linestyle=line, alpha=0.45, label=f"{name} ({NOT_RUN})")
                continue
            mean = mean_curve(curves)
            longest = max(longest, len(mean))
            finite = all(map(math.isfinite, mean))
            axes.plot(
                range(1, len(mean) + 1),
                mean,
                color=colour,
                linestyle=line,
                label=name + ("" if finite else " (not finite)"),
                marker="o" if len(mean) <= 12 else "",
                markersize=4,
            )
            if len(curves) > 1:
                for curve in curves:
                    axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.7, alpha=0.55)
            _mark_break(axes, mean, colour)
        if loss_rows_missing(results, table):
            axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", color=MUTED, fontsize=12)
            axes.set_yticks([])
        axes.set_ylabel("validation loss")
        axes.set_title(f"{PRECISION_NAMES[table.precision_policy].capitalize()}: validation loss", pad=10)
        _epoch_axis(axes, longest)
        axes.legend(loc="best", handlelength=3.2)
        figure.tight_layout()
    return figure


def _mark_break(axes: Axes, curve: Sequence[float], colour: str) -> None:
    """Put a cross where a curve stops being finite; on the axis if it never was."""
    for at, value in enumerate(curve):
        if not math.isfinite(value):
            if at and math.isfinite(curve[at - 1]):
                axes.plot(at, curve[at - 1], "x", color=colour, markersize=9, markeredgewidth=2)
            elif at == 0:
                axes.plot(
                    1,
                    0.03,
                    "x",
                    color=colour,
                    markersize=9,
                    markeredgewidth=2,
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                )


def _epoch_axis(axes: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(1 - 0.04 * max(epochs - 1, 1), epochs + 0.04 * max(epochs - 1, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))


@dataclass(frozen=True)
class _Point:
    effective: float
    accuracy: float  # per cent
    spread: float | None
    label: str
    colour: str
    ours: bool


def _points(results: Results) -> list[_Point]:
    points = []
    for table in TABLES:
        for row in table.rows:
            precision, policy = policies_of(row.model)
            colour = COLOURS[_PRECISION_COLOURS[precision]][0]
            points.append(
                _Point(row.effective_parameters, 100 * row.accuracy, None, policy, colour, ours=False)
            )
            ours = measured(results, row.model)
            if ours is not None:
                effective = grid_rows(results, row.model)[0].counts.effective_parameters
                spread = None if ours.spread is None else 100 * ours.spread
                points.append(_Point(effective, 100 * ours.mean, spread, policy, colour, ours=True))
    for model in other_models(results):
        ours = measured(results, model)
        if ours is not None:
            effective = grid_rows(results, model)[0].counts.effective_parameters
            spread = None if ours.spread is None else 100 * ours.spread
            points.append(_Point(effective, 100 * ours.mean, spread, model, INK, ours=True))
    return points


def _dot(colour: str, face: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "",
        "markersize": 7,
        "color": colour,
        "markeredgewidth": 1.5,
        "markerfacecolor": face,
    }


def draw_accuracy(results: Results) -> Figure:
    """Return accuracy against effective parameters: ours at the trained scale, the paper's as printed."""
    from matplotlib.lines import Line2D

    with figure_style():
        figure = new_figure(8.6, 5.4)
        axes = figure.subplots()
        points = _points(results)
        for point in points:
            if point.spread is not None:
                axes.errorbar(
                    point.effective,
                    point.accuracy,
                    yerr=point.spread,
                    color=point.colour,
                    linewidth=1,
                    capsize=2,
                )
            face = point.colour if point.ours else SURFACE
            axes.plot(point.effective, point.accuracy, zorder=3, **_dot(point.colour, face))
        axes.set_xscale("log")
        effective = [point.effective for point in points]
        axes.set_xlim(min(effective) / 1.8, max(effective) * 2.2)
        accuracies = [point.accuracy for point in points]
        room = max(0.08 * (max(accuracies) - min(accuracies)), 2)
        axes.set_ylim(max(min(accuracies) - room, 0), min(max(accuracies) + room, 101))
        thousands(axes)
        axes.set_xlabel("effective 32-bit parameters (log scale)")
        axes.set_ylabel("test accuracy, %")
        width = results.study.width
        epochs = f"{results.study.epochs} epoch" + ("s" if results.study.epochs != 1 else "")
        colours = {key: COLOURS[name][0] for key, name in _PRECISION_COLOURS.items()}
        kinds = {PRECISION_NAMES[key]: (colour, colour) for key, colour in colours.items()}
        kinds |= {f"ours (width {width:g}, {epochs})": (INK, INK), "paper (as printed)": (INK, SURFACE)}
        handles = [
            Line2D([], [], label=label, **_dot(colour, face)) for label, (colour, face) in kinds.items()
        ]
        figure.legend(handles=handles, loc="upper center", ncols=5, columnspacing=1.4, handletextpad=0.2)
        figure.tight_layout(rect=(0, 0, 1, 0.94))
        write_labels(
            figure,
            axes,
            [Label(p.effective, p.accuracy, p.label, p.colour, italic=not p.ours) for p in points],
        )
    return figure


def draw_puzzle(results: Results) -> Figure:
    """Return validation accuracy and share of flipped signs after each epoch, by treatment."""
    found = treatments(results)
    several_models = len({treatment.model for treatment in found}) > 1
    with figure_style():
        figure = new_figure(8.6, 4.0)
        left, right = figure.subplots(1, 2)
        longest = 1
        for treatment in found:
            label = treatment.label + (f" ({treatment.model})" if several_models else "")
            style = _treatment_style(treatment)
            for axes, curve in ((left, treatment.validation_accuracy), (right, treatment.sign_flip_share)):
                longest = max(longest, len(curve))
                axes.plot(
                    range(1, len(curve) + 1),
                    [100 * value for value in curve],
                    label=label if axes is left else "_",
                    marker="o" if len(curve) <= 12 else "",
                    markersize=4.5,
                    **style,
                )
        left.set_title("Validation accuracy, %", pad=8)
        right.set_title("Signs that flipped in an epoch, %", pad=8)
        for axes in (left, right):
            _epoch_axis(axes, longest)
            axes.set_ylim(bottom=0 if axes is left else None)
        figure.legend(loc="lower center", ncols=2, handlelength=3.4, columnspacing=2.5)
        figure.tight_layout(rect=(0, 0.01 + 0.055 * ((len(found) + 1) // 2), 1, 1))
    return figure


def _treatment_style(treatment: Treatment) -> dict[str, Any]:
    colour = COLOURS["none" if treatment.estimator == "none" else "all"][0]
    with_l2 = treatment.l2 > 0
    return {
        "color": colour,
        "linestyle": (0, (4, 1.6)) if with_l2 else "solid",
        "markerfacecolor": SURFACE if with_l2 else colour,
    }
