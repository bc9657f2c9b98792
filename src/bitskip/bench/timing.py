"""Fair timing: whatever is compared takes turns, and a result is a median with its spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitskip.bench.worker import time_calls
from bitskip.errors import RunError

Timer = Callable[[float], list[float]]  # given seconds, the milliseconds of each call made in them


@dataclass(frozen=True)
class Spread:
    """Milliseconds of a call: how many were timed, and how they lie."""

    n: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def timer(call: Callable[[], object], processor: bool = False) -> Timer:
    """Return the timer of a call in this process; `processor`: of what it computes, not of what passes."""
    return lambda seconds: time_calls(call, seconds, processor)


def alternate(
    timers: Mapping[str, Timer], rounds: int, seconds: float, failed: dict[str, str] | None = None
) -> dict[str, Spread]:
    """Time each for `seconds` in turns, `rounds` times, so that a change of the machine meets all of them.

    Args:
        timers: what is compared, by name.
        rounds: turns of each.
        seconds: of a turn.
        failed: takes the names of those that raise RunError while they are timed, and why; they are left out
            of the result and the others go on. None: the error is raised.
    """
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in list(samples):
            try:
                samples[name] += timers[name](seconds)
            except RunError as error:
                if failed is None:
                    raise
                failed[name] = str(error)
                del samples[name]
    result = {}
    for name, values in samples.items():
        low, median, high = (float(v) for v in np.percentile(values, (10, 50, 90)))
        result[name] = Spread(len(values), median, low, high, min(values))
    return result
