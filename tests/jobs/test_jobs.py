"""Tasks in turn, in processes and on a cluster end with the same results and the same errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tasks as work  # type: ignore[import-not-found]

from bitskip.errors import DataError, RunError
from bitskip.jobs import Event, Place, Task, read_place, run_tasks

PLACES = [Place(), Place(jobs=2, threads=1)]


@pytest.mark.parametrize("place", PLACES)
def test_results_come_by_name_and_progress_is_seen(place: Place) -> None:
    events: list[Event] = []
    tasks = [Task(f"t{value}", work.double, (value,)) for value in range(5)]
    found = run_tasks(tasks, place=place, shared={"offset": 100}, on_event=events.append)
    assert found == {f"t{value}": 2 * value + 100 for value in range(5)}
    for task in tasks:
        said = [(event.kind, event.value) for event in events if event.task.name == task.name]
        value = task.arguments[0]
        assert said == [("begun", None), ("progress", {"half": value / 2}), ("done", 2 * value + 100)]


@pytest.mark.parametrize("place", PLACES)
def test_one_failure_does_not_stop_the_others_and_keeps_its_kind(place: Place) -> None:
    events: list[Event] = []
    tasks = [Task(f"t{value}", work.fail_on, (value, 1)) for value in range(4)]
    with pytest.raises(DataError, match="1 is not what was expected"):
        run_tasks(tasks, place=place, shared={"offset": 0}, on_event=events.append)
    assert sorted(e.task.name for e in events if e.kind == "done") == ["t0", "t2", "t3"]


@pytest.mark.parametrize("place", PLACES)
def test_several_failures_are_one_sentence_that_names_them(place: Place) -> None:
    tasks = [Task(f"t{value}", work.fail_on, (value, value)) for value in range(2)]
    tasks.append(Task("good", work.double, (1,)))
    with pytest.raises(RunError, match="2 of 3 did not end, the others are done") as caught:
        run_tasks(tasks, place=place, shared={"offset": 0})
    assert "t0: 0 is not what" in str(caught.value)
    assert "t1: 1 is not what" in str(caught.value)


def test_a_killed_process_has_its_task_taken_up_again(tmp_path: Path) -> None:
    events: list[Event] = []
    tasks = [Task("dies", work.die_until, (str(tmp_path), 2)), Task("good", work.double, (1,))]
    found = run_tasks(tasks, place=Place(jobs=2), shared={"offset": 0}, on_event=events.append)
    assert found == {"dies": 3, "good": 2}
    assert [event.kind for event in events if event.task.name == "dies"] == [
        "begun", "lost", "begun", "lost", "begun", "done",
    ]  # fmt: skip


def test_a_task_that_always_kills_its_process_is_named(tmp_path: Path) -> None:
    tasks = [Task("dies", work.die_until, (str(tmp_path), 99)), Task("good", work.double, (1,))]
    done: dict[str, Any] = {}
    with pytest.raises(RunError, match="ended with code -9, 3 times"):
        run_tasks(
            tasks,
            place=Place(jobs=2),
            shared={"offset": 0},
            on_event=lambda e: done.update({e.task.name: e.value}) if e.kind == "done" else None,
        )
    assert done == {"good": 2}


def test_each_process_has_the_threads_it_was_given() -> None:
    tasks = [Task(str(i), work.surroundings) for i in range(2)]
    found = run_tasks(tasks, place=Place(jobs=2, threads=3), shared={"offset": 0})
    assert {threads for _, threads in found.values()} == {"3"}
    assert len({process for process, _ in found.values()}) == 2


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5"])
def test_bad_numbers_of_jobs_are_one_sentence(jobs: str) -> None:
    with pytest.raises(RunError, match=f"--jobs is '{jobs}', expected auto or a whole number"):
        read_place(jobs, None, small=True)


def test_a_cluster_that_does_not_answer_is_one_sentence_before_anything_is_written(
    bitskip: Any, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        read_place("auto", "127.0.0.1:1", small=True)
    ran = bitskip("study", "--data", "mini", "--ray", "127.0.0.1:1", "--out", str(tmp_path / "study"))
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert not (tmp_path / "study").exists()


def test_auto_fills_gpus_and_gives_small_networks_a_core_each() -> None:
    assert read_place("auto", None, small=False).jobs == 1
    assert read_place("auto", None, small=False, gpus=2).jobs == 12
    small = read_place("auto", None, small=True)
    assert small.jobs >= 1
    assert small.threads in (None, 1)


def test_gpus_are_dealt_out_in_turns() -> None:
    place = Place(jobs=4, gpus=2)
    assert [place.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0", "1", "0", "1"]
