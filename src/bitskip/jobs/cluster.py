"""Tasks on a Ray cluster (the optional extra `ray`).

Every task is a Ray task; Ray starts it again elsewhere if its machine or its process is lost. The tasks write
below one folder, which every machine must see under the same path; a task looks for a token there first.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitskip.errors import RunError, in_one_line
from bitskip.jobs.place import Place
from bitskip.jobs.task import RETRIES, Event, EventKind, Task

_ANSWER_SECONDS = 10.0  # for a machine to take a connection


def on_cluster(
    tasks: Sequence[Task], place: Place, shared: Mapping[str, Any], folder: Path | None
) -> Generator[Event, None, None]:
    """Yield what happens to `tasks` on the cluster at `place.ray`; closing the generator cancels them.

    Raises:
        RunError: if Ray is missing, the cluster cannot be reached, or a machine does not see `folder`.
    """
    ray = _connect(place)
    token = None if folder is None else folder / f".bitskip-{uuid.uuid4().hex}"
    said = ray.remote(num_cpus=0)(_Said).remote()
    running: dict[Any, Task] = {}
    try:
        if token is not None:
            token.touch()
        common = ray.put(dict(shared))
        gpus = float(ray.cluster_resources().get("GPU", 0))
        work = ray.remote(
            num_cpus=place.threads or 1,
            num_gpus=min(1.0, gpus / place.jobs) if gpus else 0,
            max_retries=RETRIES,
            retry_exceptions=False,
        )(_work)
        seen = None if token is None else str(token.resolve())
        running = {work.remote(index, task, common, said, seen): task for index, task in enumerate(tasks)}
        begun: set[int] = set()
        while running:
            ready, _ = ray.wait(list(running), timeout=0.2)
            for index, kind, value in ray.get(said.take.remote()):
                if kind == "begun" and index in begun:
                    yield Event(tasks[index], "lost", "its process or its machine was lost")
                begun.add(index)
                yield Event(tasks[index], kind, value)
            for reference in ready:
                task = running.pop(reference)
                yield _end(ray, reference, task)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.kill(said)
        ray.shutdown()
        if token is not None:
            token.unlink(missing_ok=True)


def _connect(place: Place) -> Any:
    try:
        import ray
    except ImportError:
        raise RunError(
            "--ray needs the package ray, which is not installed; run pip install 'bitskip[ray]'"
        ) from None
    try:
        ray.init(address=place.ray, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError or its own types
        raise _no_cluster(place.ray, in_one_line(error, 200)) from None
    return ray


def check_address(address: str) -> None:
    """Raise RunError unless somebody listens at `host:port`: Ray itself would try for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # a name that only Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str | None, why: str) -> RunError:
    return RunError(
        f"no Ray cluster answers at '{address}' ({why}); start one with `ray start --head` and name its "
        "address, or leave out --ray"
    )


def _end(ray: Any, reference: Any, task: Task) -> Event:
    try:
        return Event(task, "done", ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):  # before the task began: it could not be loaded
            reason = str(error.cause).strip().splitlines()[-1][:200]
            return Event(
                task,
                "failed",
                RunError(
                    f"a machine of the cluster cannot load it ({reason}); install the same bitskip on every "
                    "machine"
                ),
            )
        cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        return Event(task, "failed", cause)
    except ray.exceptions.RayError as error:
        reason = in_one_line(error, 200)
        return Event(task, "failed", RunError(f"lost {RETRIES + 1} times on the cluster: {reason}"))


class _Said:
    """What tasks say: an actor of the cluster, which keeps the order in which each task said it."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, EventKind, Any]] = []

    def add(self, index: int, kind: EventKind, value: Any) -> None:
        self.messages.append((index, kind, value))

    def take(self) -> list[tuple[int, EventKind, Any]]:
        taken, self.messages = self.messages, []
        return taken


def _work(index: int, task: Task, shared: dict[str, Any], said: Any, token: str | None) -> Any:
    """Run one task; on a machine of the cluster.

    What it says it does not wait for: Ray takes a task that waits for idle, and starts another beside it.
    """
    import ray

    if token is not None and not os.path.exists(token):  # noqa: PTH110 (a path of another machine)
        raise RunError(
            f"{socket.gethostname()} does not see {os.path.dirname(token)}; "  # noqa: PTH120
            "put the folder where every machine of the cluster sees it"
        )
    last = said.add.remote(index, "begun", None)

    def report(value: Any) -> None:
        nonlocal last
        last = said.add.remote(index, "progress", value)

    result = task.call(*task.arguments, **shared, report=report)
    ray.get(last)  # so that everything is said before it is done
    return result
