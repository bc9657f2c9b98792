"""What the tests of `bitskip.jobs` run: functions of a module, so that other processes can run them."""

from __future__ import annotations

import os
import signal
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


def surroundings(*, offset: int, report: Any) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")
