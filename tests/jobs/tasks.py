"""What the tests of `bitskip.jobs` run: functions of a module, so that other processes can run them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bitskip.errors import DataError


def double(value: int, *, offset: int, report: Any) -> int:
    report({"half": value / 2})
    return 2 * value + offset


def fail_on(value: int, bad: int, *, offset: int, report: Any) -> int:
    if value == bad:
        raise DataError(f"{value} is not what was expected")
    return value + offset


def die_until(folder: str, times: int, *, offset: int, report: Any) -> int:
    """Kill the process the first `times` times; then say how often it was begun."""
    tries = Path(folder) / f"try-{len(list(Path(folder).glob('try-*')))}"
    tries.touch()
    begun = len(list(Path(folder).glob("try-*")))
    if begun <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun + offset


def take_a_while(number: int, *, offset: int, report: Any) -> tuple[float, float]:
    """Report often; return when it began and ended."""
    begun = time.time()
    for step in range(10):
        report(step)
        time.sleep(0.1)
    return begun, time.time()


def surroundings(*, offset: int, report: Any) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")
