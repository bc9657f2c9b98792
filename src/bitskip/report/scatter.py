"""What scatter charts share: labels that cover nothing, and counts in words on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitskip.report.labels import Rectangle, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Label:
    """A point in data coordinates and what to write beside it; without text it is only kept free."""

    x: float
    y: float
    text: str
    colour: str
    italic: bool = False


def thousands(axes: Axes) -> None:
    """Write the horizontal axis as `10,000` and `2 million`."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def words(value: float, _position: int | None = None) -> str:
        return f"{value / 1e6:g} million" if value >= 1e6 else f"{value:,.0f}"

    axes.xaxis.set_major_formatter(FuncFormatter(words))
    axes.xaxis.set_minor_formatter(NullFormatter())


def write_labels(figure: Figure, axes: Axes, labels: Sequence[Label], size: float = 8) -> None:
    """Write each label where it covers nothing, with a line to its point if it stands far away."""
    texts = [
        axes.annotate(
            label.text,
            (label.x, label.y),
            fontsize=size,
            color=label.colour,
            fontstyle="italic" if label.italic else "normal",
            annotation_clip=False,
        )
        for label in labels
    ]
    figure.canvas.draw()
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    unit = figure.dpi / 72
    pixels = [tuple(map(float, axes.transData.transform((label.x, label.y)))) for label in labels]
    boxes = [text.get_window_extent(renderer) for text in texts]
    frame = axes.get_window_extent(renderer)
    places = place_labels(
        [(x, y) for x, y in pixels],
        [
            (box.width + 2 * unit, box.height) if label.text else (0.0, 0.0)
            for box, label in zip(boxes, labels, strict=True)
        ],
        Rectangle(frame.x0 + 2, frame.y0 + 2, frame.x1, frame.y1),
        point_radius=4.5 * unit,
        unit=unit,
    )
    for text, place, label, (x, y) in zip(texts, places, labels, pixels, strict=True):
        centre = ((place.left + place.right) / 2, (place.bottom + place.top) / 2)
        x_data, y_data = map(float, axes.transData.inverted().transform(centre))
        text.set_position((x_data, y_data))
        text.set_horizontalalignment("center")
        text.set_verticalalignment("center")
        near = (min(max(x, place.left), place.right), min(max(y, place.bottom), place.top))
        if label.text and math.dist((x, y), near) > 12 * unit:
            near_data = axes.transData.inverted().transform(near)
            axes.plot(
                [label.x, near_data[0]],
                [label.y, near_data[1]],
                color=label.colour,
                linewidth=0.7,
                alpha=0.7,
                zorder=1,
            )
