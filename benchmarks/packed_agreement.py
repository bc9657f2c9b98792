"""How well packed networks agree with the torch networks that they come from, on a whole test set.

    python benchmarks/packed_agreement.py runs/hybrid runs/binary -o benchmarks/results/packed_agreement.json

For each finished run: on how many pictures torch (float32) and the packed fp32 file name the same class, and
the accuracy of each int8 form with what it loses against torch, in points.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bitskip.cli.options import read_images, say
from bitskip.data.batches import Batches, Normalisation
from bitskip.files import write_json
from bitskip.lower.run import calibration_pictures, lower_run
from bitskip.machine import machine
from bitskip.runtime import Model
from bitskip.training import load_run
from bitskip.training.hardware import versions

FORMS = (("int8", "fp32"), ("int8", "int8"))  # activations, dense layers
CALIBRATION = 512


def compare(run: Path, data: str | None) -> dict[str, Any]:
    """Return the figures of one run."""
    spec, model = load_run(run)
    images = read_images(data, spec.input_size)
    batches = Batches(images.test_images, images.test_labels, Normalisation.of(images.train_images), 500)
    with torch.inference_mode():
        trained = np.concatenate([model(pictures).argmax(1).numpy() for pictures, _ in batches])

    def classes(activations: str, dense: str) -> Any:
        calibration = calibration_pictures(images, CALIBRATION) if activations == "int8" else None
        program = lower_run(run, activations=activations, dense=dense, calibration=calibration)
        return Model(program, engine="native").predict(images.test_images).argmax(1), len(program.to_bytes())

    def right(found: Any) -> int:
        return int((found == images.test_labels).sum())

    count = len(trained)
    real, real_bytes = classes("fp32", "fp32")
    rows = []
    for activations, dense in FORMS:
        found, size = classes(activations, dense)
        lost = 100 * (right(trained) - right(found)) / count
        rows.append(
            {
                "activations": activations, "dense": dense, "correct": right(found),
                "points_lost": round(lost, 4), "file_bytes": size,
            }
        )  # fmt: skip
    return {
        "model": spec.name, "data": images.name, "images": count, "torch_correct": right(trained),
        "fp32": {
            "same_class": int((real == trained).sum()), "correct": right(real), "file_bytes": real_bytes,
        },
        "int8": rows,
    }  # fmt: skip


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    data: Annotated[str | None, typer.Option(help="As for `bitskip train`.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Compare every run and print a line each."""
    rows = []
    for run in runs:
        row = compare(run, data)
        rows.append(row)
        lost = ", ".join(f"{r['activations']}/{r['dense']} {r['points_lost']:+.2f}" for r in row["int8"])
        say(f"{row['model']}: same class {row['fp32']['same_class']:,} of {row['images']:,}; lost: {lost}")
    if out:
        values = {
            "benchmark": "packed_agreement",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "calibration_images": CALIBRATION,
            "runs": rows,
        }
        write_json(out, values)


if __name__ == "__main__":
    typer.run(main)
