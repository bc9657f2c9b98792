"""A peer's engine in a process of its own, driven over stdin and stdout: the parent's side of worker.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bitskip.bench import worker
from bitskip.errors import RunError


class Worker:
    """A process in which one engine runs one network; its `time` is a Timer.

    Args:
        engine: a key of `worker.LOADERS`.
        file: the network.
        threads: of the engine.
        python: interpreter of the environment that has the engine.
        patience: seconds to wait for an answer beyond those asked for.
        processor: time what its process computes, not what passes.
        options: for the loader.

    Raises:
        RunError: if the engine cannot be imported or cannot load the file, saying why.
    """

    def __init__(
        self,
        engine: str,
        file: Path,
        threads: int = 1,
        python: str = sys.executable,
        patience: float = 300.0,
        processor: bool = False,
        **options: Any,
    ) -> None:
        self.engine, self.patience, self.processor = engine, patience, processor
        # Pools of OpenMP and the BLAS larger than asked for would take turns with the other engines.
        quiet = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # what it says before it dies
        try:
            self._process = subprocess.Popen(
                [python, "-P", worker.__file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                env={**os.environ, **quiet, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise RunError(f"{engine}: cannot start {python}: {error.strerror or error}") from None
        try:
            hello = self._ask({"engine": engine, "file": str(file), "threads": threads, **options}, patience)
        except BaseException:
            self.close()
            raise
        self.version: str = hello["version"]

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        watch = threading.Timer(seconds, stop)
        watch.start()
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line and late.is_set():
            raise RunError(f"{self.engine} gave no answer within {seconds:g} s and was stopped")
        if not line:
            raise RunError(f"{self.engine} ended without an answer: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunError(f"{self.engine} does not run here: {' '.join(answer['error'].split())}")
        return answer

    def _last_words(self) -> str:
        code = self._process.wait(timeout=10)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"exit code {code}, {said}"

    def time(self, seconds: float) -> list[float]:
        """Return the milliseconds of calls made for `seconds`."""
        asked = {"seconds": seconds, "processor": self.processor}
        samples: list[float] = self._ask(asked, seconds + self.patience)["ms"]
        return samples

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
