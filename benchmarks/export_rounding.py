"""What the roundings of `bitskip export --to onnx` agree to, layer by layer, and what each costs.

    python benchmarks/export_rounding.py --data FOLDER --out results/export/rounding.json --page docs/onnx.md

`layers`: of each int8 layer, the share of values that ONNX Runtime gives otherwise than the numpy reference,
by rounding. `speed`: milliseconds of one picture on one thread, the roundings in turns, in each engine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from export_matrix import CELLS, write_between

from bitskip.backends.onnx.target import ROUNDINGS, model_of
from bitskip.backends.reference import run_reference
from bitskip.data import load_images
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.program import Program
from bitskip.zoo import model_path

MODELS = ("resnet14-binary-all-x0.25-int8", "resnet14-binary-all-int8", "resnet14-hybrid-all-int8")
ROUNDS, CALLS = 40, 3  # of timing: rounds of each rounding in turn, calls a round


def normalised(program: Program, x: Any) -> Any:
    """Return pictures uint8 (N, H, W, C) as float32 (N, C, H, W)."""
    real = (x / np.float32(255) - np.float32(program.mean)) / np.float32(program.std)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2).astype(np.float32))


def layers(program: Program, x: Any) -> list[dict[str, Any]]:
    """Return of each layer with an int8 output its name and, by rounding, the share of values that differ."""
    import onnx
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    expected: dict[int, Any] = {}
    run_reference(program, x, observe=lambda number, values: expected.update({number: values.copy()}))
    rows: dict[int, dict[str, Any]] = {}
    for how in ROUNDINGS:
        model, converter = model_of(program, rounding=how)
        for name in converter.codes.values():
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        made = session.run(list(converter.codes.values()), {"picture": normalised(program, x)})
        for number, values in zip(converter.codes, made, strict=True):
            codes = values.transpose(0, 2, 3, 1).astype(int) - 128
            row = rows.setdefault(number, {"layer": program.tensors[number].name})
            row[how] = float((codes != expected[number]).mean())
    return list(rows.values())


def speed(program: Program, engine: str, picture: Any) -> dict[str, dict[str, float]]:
    """Return milliseconds of one picture for each rounding: median and least of the rounds."""
    runs = {
        how: CELLS["onnx", engine](model_of(program, rounding=how)[0].SerializeToString())
        for how in ROUNDINGS
    }
    times: dict[str, list[float]] = {how: [] for how in runs}
    for _ in range(ROUNDS):
        for how, run in runs.items():
            run(picture)
            start = time.perf_counter()
            for _ in range(CALLS):
                run(picture)
            times[how].append((time.perf_counter() - start) / CALLS * 1e3)
    return {how: {"median_ms": statistics.median(all_), "least_ms": min(all_)} for how, all_ in times.items()}


def page(values: dict[str, Any]) -> str:
    """Return both tables."""
    lines = [
        "Share of int8 values that ONNX Runtime gives otherwise than the packed model, on "
        f"{values['pictures']} pictures; {values['layers_of']}:",
        "",
        "| layer | " + " | ".join(ROUNDINGS) + " |",
        "|---|" + "--:|" * len(ROUNDINGS),
    ]
    for row in values["layers"]:
        lines.append(f"| {row['layer']} | " + " | ".join(f"{row[how]:.3%}" for how in ROUNDINGS) + " |")
    lines += [
        "",
        f"One picture, one thread, {ROUNDS} rounds in turns, the least of each ({values['machine']['cpu']}):",
        "",
        "| network | engine | " + " | ".join(f"{how}, ms" for how in ROUNDINGS) + " | exact / auto |",
        "|---|---|" + "--:|" * (len(ROUNDINGS) + 1),
    ]
    for row in values["speed"]:
        least = {how: row["times"][how]["least_ms"] for how in ROUNDINGS}
        lines.append(
            f"| {row['model']} | {row['engine']} | "
            + " | ".join(f"{least[how]:.2f}" for how in ROUNDINGS)
            + f" | {least['exact'] / least['auto']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="as `bitskip eval --data`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="the first is shown layer by layer")
    parser.add_argument("--pictures", type=int, default=100, help="of the test set, for the layers")
    parser.add_argument("--page", type=Path, help="page that gets the tables, docs/onnx.md")
    asked = parser.parse_args()
    x = load_images(asked.data).test_images[: asked.pictures]
    first = Program.load(model_path(asked.models[0]))
    values: dict[str, Any] = {
        "machine": machine(),
        "pictures": len(x),
        "layers_of": asked.models[0],
        "layers": layers(first, x),
        "speed": [],
    }
    for name in asked.models:
        program = Program.load(model_path(name))
        picture = normalised(program, x[:1])
        for form, engine in CELLS:
            if form == "onnx":
                values["speed"].append(
                    {"model": name, "engine": engine, "times": speed(program, engine, picture)}
                )
    write_json(asked.out, values)
    if asked.page is not None:
        write_between(asked.page, "rounding", page(values))


if __name__ == "__main__":
    main()
