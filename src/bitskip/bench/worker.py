"""The engines of others, one loader each, and the process that times one of them.

This file needs the standard library, numpy and the engine alone: run by its path, it serves in an environment
that has no bitskip. It speaks one JSON line an answer over stdin and stdout:

    {"engine": "onnxruntime", "file": "net.onnx", "threads": 1}   -> {"version": ..., "input": [1, 3, 32, 32]}
    {"seconds": 0.2, "processor": false}                          -> {"ms": [...]}

or `{"error": ...}`; the end of stdin ends it. The clock runs in here, around the engine's Python call, so the
answers are as good as those of an engine in the parent's process.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Loaded(NamedTuple):
    """A network ready to run: what it takes and how it is called."""

    shape: tuple[int, ...]  # of the input, batch first
    dtype: Any
    run: Callable[[Array], Array]  # input to logits
    version: str  # of the engine


def time_calls(call: Callable[[], object], seconds: float, processor: bool = False) -> list[float]:
    """Return the milliseconds of calls made for `seconds` after a warm-up, at least one.

    `processor`: what the process computed in them, on all its threads; waiting does not stretch that.
    """
    clock = time.process_time if processor else time.perf_counter
    call()
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not samples:
        start = clock()
        call()
        samples.append((clock() - start) * 1e3)
    return samples


def _onnxruntime(file: str, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(x: Array) -> Array:
        logits: Array = session.run(None, {given.name: x})[0]
        return logits

    return Loaded(tuple(given.shape), np.float32, run, onnxruntime.__version__)


def _openvino(file: str, threads: int, precision: str | None = "f32") -> Loaded:
    import openvino

    how: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if precision:
        how["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(file, "CPU", how)
    request = compiled.create_infer_request()

    def run(x: Array) -> Array:
        logits: Array = request.infer({0: x}, share_inputs=True)[0]
        return logits

    return Loaded(tuple(compiled.input(0).shape), np.float32, run, importlib.metadata.version("openvino"))


def _litert(file: str, threads: int) -> Loaded:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=file, num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Array) -> Array:
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        logits: Array = interpreter.get_tensor(made["index"])
        return logits

    version = importlib.metadata.version("ai-edge-litert")
    return Loaded(tuple(int(n) for n in given["shape"]), given["dtype"], run, version)


def _lce(file: str, threads: int, indirect: bool = False) -> Loaded:
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    model = Interpreter(
        Path(file).read_bytes(), num_threads=threads, use_xnnpack=True, use_indirect_bgemm=indirect
    )

    def run(x: Array) -> Array:
        logits: Array = model.interpreter.predict([x])[0]
        return logits

    version = importlib.metadata.version("larq-compute-engine")
    return Loaded(tuple(model.input_shapes[0]), model.input_types[0], run, version)


def _pytorch(file: str, threads: int) -> Loaded:
    import torch

    torch.set_num_threads(threads)
    extra: dict[str, Any] = {"shape": ""}  # as `bitskip.bench.export` wrote it
    read: Any = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.export is to replace it; the file is ours
        model = torch.jit.freeze(read(file, _extra_files=extra).eval())
    shape = tuple(int(n) for n in extra["shape"].split(b","))

    def run(x: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(x)).numpy()
        return logits

    return Loaded(shape, np.float32, run, torch.__version__)


LOADERS: dict[str, Callable[..., Loaded]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "lce": _lce,
    "pytorch": _pytorch,
}


def load(engine: str, file: str, threads: int, **options: Any) -> Loaded:
    """Load a network into an engine; raises whatever the engine raises."""
    return LOADERS[engine](file, threads, **options)


def random_input(loaded: Loaded) -> Array:
    """Return pictures as the network takes them: normal floats, or any integers."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(loaded.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(loaded.shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, loaded.shape, dtype, endpoint=True)


def serve() -> None:
    """Answer the questions on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not stand among the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        loaded = load(**json.loads(sys.stdin.readline()))
        x = random_input(loaded)
        logits = loaded.run(x)
    except Exception as error:  # whatever it is, the parent reports it
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(version=loaded.version, input=list(loaded.shape), output=list(logits.shape))
    for line in sys.stdin:
        asked = json.loads(line)
        answer(ms=time_calls(lambda: loaded.run(x), asked["seconds"], asked.get("processor", False)))


if __name__ == "__main__":
    serve()
