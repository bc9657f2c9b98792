"""A loaded model in forks, spawns, copies and threads; Ctrl-C; an interpreter that ends under a thread."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitskip.backends.native import NativeProgram
from bitskip.errors import BitskipError
from bitskip.runtime import Model
from programs import every_op

PROGRAM = every_op()
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_child(work: object) -> int:
    """Run `work()` in a forked child and return its exit status: 0 if it returned True within 20 s."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        status = 3
        try:
            status = 0 if work() else 4  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_forked_child_predicts(threads: int) -> None:
    model = Model(PROGRAM, threads=threads)
    expected = model.predict(IMAGES)
    assert in_child(lambda: np.array_equal(model.predict(IMAGES), expected)) == 0
    np.testing.assert_array_equal(model.predict(IMAGES), expected)  # and so does the parent, as before


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_a_thread_predicts() -> None:
    model = Model(PROGRAM, threads=2)
    expected = model.predict(IMAGES)
    many = np.repeat(IMAGES, 2000, axis=0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(model.predict, many)
        assert in_child(lambda: np.array_equal(model.predict(IMAGES), expected)) == 0
        np.testing.assert_array_equal(running.result()[:9], np.repeat(expected, 2000, axis=0)[:9])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_can_let_go_of_the_model_and_profile() -> None:
    engines = [NativeProgram(PROGRAM, threads=2)]
    engines[0].run(IMAGES)

    def drop() -> bool:
        engines.clear()
        return True

    assert in_child(drop) == 0
    assert in_child(lambda: engines[0].profile(IMAGES[:1], 2).shape == (2, len(PROGRAM.ops))) == 0


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )


@needs_fork
def test_a_forked_child_that_ends_as_programs_do() -> None:
    code = """
import os, sys, signal
import numpy as np
from programs import every_op
from bitskip.runtime import Model
model = Model(every_op(), threads=2)
images = np.zeros((4, 6, 5, 3), np.uint8)
expected = model.predict(images)
if (child := os.fork()) == 0:
    signal.alarm(20)
    if len(sys.argv) > 1:
        assert np.array_equal(model.predict(images), expected)
    sys.exit(7)  # destroys the model
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    for words in ((), ("predict",)):
        ran = run_python("import warnings; warnings.simplefilter('ignore')\n" + code, *words)
        assert (ran.stdout, ran.stderr) == ("7\n", "")


def _predict(model: Model) -> npt.NDArray[np.float32]:
    return model.predict(IMAGES)


def test_a_spawned_process_takes_a_model() -> None:
    model = Model(PROGRAM, threads=2)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(_predict, model).result(), model.predict(IMAGES))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_copies_predict(again: object, engine: str) -> None:
    model = Model(PROGRAM, threads=2, engine=engine)
    other = again(model)  # type: ignore[operator]
    assert other is not model
    assert (other.engine, other.class_names) == (model.engine, model.class_names)
    np.testing.assert_array_equal(other.predict(IMAGES), model.predict(IMAGES))


def test_threads_predict_at_once() -> None:
    model = Model(PROGRAM, threads=2)
    expected = model.predict(IMAGES)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(model.predict, [IMAGES] * 60):
            np.testing.assert_array_equal(found, expected)


def test_long_batches_go_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = NativeProgram(PROGRAM, threads=2)
    expected = engine.run(IMAGES)
    monkeypatch.setattr("bitskip.backends.native._TURN_SECONDS", 1e-9)  # so two pictures a turn
    engine._turn = 2
    np.testing.assert_array_equal(engine.run(IMAGES), expected)
    assert engine._turn == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_stops_a_long_predict_within_a_second() -> None:
    code = """
import numpy as np
from bitskip.runtime import load
from bitskip.zoo import model_path
model = load(model_path("resnet14-binary-all-int8"), threads=2)
images = np.zeros((50_000, 32, 32, 3), np.uint8)  # half a minute or more
print("ready", flush=True)
try:
    model.predict(images)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(1)
    sent = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "interrupted\n"
    waited = time.monotonic() - sent
    child.wait(20)
    child.stdout.close()
    assert waited < 1


def test_the_interpreter_may_end_while_a_thread_predicts() -> None:
    code = """
import threading, time
import numpy as np
from programs import every_op
from bitskip.runtime import Model
model = Model(every_op(), threads=2)
images = np.zeros((200_000, 6, 5, 3), np.uint8)
for _ in range(3):
    threading.Thread(target=lambda: [model.predict(images) for _ in range(100)], daemon=True).start()
atexit.register(lambda: print(model.predict(images[:1]).shape))
time.sleep(0.3)
"""
    for imports in ("import atexit", "import atexit, bitskip.backends.native"):
        ran = run_python(imports + code)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "(1, 4)\n", "")


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(BitskipError("a sentence")))
    assert str(error) == "a sentence"
