"""Draws the architecture of a spec: layers as boxes, precision in colour, shortcuts as arcs.

All lengths are inches; y grows upwards, so rows are laid out from the top with falling y.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitskip.cost import cost_of
from bitskip.report.diagram_plan import Arc, Box, DiagramBlock, DiagramRow, plan_diagram
from bitskip.report.style import COLOURS, INK, MUTED, SURFACE, figure_style, new_figure
from bitskip.report.wording import count
from bitskip.spec import NetworkSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRECISION_LEGEND = {
    "fp32": "fp32: full precision",
    "int8": "int8: 8-bit",
    "w1": "w1: 1-bit weights",
    "w1a1": "w1a1: 1-bit weights and activations",
}

_LABELS = 1.15  # width of the column of stage names
_MARGIN = 0.25
_BOX_HEIGHT = 0.64
_ARC_HEIGHT = 0.42  # of the arc above its boxes
_RADIUS = 0.09  # of the addition's circle
_LINE = 1.1  # points


def draw_architecture(spec: NetworkSpec) -> Figure:
    """Return the diagram of any spec."""
    rows = plan_diagram(spec)
    width = 9.2 if spec.block == "basic" else 11.6
    heights = [_row_height(row) for row in rows]
    height = 0.62 + sum(heights) + 0.5
    with figure_style():
        figure = new_figure(width, height)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(0, height)
        axes.axis("off")
        _Drawing(axes, spec, width).draw(rows, heights, height)
    return figure


def _row_height(row: DiagramRow) -> float:
    arcs = any(block.arcs for block in row.blocks)
    labels = any(block.label for block in row.blocks)
    return _BOX_HEIGHT + 0.34 + (_ARC_HEIGHT + 0.06 if arcs else 0) + (0.18 if labels else 0)


class _Drawing:
    """The strokes of one diagram."""

    def __init__(self, axes: Axes, spec: NetworkSpec, width: float) -> None:
        self.axes = axes
        self.spec = spec
        self.left = _LABELS + _MARGIN
        self.right = width - _MARGIN - 0.1
        slots = 2 * (2 if spec.block == "basic" else 3)  # boxes in a full row
        self.gap = 0.2
        # A block ends with room for its addition.
        self.room = 0.36
        self.box_width = (self.right - self.left - 2 * self.room - slots * self.gap) / slots
        self.started = False  # nothing leads to the first box
        self.precisions: dict[str, None] = {}
        self.kinds: dict[str, None] = {}

    def draw(self, rows: tuple[DiagramRow, ...], heights: list[float], height: float) -> None:
        cost = cost_of(self.spec)
        self.text(_MARGIN, height - 0.3, self.spec.name, size=11.5, weight="bold", align="left")
        totals = f"{count(cost.parameters)} parameters, {count(cost.effective_parameters)} effective"
        self.text(self.right, height - 0.3, totals, size=8.5, colour=MUTED, align="right")
        top, previous_end = height - 0.62, None
        for row, row_height in zip(rows, heights, strict=True):
            arcs = any(block.arcs for block in row.blocks)
            y = top - (_ARC_HEIGHT + 0.06 if arcs else 0) - _BOX_HEIGHT / 2 - 0.08
            self.row_label(row, y)
            if previous_end is not None:
                self.carriage_return(previous_end, (self.left, y), top + 0.03)
            previous_end = self.row(row, y, is_last=row is rows[-1])
            top -= row_height
        self.legend(0.26)

    # -- one row ------------------------------------------------------------------------------------

    def row_label(self, row: DiagramRow, y: float) -> None:
        start = y + 0.075 * len(row.notes)
        self.text(_MARGIN, start, row.label, size=9.5, weight="bold", align="left")
        for at, note in enumerate(row.notes, 1):
            self.text(_MARGIN, start - 0.165 * at, note, size=7.5, colour=MUTED, align="left")

    def row(self, row: DiagramRow, y: float, is_last: bool) -> tuple[float, float]:
        x = self.left
        for block in row.blocks:
            x = self.block(block, x, y)
        if not is_last:
            self.line([(x, y), (self.right, y)])
        return self.right, y

    def block(self, block: DiagramBlock, x: float, y: float) -> float:
        """Draw a block from `x` on and return where it ends."""
        start = x
        arcs = {arc.last: arc for arc in block.arcs}
        starts: list[float] = []
        for at, box in enumerate(block.boxes):
            starts.append(x)
            if block.label or at > 0 or self.started:
                self.line([(x, y), (x + self.gap, y)], arrow=True)
            self.started = True
            x += self.gap
            self.box(box, x, y)
            x += self.box_width
            if at in arcs:
                x = self.arc(arcs[at], starts[arcs[at].first], x, y)
        if block.label:
            self.text(
                start + self.gap, y - _BOX_HEIGHT / 2 - 0.12, block.label, size=7, colour=MUTED, align="left"
            )
            if not block.arcs:
                self.line([(x, y), (x + self.room, y)])
                x += self.room
        return x

    def arc(self, arc: Arc, x_from: float, x_box_end: float, y: float) -> float:
        """Draw a shortcut from the line at `x_from` over its boxes to its addition; return the line's end."""
        # Within a row, per-conv additions must fit into what a block leaves free.
        room = self.room if self.spec.style != "per_conv" else self.room / 2
        centre = x_box_end + min(0.16, room - _RADIUS)
        x_from += 0.05
        top = y + _BOX_HEIGHT / 2 + _ARC_HEIGHT - 0.12
        colour = INK if arc.projection is None else COLOURS[arc.projection.precision or "fp32"][0]
        self.line([(x_box_end, y), (centre - _RADIUS, y)])
        self.line(
            [(x_from, y), (x_from, top), (centre, top), (centre, y + _RADIUS)],
            colour=colour, arrow=True, radius=0.24, width=1.5,
        )  # fmt: skip
        self.dot(x_from, y, colour)
        self.addition(centre, y)
        if arc.projection is None:
            self.kinds["identity"] = None
        else:
            self.kinds["projection"] = None
            text = f"{arc.projection.title} · {arc.projection.precision}"
            middle = (x_from + centre) / 2
            self.small_box(middle, top, text, arc.projection.precision or "fp32")
        if arc.after and self.spec.style == "per_conv":  # no room beside the boxes
            below = y - _BOX_HEIGHT / 2 - 0.12
            self.text(centre + _RADIUS, below, arc.after, size=6.5, align="right")
        elif arc.after:
            self.text(centre, y - 0.2, arc.after, size=6.5)
        end = x_box_end + room
        self.line([(centre + _RADIUS, y), (end, y)])
        return end

    # -- strokes -------------------------------------------------------------------------------------

    def box(self, box: Box, x: float, y: float) -> None:
        edge, fill = (MUTED, SURFACE)
        if box.precision is not None:
            self.precisions[box.precision] = None
            edge, fill = COLOURS[box.precision][0], COLOURS[f"{box.precision}-fill"][0]
        self.rectangle(x, y - _BOX_HEIGHT / 2, self.box_width, _BOX_HEIGHT, edge, fill)
        middle = x + self.box_width / 2
        size = 8.2 if self.spec.block == "basic" else 7.6
        lines = [
            (box.name, 6.8, MUTED, "normal"),
            (box.title, size, INK, "bold" if box.precision else "normal"),
            (box.detail, 6.8, INK, "normal"),
        ]
        lines = [line for line in lines if line[0]]
        for at, (text, points, colour, weight) in enumerate(lines):
            offset = ((len(lines) - 1) / 2 - at) * 0.18
            self.text(middle, y + offset, text, size=points, colour=colour, weight=weight)
        if box.precision is not None:
            corner = (x + self.box_width - 0.06, y + 0.18)
            self.text(*corner, box.precision, size=6.5, colour=edge, weight="bold", align="right")

    def small_box(self, x: float, y: float, text: str, precision: str) -> None:
        self.precisions[precision] = None
        width = 0.075 * len(text) + 0.12
        edge, fill = COLOURS[precision][0], COLOURS[f"{precision}-fill"][0]
        self.rectangle(x - width / 2, y - 0.11, width, 0.22, edge, fill)
        self.text(x, y, text, size=7, colour=INK)

    def rectangle(self, x: float, y: float, width: float, height: float, edge: str, fill: str) -> None:
        from matplotlib.patches import FancyBboxPatch

        style: Any = "round,pad=0,rounding_size=0.06"
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle=style, linewidth=1.2, edgecolor=edge, facecolor=fill, zorder=3
            )
        )

    def addition(self, x: float, y: float) -> None:
        from matplotlib.patches import Circle

        self.axes.add_patch(
            Circle((x, y), _RADIUS, edgecolor=INK, facecolor=SURFACE, linewidth=1.1, zorder=4)
        )
        arm = _RADIUS * 0.55
        for xs, ys in (((x - arm, x + arm), (y, y)), ((x, x), (y - arm, y + arm))):
            self.axes.plot(xs, ys, color=INK, linewidth=1.1, zorder=5, solid_capstyle="round")

    def dot(self, x: float, y: float, colour: str) -> None:
        from matplotlib.patches import Circle

        self.axes.add_patch(Circle((x, y), 0.03, facecolor=colour, edgecolor=colour, linewidth=0, zorder=4))

    def carriage_return(self, start: tuple[float, float], end: tuple[float, float], between: float) -> None:
        """Lead the line from the end of a row to the start of the next."""
        right, left = start[0] + 0.12, end[0] - 0.12
        points = [start, (right, start[1]), (right, between), (left, between), (left, end[1]), end]
        self.line(points, radius=0.1, colour=MUTED)

    def line(
        self,
        points: list[tuple[float, float]],
        *,
        colour: str = MUTED,
        arrow: bool = False,
        radius: float = 0.0,
        width: float = _LINE,
    ) -> None:
        """Draw a polyline with rounded corners."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        vertices, codes = [points[0]], [Path.MOVETO]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            entry, leave = _towards(corner, before, radius), _towards(corner, after, radius)
            vertices += [entry, corner, leave]
            codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
        vertices.append(points[-1])
        codes.append(Path.LINETO)
        self.axes.add_patch(
            FancyArrowPatch(
                path=Path(vertices, codes),
                arrowstyle="-|>,head_length=3,head_width=1.8" if arrow else "-",
                color=colour,
                linewidth=width,
                shrinkA=0,
                shrinkB=0,
                zorder=2,
                capstyle="butt",
            )
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        colour: str = INK,
        weight: str = "normal",
        align: str = "center",
    ) -> None:
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            color=colour,
            fontweight=weight,
            ha=align,
            va="center_baseline",
            zorder=6,
        )

    def legend(self, y: float) -> None:
        x = _MARGIN
        for precision in (name for name in PRECISION_LEGEND if name in self.precisions):
            edge, fill = COLOURS[precision][0], COLOURS[f"{precision}-fill"][0]
            self.rectangle(x, y - 0.07, 0.22, 0.14, edge, fill)
            text = PRECISION_LEGEND[precision]
            self.text(x + 0.3, y, text, size=7.5, align="left")
            x += 0.5 + 0.066 * len(text)
        what_follows = "BN, ReLU" if self.spec.style == "paper" else "BN"
        words = {"identity": "identity shortcut", "projection": f"projection shortcut (conv, {what_follows})"}
        for kind in (kind for kind in words if kind in self.kinds):
            colour = INK
            if kind == "projection":
                colour = COLOURS["w1" if "w1" in self.precisions else "fp32"][0]
            self.line([(x, y - 0.06), (x, y + 0.07), (x + 0.26, y + 0.07), (x + 0.26, y - 0.06)],
                      colour=colour, radius=0.08, width=1.5)  # fmt: skip
            if kind == "projection":
                self.rectangle(x + 0.08, y + 0.03, 0.1, 0.08, colour, SURFACE)
            self.text(x + 0.34, y, words[kind], size=7.5, align="left")
            x += 0.54 + 0.066 * len(words[kind])


def _towards(corner: tuple[float, float], other: tuple[float, float], radius: float) -> tuple[float, float]:
    """Return the point `radius` away from `corner` towards `other`, at most half way."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    step = min(radius, length / 2) / length
    return corner[0] + dx * step, corner[1] + dy * step
