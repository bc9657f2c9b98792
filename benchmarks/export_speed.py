"""What 1-bit weights as bits cost in ONNX Runtime, and what one scale for a sum and its residual gives.

    python benchmarks/export_speed.py --data FOLDER --out results/export/speed.json --page docs/onnx.md

`weights`: bytes and processor milliseconds of one picture with weights as bits, int8 and fp32, in turns.
`scales`: the same network read back by `bitskip import --shared-scales`: its top-1, ONNX Runtime's agreement
with it and milliseconds, beside those of the network as it is packed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from export_matrix import measure, onnxruntime_engine, write_between

from bitskip.backends.onnx.target import model_of
from bitskip.data import load_images
from bitskip.files import write_json
from bitskip.lower.from_onnx import import_onnx
from bitskip.machine import machine
from bitskip.program import Program
from bitskip.runtime import Model
from bitskip.zoo import model_path

WEIGHTS_OF = "resnet14-binary-all-int8"  # the 371 KB network
MODELS = ("resnet14-binary-all-x0.25-int8", "resnet14-binary-all-int8", "resnet14-hybrid-all-int8")
ROUNDS = 40  # of timing, one call of each in turn


def normalised(program: Program, x: Any) -> Any:
    """Return pictures uint8 (N, H, W, C) as float32 (N, C, H, W)."""
    real = (x / np.float32(255) - np.float32(program.mean)) / np.float32(program.std)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2).astype(np.float32))


def in_turns(contents: dict[str, bytes], picture: Any) -> dict[str, dict[str, float]]:
    """Return milliseconds of one picture on one thread by name: median and least of the rounds."""
    runs = {name: onnxruntime_engine(content) for name, content in contents.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()
            run(picture)
            times[name].append((time.process_time() - start) * 1e3)
    return {name: {"median_ms": statistics.median(t), "least_ms": min(t)} for name, t in times.items()}


def weights(picture: Any) -> list[dict[str, Any]]:
    """Return a row for each form of the weights and each rounding."""
    program = Program.load(model_path(WEIGHTS_OF))
    forms = [(form, how) for how in ("auto", "fused") for form in ("bits", "int8")] + [("fp32", "auto")]
    contents = {
        f"{form} {how}": model_of(program, weights=form, rounding=how)[0].SerializeToString()
        for form, how in forms
    }
    times = in_turns(contents, normalised(program, picture))
    return [
        {"weights": form, "rounding": how, "bytes": len(contents[name]), **times[name]}
        for (form, how), name in zip(forms, contents, strict=True)
    ]


def with_shared_scales(program: Program) -> Program:
    """Return `program` as `export` and `import --shared-scales` bring it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(model_of(program, rounding="exact")[0], path)
        return import_onnx(path, shared_scales=True)[0]


def scales(name: str, x: Any, y: Any) -> dict[str, Any]:
    """Return a network's figures with scales of its own and with shared ones."""
    own = Program.load(model_path(name))
    programs = {"own": own, "shared": with_shared_scales(own)}
    contents = {
        f"{which} {how}": model_of(program, rounding=how)[0].SerializeToString()
        for which, program in programs.items()
        for how in ("auto", "fused")
    }
    times = in_turns(contents, normalised(own, x[:1]))
    row: dict[str, Any] = {"model": name, "pictures": len(x)}
    for which, program in programs.items():
        logits = Model(program).predict(x)
        figures = measure(onnxruntime_engine(contents[f"{which} auto"]), normalised(own, x), y, logits)
        row[which] = figures | {how: times[f"{which} {how}"] for how in ("auto", "fused")}
    return row


def page(values: dict[str, Any]) -> str:
    """Return both tables."""
    least = {(row["weights"], row["rounding"]): row["least_ms"] for row in values["weights"]}
    lines = [
        f"{WEIGHTS_OF}, ONNX Runtime, one picture, one thread, {ROUNDS} rounds in turns, the least processor "
        f"time of each ({values['machine']['cpu']}):",
        "",
        "| weights | rounding | bytes | ms | beside int8 |",
        "|---|---|--:|--:|--:|",
    ]
    for row in values["weights"]:
        beside = least["int8", row["rounding"]]
        lines.append(
            f"| {row['weights']} | {row['rounding']} | {row['bytes']:,} | {row['least_ms']:.2f} "
            f"| {row['least_ms'] / beside:.3f} |"
        )
    lines += [
        "",
        "With scales of its own, and with `--shared-scales`; top-1 of the packed model, and ONNX Runtime's "
        "same top-1 with it, by `auto`:",
        "",
        "| network | scales | pictures | top-1 | same top-1 | mean difference | auto, ms | fused, ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in values["scales"]:
        for which in ("own", "shared"):
            found = row[which]
            lines.append(
                f"| {row['model']} | {which} | {row['pictures']:,} | {found['native_top1']:.2%} "
                f"| {found['same_top1']:.2%} | {found['mean_difference']:.5f} "
                f"| {found['auto']['least_ms']:.2f} | {found['fused']['least_ms']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, write and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="as `bitskip eval --data`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--pictures", type=int, default=500, help="of the test set, for agreement")
    parser.add_argument("--page", type=Path, help="page that gets the tables, docs/onnx.md")
    asked = parser.parse_args()
    images = load_images(asked.data)
    x, y = images.test_images[: asked.pictures], images.test_labels[: asked.pictures]
    values: dict[str, Any] = {"machine": machine(), "weights": weights(x[:1]), "scales": []}
    for name in asked.models:
        values["scales"].append(scales(name, x, y))
        write_json(asked.out, values)
    if asked.page is not None:
        write_between(asked.page, "speed", page(values))


if __name__ == "__main__":
    main()
