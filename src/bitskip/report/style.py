"""One look for every figure, and figures as SVG and PNG bytes.

Every colour has a name, so that the HTML page can set its own for dark mode: an inlined figure refers to
the page's custom properties, a stand-alone file has the light colours. Files depend on nothing but what is
drawn: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bitskip.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "figure_style", "inline_svg", "new_figure", "png_bytes", "svg_text"]

# Name -> (light, dark). Light values are all different: an inlined figure is recoloured by value.
COLOURS: dict[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#15181c"),
    "ink": ("#1c2126", "#e4e7ea"),
    "muted": ("#66707b", "#98a2ad"),
    "rule": ("#dfe3e8", "#343b43"),
    "fp32": ("#2b6291", "#82b6de"),
    "fp32-fill": ("#dfebf5", "#1c3245"),
    "w1": ("#b9580b", "#f2a863"),
    "w1-fill": ("#fce8d6", "#472c15"),
    "w1a1": ("#8c2a68", "#dc94c3"),
    "w1a1-fill": ("#f4deec", "#402236"),
    "int8": ("#2c774b", "#80cfa2"),
    "int8-fill": ("#ddf0e4", "#1b3a29"),
    "all": ("#0068a6", "#5fb4ea"),
    "middle": ("#00926b", "#4fd0ab"),
    "none": ("#cf5a00", "#ff9d57"),
    "hybrid": ("#7d4f9e", "#c09ae0"),
}
INK, MUTED, RULE, SURFACE = (COLOURS[name][0] for name in ("ink", "muted", "rule", "surface"))

_PNG_DOTS_PER_INCH = 200
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "bitskip",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw with the report's style, whatever the reader's own matplotlib settings."""
    try:
        import matplotlib
    except ImportError:
        raise RunError("figures need matplotlib, which is not installed; pip install matplotlib") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) on the Agg canvas, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG picture."""
    stream = io.BytesIO()
    with figure_style():
        figure.savefig(stream, format="png", dpi=_PNG_DOTS_PER_INCH, metadata={"Software": "bitskip"})
    return stream.getvalue()


def svg_text(figure: Figure) -> str:
    """Return the figure as a stand-alone SVG file."""
    stream = io.StringIO()
    with figure_style():
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    text = re.sub(r"<!DOCTYPE[^>]*>\s*", "", stream.getvalue())
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _FONTS, text)


def inline_svg(svg: str, name: str, description: str) -> str:
    """Return `svg` fit to stand in an HTML page: ids of its own, the page's colours, as wide as it may be.

    Args:
        svg: from `svg_text`.
        name: prefix of its ids, unique on the page.
        description: what a screen reader says instead.
    """
    from html import escape

    body = svg[svg.index("<svg") :]
    opening, _, rest = body.partition(">")
    view_box = re.search(r'viewBox="([^"]*)"', opening)
    assert view_box is not None
    width = float(view_box[1].split()[2])
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r"url\(#", f"url(#{name}-", rest)
    rest = re.sub(r'xlink:href="#', f'href="#{name}-', rest)
    for colour, (light, _dark) in COLOURS.items():
        rest = rest.replace(light, f"var(--{colour})")
    label = escape(description, quote=True)
    # 72 points of the figure are an inch, which a page shows as 96 pixels.
    return (
        f'<svg role="img" aria-label="{label}" viewBox="{view_box[1]}" '
        f'style="max-width: {width * 96 / 72:.0f}px">{rest.strip()}'
    )
