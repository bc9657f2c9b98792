"""How a report writes numbers: per cent without sign, signed differences, counts with separators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bitskip.terminal import UNKNOWN

__all__ = [
    "NOT_RUN",
    "UNKNOWN",
    "count",
    "duration",
    "epochs",
    "listing",
    "loss",
    "per_cent",
    "points",
    "relative",
]

NOT_RUN = "not run"
_MINUS = "−"


def per_cent(share: float) -> str:
    """Return a share from 0 to 1 as per cent with two decimals, without the sign: `91.52`."""
    return f"{100 * share:.2f}"


def points(difference: float) -> str:
    """Return the difference of two shares in percentage points, signed: `+1.20`."""
    return _signed(100 * difference, ".2f")


def relative(value: float, reference: float) -> str:
    """Return how far `value` lies from `reference`, in per cent of it, signed: `−0.39%`."""
    share = 100 * (value / reference - 1)
    return _signed(share, ".0f" if abs(share) >= 100 else ".2f") + "%"


def _signed(value: float, form: str) -> str:
    text = f"{abs(value):{form}}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (_MINUS if value < 0 else "+") + text


def count(value: int | float | None) -> str:
    """Return `1,234,567`; two decimals if it is no whole number."""
    if value is None:
        return UNKNOWN
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"


def epochs(own: int, before: int) -> str:
    """Return a run's epochs; with those of the weights that it started from: `7 after 12`."""
    return f"{own} after {before}" if before else str(own)


def loss(value: float) -> str:
    """Return a loss with three decimals; one that is not finite says so."""
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def duration(seconds: float) -> str:
    """Return a time in the units that suit it: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listing(words: Iterable[object], last: str = "and") -> str:
    """Return `a, b and c`."""
    texts: Sequence[str] = [str(word) for word in words]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {last} {texts[-1]}"
