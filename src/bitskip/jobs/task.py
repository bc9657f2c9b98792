"""What is to be run, and what is said while it runs: values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

RETRIES = 2  # how often a task is taken up again after its process has died

EventKind = Literal["begun", "progress", "done", "failed", "lost"]


@dataclass(frozen=True)
class Task:
    """One computation: `call(*arguments, **shared, report=report)`.

    `call` is a function of a module, and all values are picklable, so that another process can run it;
    `report(value)` shows its progress.
    """

    name: str  # unique among the tasks of one run; what people see
    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened to a task."""

    task: Task
    kind: EventKind
    value: Any = None  # progress: what was reported; done: the result; failed: the exception; lost: why
