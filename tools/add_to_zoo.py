"""Pack a finished run into the zoo of the package, with its card.

python tools/add_to_zoo.py runs/resnet14-binary-all --activations fp32 --command "bitskip train ..."
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from bitskip.backends.native import available_isas
from bitskip.bench.speed import measure as measure_speed
from bitskip.cli.options import read_images, say
from bitskip.cost import cost_of
from bitskip.errors import DataError
from bitskip.files import write_bytes, write_json
from bitskip.lower.run import calibration_pictures, lower_run
from bitskip.machine import machine
from bitskip.runtime import Model
from bitskip.runtime.accuracy import measure_with_flip
from bitskip.spec import NetworkSpec
from bitskip.training import RunResult, load_run
from bitskip.zoo.catalog import Card, models_folder


def add(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    command: Annotated[str, typer.Option(help="What trains it again.")],
    name: Annotated[str | None, typer.Option(help="Default: the model's name and the activations.")] = None,
    activations: Annotated[str, typer.Option(help="As for `bitskip pack`.")] = "fp32",
    dense: Annotated[str, typer.Option(help="As for `bitskip pack`.")] = "fp32",
    remark: Annotated[str, typer.Option(help="What a reader of the accuracy should know.")] = "",
    data: Annotated[str | None, typer.Option(help="As for `bitskip train`.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write both.  [default: the zoo]")] = None,
) -> None:
    """Pack, test on the whole test set, time, and write file and card."""
    folder = models_folder() if folder is None else folder
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; make it, or name one that exists with --folder")
    spec, _ = load_run(run)
    if not isinstance(spec, NetworkSpec):
        raise DataError(f"{run} holds {spec.name}, but the zoo is of networks that a spec describes")
    result = RunResult.load(run)
    images = read_images(data, spec.input_size)
    if (images.name, len(images.test_images)) != (result.data, result.test_images):
        raise DataError(
            f"{run} was tested on {result.test_images} pictures of {result.data}, but the data here are "
            f"{len(images.test_images)} of {images.name}; name the same with --data"
        )
    pictures = calibration_pictures(images, 512) if activations == "int8" else None
    program = lower_run(run, activations=activations, dense=dense, calibration=pictures)
    content = program.to_bytes()
    model = Model(program, threads=2, engine="native")
    accuracy, flipped = measure_with_flip(model, images.test_images, images.test_labels)
    speed = measure_speed(program, (available_isas()[-1],), seconds=5)[0]
    cost = cost_of(spec)
    name = name or f"{spec.name}-{activations}"
    card = Card(
        name=name,
        model=spec.name,
        recipe=result.recipe,
        epochs=result.epochs,
        seed=result.seed,
        data=result.data,
        train_images=result.train_images,
        test_images=accuracy.images,
        trained_accuracy=result.test_accuracy,
        test_accuracy=accuracy.share,
        test_correct=accuracy.hits,
        interval=accuracy.interval,
        activations=activations,
        dense=dense,
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=cost.parameters or 0,
        binary_parameters=cost.binary_parameters or 0,
        effective_parameters=cost.effective_parameters or 0,
        command=command,
        teacher=result.teacher,
        warm_start=result.warm_start,
        epochs_before=result.epochs_before,
        remark=remark,
        changes=result.changes,
        training={
            "seconds": result.seconds,
            "arithmetic": result.precision,
            "versions": result.versions,
            "history": result.history,
        },
        latency={**speed.to_dict(), **machine()},
        tta=flipped.to_dict("flip"),
    )
    write_bytes(folder / f"{name}.bitskip", content)
    write_json(folder / f"{name}.json", card.to_dict())
    say(f"{name}: {accuracy.share:.2%} packed ({result.test_accuracy:.2%} trained), {len(content):,} bytes")


if __name__ == "__main__":
    typer.run(add)
