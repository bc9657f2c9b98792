"""Places labels beside points so that none covers another label or a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_DISTANCES = (5, 11, 18, 26, 36, 48, 62)  # free space between point and label, tried in this order
# Right, left, then above, below and the corners: degrees, counted against the clock from the right.
_ANGLES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90)


@dataclass(frozen=True)
class Rectangle:
    """An axis-parallel rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Rectangle) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def within(self, other: Rectangle) -> bool:
        """Whether this one does not reach beyond `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Rectangle,
    point_radius: float,
    unit: float = 1.0,
) -> list[Rectangle]:
    """Return a rectangle for each label, greedily and always the same for the same input.

    Args:
        points: centres of the points.
        sizes: width and height of each label, in the same unit as `points`.
        bounds: where labels may stand.
        point_radius: half the size of a point, kept free.
        unit: what one pixel of a 72 dots-per-inch picture measures.
    """
    taken = [
        Rectangle(x - point_radius, y - point_radius, x + point_radius, y + point_radius) for x, y in points
    ]
    placed: list[Rectangle] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        best: tuple[float, Rectangle] | None = None
        for distance in _DISTANCES:
            for angle in _ANGLES:
                label = _beside(x, y, width, height, point_radius + distance * unit, math.radians(angle))
                covered = sum(label.overlap(other) for other in (*taken, *placed))
                if not label.within(bounds):
                    covered += width * height
                if best is None or covered < best[0]:
                    best = (covered, label)
            if best is not None and best[0] == 0:
                break
        assert best is not None
        placed.append(best[1])
    return placed


def _beside(x: float, y: float, width: float, height: float, reach: float, angle: float) -> Rectangle:
    """Return the label in direction `angle`, its nearest side `reach` away from the point."""
    cosine, sine = math.cos(angle), math.sin(angle)
    left = x + reach * cosine + (width / 2) * (_sign(cosine) - 1)
    bottom = y + reach * sine + (height / 2) * (_sign(sine) - 1)
    return Rectangle(left, bottom, left + width, bottom + height)


def _sign(value: float) -> float:
    """Return -1, 0 or +1, with values next to 0 taken as 0."""
    return 0.0 if abs(value) < 1e-6 else math.copysign(1.0, value)
