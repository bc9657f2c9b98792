"""Each packed model of the zoo as ONNX in each engine, against the native runtime on the whole test set.

    python benchmarks/export_matrix.py --data FOLDER --out results/export/onnx.json --page docs/onnx.md

A row is a network, the rounding it was written with, and an engine: top-1 of both, the share of pictures with
the same top-1, the largest and the mean difference of a logit. The file is written after every row, so what
was measured stays if the run is stopped; rows that it has are not measured again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends.onnx.target import model_of
from bitskip.data import load_images
from bitskip.files import write_json, write_text
from bitskip.machine import machine
from bitskip.program import Program
from bitskip.runtime import Model
from bitskip.zoo import model_path, zoo_names

BATCH = 100
PACKAGES = ("onnx", "onnxruntime", "openvino", "numpy")


def onnxruntime_engine(content: bytes) -> Callable[[Any], Any]:
    """Return what runs the graph in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"picture": x})[0]


def openvino_engine(content: bytes) -> Callable[[Any], Any]:
    """Return what runs the graph in OpenVINO, on one thread, real layers in float32."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: request.infer({0: x})[0].copy()


ENGINES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}


def measure(run: Callable[[Any], Any], x: Any, y: Any, expected: Any) -> dict[str, Any]:
    """Return a row's figures: pictures `x`, labels `y`, the native runtime's logits `expected`."""
    logits = np.concatenate([run(np.ascontiguousarray(x[at : at + BATCH])) for at in range(0, len(x), BATCH)])
    difference = np.abs(logits - expected)
    return {
        "pictures": len(x),
        "top1": float((logits.argmax(1) == y).mean()),
        "native_top1": float((expected.argmax(1) == y).mean()),
        "same_top1": float((logits.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of docs/onnx.md."""
    lines = [
        "| network | rounding | engine | bytes | top-1 | packed | same top-1 | largest difference |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['rounding']} | {row['engine']} | {row['bytes']:,} | {row['top1']:.2%} "
            f"| {row['native_top1']:.2%} | {row['same_top1']:.2%} | {row['largest_difference']:.3f} |"
        )
    return "\n".join(lines)


def write_table(page: Path, rows: list[dict[str, Any]]) -> None:
    """Put the table between the marks of `page`."""
    before, _, rest = page.read_text().partition("<!-- matrix -->\n")
    _, _, after = rest.partition("<!-- end -->")
    write_text(page, f"{before}<!-- matrix -->\n{table(rows)}\n<!-- end -->{after}")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="as `bitskip eval --data`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(zoo_names()))
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--rounding", nargs="*", default=["auto"])
    parser.add_argument("--page", type=Path, help="page that gets the table, docs/onnx.md")
    asked = parser.parse_args()
    images = load_images(asked.data)
    x, y = images.test_images, images.test_labels
    values: dict[str, Any] = {"data": images.name, "machine": machine(), "versions": {}, "rows": []}
    if asked.out.is_file():
        values = json.loads(asked.out.read_text())
    values["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    done = {(row["model"], row["rounding"], row["engine"]) for row in values["rows"]}
    for name in asked.models:
        program = Program.load(model_path(name))
        expected = None
        real = (x / np.float32(255) - np.float32(program.mean)) / np.float32(program.std)
        real = real.transpose(0, 3, 1, 2)
        for rounding in asked.rounding:
            content = model_of(program, rounding=rounding)[0].SerializeToString()
            for engine in asked.engines:
                if (name, rounding, engine) in done:
                    continue
                if expected is None:
                    expected = Model(program).predict(x)
                row = measure(ENGINES[engine](content), real.astype(np.float32), y, expected)
                packed = Path(model_path(name)).stat().st_size
                values["rows"].append(
                    {"model": name, "to": "onnx", "rounding": rounding, "engine": engine,
                     "bytes": len(content), "packed_bytes": packed, **row}
                )  # fmt: skip
                write_json(asked.out, values)
                print(values["rows"][-1], flush=True)  # noqa: T201
    if asked.page is not None:
        write_table(asked.page, values["rows"])


if __name__ == "__main__":
    main()
