"""Tasks in several processes of this machine.

Each process is spawned with its own environment, so that libraries size their thread pools by it and see
the GPU that they are dealt. It takes one task after the other. If it dies, its task goes to a new process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from bitskip.errors import RunError
from bitskip.jobs.place import Place
from bitskip.jobs.task import RETRIES, Event, Task

_context = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    slot: int
    process: Any
    pipe: Connection
    task: Task | None = None


def in_processes(
    tasks: Sequence[Task], place: Place, shared: Mapping[str, Any]
) -> Generator[Event, None, None]:
    """Yield what happens to `tasks` in `place.jobs` processes; closing the generator ends them."""
    todo = deque(tasks)
    lives = {task.name: RETRIES for task in tasks}
    content = pickle.dumps(dict(shared))
    workers = [_start(slot, place, content) for slot in range(min(place.jobs, len(tasks)))]
    try:
        for worker in workers:
            yield _give(worker, todo.popleft())
        while any(worker.task is not None for worker in workers):
            ready = wait([end for worker in workers for end in (worker.pipe, worker.process.sentinel)])
            for at, worker in enumerate(workers):
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                task = worker.task
                kind: Any
                try:
                    kind, value = worker.pipe.recv() if worker.pipe.poll() else ("dead", None)
                except (EOFError, OSError):
                    kind, value = "dead", None
                if task is None:
                    continue
                if kind == "dead":
                    worker.process.join()
                    reason = f"its process ended with code {worker.process.exitcode}"
                    workers[at] = _start(worker.slot, place, content)
                    if lives[task.name]:
                        lives[task.name] -= 1
                        yield Event(task, "lost", reason)
                        yield _give(workers[at], task)
                    else:
                        said = f"{reason}, {RETRIES + 1} times; is memory short?"
                        yield Event(task, "failed", RunError(said))
                        if todo:
                            yield _give(workers[at], todo.popleft())
                    continue
                yield Event(task, kind, value)
                if kind in ("done", "failed"):
                    worker.task = None
                    if todo:
                        yield _give(worker, todo.popleft())
    finally:
        for worker in workers:
            worker.process.kill()  # what a task has left is whole, and it goes on from there
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _start(slot: int, place: Place, content: bytes) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_work, args=(theirs, place.environment(slot), content), daemon=True)
    process.start()
    theirs.close()
    return _Worker(slot, process, ours)


def _give(worker: _Worker, task: Task) -> Event:
    worker.task = task
    with contextlib.suppress(OSError):  # it died at its start: the loop sees that
        worker.pipe.send_bytes(pickle.dumps(task))
    return Event(task, "begun")


def _work(pipe: Connection, environment: Mapping[str, str], content: bytes) -> None:
    """Serve tasks until the pipe closes; runs in a process of its own."""
    os.environ.update(environment)  # before anything that reads it is loaded
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    parent = multiprocessing.parent_process()
    assert parent is not None
    # However the parent ends, its workers end with it.
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    shared = pickle.loads(content)
    sending = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with sending:
            pipe.send((kind, value))

    while True:
        try:
            task: Task = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            result = task.call(*task.arguments, **shared, report=lambda value: send("progress", value))
        except Exception as error:
            send("failed", _portable(error))
        else:
            send("done", result)


def _portable(error: Exception) -> Exception:
    """Return `error`, or what can be sent in its place, with the place where it arose as a note."""
    import traceback

    where = "".join(traceback.format_exception(error))
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = RuntimeError(str(error))
    again.add_note(where)
    return again if isinstance(again, Exception) else RuntimeError(where)
