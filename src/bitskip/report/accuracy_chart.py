"""The plot of accuracy against effective parameters and against bytes, two panels, logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bitskip.report.scatter import Label, thousands, write_labels
from bitskip.report.style import COLOURS, INK, MUTED, SURFACE, figure_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BITS = {
    "fp32": "full precision",
    "w1": "1-bit weights in some or all stages",
    "w1a1": "1-bit weights and activations",
    "int8": "int8",
}
# Kind -> marker, filled, legend. Kinds beyond these are networks of published figures.
_KINDS: dict[str, tuple[str, bool, str]] = {
    "ours": ("o", True, "ours, last epoch"),
    "paper": ("o", False, "the paper, as printed"),
    "computed": ("d", False, "the paper, size as computed"),
    "ResNet-18": ("s", False, "published, ResNet-18"),
    "ResNet-20": ("^", False, "published, ResNet-20"),
    "MLPerf Tiny": ("*", False, "MLPerf Tiny targets"),
}
_TICKS = (40, 50, 60, 70, 80, 85, 88, 90, 92, 93, 94, 95, 96, 97, 98, 99)  # per cent


@dataclass(frozen=True)
class Point:
    """One network in the plot; without a size it is left out of that panel."""

    label: str
    kind: str
    bits: str
    accuracy: float  # per cent, below 100
    effective: float | None
    size: float | None  # bytes


def draw_sizes(points: Sequence[Point]) -> Figure:
    """Return the figure with both panels, one above the other."""
    with figure_style():
        figure = new_figure(9.2, 11.6)
        upper, lower = figure.subplots(2, 1)
        by_parameters = [(point.effective, point) for point in points if point.effective is not None]
        by_bytes = [(point.size, point) for point in points if point.size is not None]
        _panel(upper, by_parameters, "Test accuracy, %, against effective 32-bit parameters")
        _panel(lower, by_bytes, "Test accuracy, %, against bytes")
        upper.set_xlabel("effective 32-bit parameters (log scale)")
        lower.set_xlabel("bytes (log scale): packed file for ours, weights alone for the paper and ResNets")
        lines = _join(upper, points)
        _legend(figure, points)
        figure.tight_layout(rect=(0, 0, 1, 0.925), h_pad=2.0)
        for axes, placed in ((upper, by_parameters), (lower, by_bytes)):
            labels = [
                Label(x, 100 - p.accuracy, p.label, COLOURS[p.bits][0], italic=p.kind != "ours")
                for x, p in sorted(placed, key=lambda pair: _turn(pair[1]))
            ]
            write_labels(figure, axes, labels + (lines if axes is upper else []), size=7.5)
    return figure


def _panel(axes: Axes, placed: Sequence[tuple[float, Point]], title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for x, point in placed:
        axes.plot(x, 100 - point.accuracy, **_marker(point.kind, COLOURS[point.bits][0]))
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [x for x, _ in placed]
    axes.set_xlim(min(sizes) / 2, max(sizes) * 2.4)
    errors = [100 - point.accuracy for _, point in placed]
    axes.set_ylim(max(errors) * 1.12, min(errors) / 1.12)  # less error is higher up
    axes.yaxis.set_major_locator(FixedLocator([100 - tick for tick in reversed(_TICKS)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _position: f"{100 - error:g}"))
    thousands(axes)
    axes.set_title(title, pad=8)


def _marker(kind: str, colour: str) -> dict[str, Any]:
    shape, filled, _ = _KINDS[kind]
    return {
        "marker": shape,
        "linestyle": "",
        "markersize": 10 if shape == "*" else 7,
        "color": colour,
        "markeredgewidth": 1.3,
        "markerfacecolor": colour if filled else SURFACE,
        "zorder": 4 if filled else 3,
    }


def _join(axes: Axes, points: Sequence[Point]) -> list[Label]:
    """Draw a line from each printed size to the computed one; return places on it to be kept free."""
    places = []
    for printed, computed in pairwise(points):
        if (printed.kind, computed.kind) == ("paper", "computed") and computed.effective is not None:
            assert printed.effective is not None
            error = 100 - printed.accuracy
            axes.plot(
                [printed.effective, computed.effective],
                [error, error],
                color=MUTED,
                linewidth=0.8,
                linestyle=(0, (3, 2)),
                zorder=1,
            )
            ratio = computed.effective / printed.effective
            places += [Label(printed.effective * ratio ** (at / 20), error, "", MUTED) for at in range(20)]
    return places


def _turn(point: Point) -> tuple[bool, float]:
    """When a point's label is placed: ours first, from above; then the others, from below."""
    ours = point.kind == "ours"
    return not ours, -point.accuracy if ours else point.accuracy


def _legend(figure: Figure, points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in _KINDS if any(point.kind == kind for point in points)]
    bits = [name for name in _BITS if any(point.bits == name for point in points)]
    handles = [Line2D([], [], label=_KINDS[kind][2], **_marker(kind, INK)) for kind in kinds]
    colours = [
        Line2D([], [], linewidth=6, solid_capstyle="round", color=COLOURS[name][0], label=_BITS[name])
        for name in bits
    ]
    style: Any = {"loc": "upper center", "columnspacing": 1.4, "handletextpad": 0.5, "fontsize": 8.5}
    figure.legend(handles=handles, ncols=3, bbox_to_anchor=(0.5, 0.998), **style)
    figure.legend(handles=colours, ncols=4, handlelength=0.9, bbox_to_anchor=(0.5, 0.956), **style)
