"""Running tasks: one loop for what happens to them, whoever computes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitskip.errors import BitskipError, InterruptedRunError, RunError
from bitskip.jobs.place import Place
from bitskip.jobs.task import Event, Task


def run_tasks(
    tasks: Sequence[Task],
    *,
    place: Place | None = None,
    shared: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Run all tasks and return their results by name.

    Args:
        tasks: in the order in which they begin.
        place: where; in turn in this process if not given.
        shared: keyword arguments of every task, sent once a process, not once a task.
        folder: where the tasks write. On a cluster every machine must see it under the same path.
        on_event: called in this process for each event, in the order in which they happen.

    Raises:
        BitskipError: after all others have ended, what failed; the exception itself if there is one cause.
        InterruptedRunError: on Ctrl-C; processes are ended first.
    """
    place = place or Place()
    shared = dict(shared or {})
    results: dict[str, Any] = {}
    failed: dict[str, BaseException] = {}
    if not tasks:
        return results
    events = _events(tasks, place, shared, folder, on_event)
    try:
        for event in events:
            if event.kind == "done":
                results[event.task.name] = event.value
            elif event.kind == "failed":
                if isinstance(event.value, InterruptedRunError):
                    raise event.value
                failed[event.task.name] = event.value
            on_event(event)
    finally:
        events.close()
    if failed:
        raise _one_error(failed, len(tasks))
    return results


def _events(
    tasks: Sequence[Task],
    place: Place,
    shared: Mapping[str, Any],
    folder: Path | None,
    on_event: Callable[[Event], None],
) -> Generator[Event, None, None]:
    if place.in_turn:
        return _in_turn(tasks, shared, on_event)
    if place.ray is not None:
        from bitskip.jobs.cluster import on_cluster

        return on_cluster(tasks, place, shared, folder)
    from bitskip.jobs.processes import in_processes

    return in_processes(tasks, place, shared)


def _in_turn(
    tasks: Sequence[Task], shared: Mapping[str, Any], on_event: Callable[[Event], None]
) -> Generator[Event, None, None]:
    for task in tasks:
        yield Event(task, "begun")

        def report(value: Any, task: Task = task) -> None:
            on_event(Event(task, "progress", value))

        try:
            result = task.call(*task.arguments, **shared, report=report)
        except Exception as error:
            yield Event(task, "failed", error)
        else:
            yield Event(task, "done", result)


def _one_error(failed: Mapping[str, BaseException], count: int) -> BaseException:
    """Return what to raise: the exception itself if all are one, else a sentence that names each."""
    errors = list(failed.values())
    if not all(isinstance(error, BitskipError) for error in errors):  # a bug: its traceback is what helps
        return next(error for error in errors if not isinstance(error, BitskipError))
    if len({(type(error), str(error)) for error in errors}) == 1 and len(errors) in (1, count):
        return errors[0]
    said = "; ".join(f"{name}: {error}" for name, error in failed.items())
    return RunError(f"{len(failed)} of {count} did not end, the others are done: {said}")
