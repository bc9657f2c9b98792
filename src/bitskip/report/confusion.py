"""Pictures of an evaluation, without matplotlib: the confusion matrix, and a sheet of the worst mistakes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bitskip.runtime.confusion import Confusion, Mistake

_CELL, _CHARACTER = 34, 6.6  # pixels: of a cell's side, and of a letter of the labels
_NUMBERS = 30  # so many classes at most have numbers in their cells
_FONT = 'font-family="system-ui, sans-serif" font-size="11"'


def confusion_svg(confusion: Confusion, title: str) -> str:
    """Return the matrix as an SVG picture: a row a true class, shaded by the share of its pictures."""
    names, matrix = confusion.class_names, confusion.matrix
    count = len(names)
    cell = _CELL if count <= _NUMBERS else max(4, 1000 // count)
    edge = int(max(map(len, names)) * _CHARACTER) + 16
    top = edge + 44
    side = count * cell
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {edge + side + 12} {top + side + 12}"',
        f'{_FONT}><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="18" font-size="13">{escape(title)}</text>',
        '<text x="8" y="34" fill="#666">rows: the class; columns: what it is taken for</text>',
    ]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row in range(count):
        y = top + row * cell
        if cell >= 10:
            parts.append(
                f'<text x="{edge - 6}" y="{y + cell / 2 + 4}" text-anchor="end">{escape(names[row])}</text>'
            )
            turned = edge + row * cell + cell / 2 + 4
            parts.append(
                f'<text transform="translate({turned} {top - 6}) rotate(-90)">{escape(names[row])}</text>'
            )
        for column in range(count):
            share, pictures = float(shares[row, column]), int(matrix[row, column])
            colour = "#1f6f4a" if row == column else "#b3361e"
            x = edge + column * cell
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" stroke="#ddd" fill="{colour}" '
                f'fill-opacity="{share**0.5:.3f}"><title>{escape(names[row])} taken for '
                f"{escape(names[column])}: {pictures:,} ({share:.1%})</title></rect>"
            )
            if pictures and count <= _NUMBERS:
                ink = "#fff" if share > 0.3 else "#000"
                parts.append(
                    f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" fill="{ink}" '
                    f'pointer-events="none">{pictures}</text>'
                )
    return "\n".join([*parts, "</svg>\n"])


_TILE, _CAPTION, _COLUMNS = 112, 44, 5


def contact_sheet(
    images: npt.NDArray[np.uint8], mistakes: Sequence[Mistake], class_names: Sequence[str], kind: str = "PNG"
) -> bytes:
    """Return one picture of those of `images` (N, H, W, C) that were mistaken, and for what."""
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, max(1, len(mistakes)))
    rows = -(-len(mistakes) // columns)
    size = (columns * (_TILE + 8) + 8, max(1, rows) * (_TILE + _CAPTION) + 8)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, mistake in enumerate(mistakes):
        x = 8 + number % columns * (_TILE + 8)
        y = 8 + number // columns * (_TILE + _CAPTION)
        pixels = images[mistake.index]
        tile = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        sheet.paste(tile.resize((_TILE, _TILE), Image.Resampling.NEAREST), (x, y))
        lines = (
            f"{class_names[mistake.predicted][:14]} {mistake.probability:.0%}",
            f"is {class_names[mistake.label][:16]}",
        )
        for line, text in enumerate(lines):
            draw.text((x, y + _TILE + 2 + 16 * line), text, fill=("#b3361e", "#222222")[line], font_size=13)
    out = io.BytesIO()
    sheet.save(out, kind)
    return out.getvalue()
