"""Each packed model of the zoo as ONNX and QONNX in each engine, against the native runtime on the test set.

    python benchmarks/export_matrix.py --data FOLDER --out results/export/onnx.json --page docs/onnx.md

A row is a network, the form and rounding it was written with, and an engine: top-1 of both, the share of
pictures with the same top-1, the largest and the mean difference of a logit. The executor of qonnx is for
checking, not for speed: it sees the first pictures of the test set alone. The file is written after every
row, so what was measured stays if the run is stopped; rows that it has, of as many
pictures, are not measured again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.backends.onnx.qonnx_target import qonnx_model_of
from bitskip.backends.onnx.target import model_of
from bitskip.data import load_images
from bitskip.files import write_json, write_text
from bitskip.machine import machine
from bitskip.program import Program
from bitskip.runtime import Model
from bitskip.zoo import model_path, zoo_names

BATCH = 100
PACKAGES = ("onnx", "onnxruntime", "openvino", "qonnx", "numpy")


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


def qonnx_engine(content: bytes) -> Callable[[Any], Any]:
    """Return what runs the graph in qonnx's executor, node by node."""
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    @cache
    def model_for(count: int) -> Any:
        model = ModelWrapper(onnx.load_from_string(content)).transform(ChangeBatchSize(count))
        return model.transform(InferShapes()).transform(InferDataTypes())

    def run(x: Any) -> Any:
        model = model_for(len(x))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (logits,) = execute_onnx(model, {"picture": x}).values()
        return np.asarray(logits, np.float32)

    return run


# form, engine: what runs it
CELLS = {
    ("onnx", "onnxruntime"): onnxruntime_engine,
    ("onnx", "openvino"): openvino_engine,
    ("qonnx", "qonnx"): qonnx_engine,
}


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


def written(program: Program, form: str, rounding: str) -> bytes:
    """Return the graph of `program`."""
    model = (
        model_of(program, rounding=rounding)
        if form == "onnx"
        else qonnx_model_of(program, pictures="pixels", rounding=rounding)
    )
    content: bytes = model[0].SerializeToString(deterministic=True)
    return content


def rows_of(values: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the rows of a results file by what they are of."""
    return {(row["model"], row["to"], row["rounding"], row["engine"]): row for row in values["rows"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of docs/onnx.md."""
    lines = [
        "| network | form | rounding | engine | pictures | bytes | top-1 | packed | same top-1 | largest "
        "| mean difference |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['to']} | {row['rounding']} | {row['engine']} | {row['pictures']:,} "
            f"| {row['bytes']:,} | {row['top1']:.2%} | {row['native_top1']:.2%} | {row['same_top1']:.2%} "
            f"| {row['largest_difference']:.4f} | {row['mean_difference']:.5f} |"
        )
    return "\n".join(lines)


def write_between(page: Path, mark: str, text: str) -> None:
    """Put `text` between the mark of that name and the next end mark of `page`."""
    before, found, rest = page.read_text().partition(f"<!-- {mark} -->\n")
    if not found:
        raise SystemExit(f"{page} has no <!-- {mark} -->")
    _, _, after = rest.partition("<!-- end -->")
    write_text(page, f"{before}<!-- {mark} -->\n{text}\n<!-- end -->{after}")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="as `bitskip eval --data`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(zoo_names()))
    parser.add_argument("--engines", nargs="*", default=[engine for _, engine in CELLS])
    parser.add_argument("--rounding", nargs="*", default=["auto"], choices=("auto", "exact"))
    parser.add_argument("--pictures", type=int, help="so many of the test set, for every engine")
    parser.add_argument("--qonnx-pictures", type=int, default=1000, help="so many for qonnx's executor")
    parser.add_argument("--page", type=Path, help="page that gets the tables, docs/onnx.md")
    asked = parser.parse_args()
    images = load_images(asked.data)
    x, y = images.test_images[: asked.pictures], images.test_labels[: asked.pictures]
    values: dict[str, Any] = {
        "data": images.name,
        "machine": machine(),
        "versions": {},
        "rows": [],
    }
    if asked.out.is_file():
        values |= json.loads(asked.out.read_text())
    values["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    rows = rows_of(values)
    for name in asked.models:
        program = Program.load(model_path(name))
        expected = None
        real = (x / np.float32(255) - np.float32(program.mean)) / np.float32(program.std)
        real = np.ascontiguousarray(real.transpose(0, 3, 1, 2).astype(np.float32))
        for form, engine in CELLS:
            if engine not in asked.engines:
                continue
            for rounding in asked.rounding:
                key = (name, form, rounding, engine)
                few = {"qonnx": asked.qonnx_pictures}
                count = min(len(x), few.get(engine, len(x)))
                if key in rows and rows[key]["pictures"] >= count:
                    continue
                if expected is None:
                    expected = Model(program).predict(x)
                content = written(program, form, rounding)
                given = x if form == "qonnx" else real
                row = measure(CELLS[form, engine](content), given[:count], y[:count], expected[:count])
                packed = Path(model_path(name)).stat().st_size
                rows[key] = {"model": name, "to": form, "rounding": rounding, "engine": engine,
                             "bytes": len(content), "packed_bytes": packed, **row}  # fmt: skip
                if asked.out.is_file():  # another run may have written since
                    rows = rows_of(json.loads(asked.out.read_text())) | {key: rows[key]}
                write_json(asked.out, {**values, "rows": [rows[key] for key in sorted(rows)]})
                print(rows[key], flush=True)  # noqa: T201
    if asked.page is not None:
        write_between(asked.page, "matrix", table([rows[key] for key in sorted(rows)]))


if __name__ == "__main__":
    main()
