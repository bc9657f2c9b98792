"""Tasks on a local Ray cluster of two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tasks as work  # type: ignore[import-not-found]

from bitskip.errors import DataError, RunError
from bitskip.jobs import Event, Place, Task, read_place, run_tasks

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [
    pytest.mark.slow,  # a cluster takes half a minute to start and stop
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start two nodes of one processor each, and yield the cluster's address."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(work.__file__).parent))  # where workers find `tasks`
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_results_and_progress_come_back_from_two_nodes(address: str, tmp_path: Path) -> None:
    events: list[Event] = []
    tasks = [Task(f"t{value}", work.double, (value,)) for value in range(4)]
    found = run_tasks(
        tasks, place=Place(jobs=2, ray=address), shared={"offset": 7}, folder=tmp_path, on_event=events.append
    )
    assert found == {f"t{value}": 2 * value + 7 for value in range(4)}
    assert {e.task.name for e in events if e.kind == "begun"} == set(found)
    assert list(tmp_path.iterdir()) == []


def test_no_more_tasks_run_than_there_are_processors(address: str, tmp_path: Path) -> None:
    events: list[Event] = []
    tasks = [Task(f"t{number}", work.take_a_while, (number,)) for number in range(6)]
    place = Place(jobs=2, ray=address)
    found = run_tasks(tasks, place=place, shared={"offset": 0}, folder=tmp_path, on_event=events.append)
    times = list(found.values())
    at_once = [sum(begun <= moment < ended for begun, ended in times) for moment, _ in times]
    assert max(at_once) <= 2  # one on each node, though all of them report
    for task in tasks:
        said = [event for event in events if event.task == task]
        assert [event.kind for event in said] == ["begun", *10 * ["progress"], "done"]
        assert [event.value for event in said[1:-1]] == list(range(10))


def test_a_killed_task_is_taken_up_again_and_a_failed_one_is_named(address: str, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    tasks = [Task("dies", work.die_until, (str(tries), 1)), Task("bad", work.fail_on, (3, 3))]
    done: dict[str, object] = {}
    with pytest.raises(DataError, match="3 is not what was expected"):
        run_tasks(
            tasks,
            place=Place(jobs=2, ray=address),
            shared={"offset": 0},
            folder=tmp_path,
            on_event=lambda e: done.update({e.task.name: e.value}) if e.kind == "done" else None,
        )
    assert done == {"dies": 2}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_answers_is_one_sentence(address: str) -> None:
    with pytest.raises(RunError, match=r"no Ray cluster answers at '.*127\.0\.0\.1:.*ray start --head"):
        read_place("auto", address, small=True)


def test_what_a_machine_cannot_load_is_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def call(*, report):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(RunError, match="cannot load it .*only_here.*install the same bitskip"):
        run_tasks([Task("t", only_here.call)], place=Place(ray=address), folder=tmp_path)
