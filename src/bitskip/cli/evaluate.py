"""`bitskip eval`: the accuracy of a packed file."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from bitskip.cli.options import DataOption, JsonOption, TtaOption, interactive, read_images, say, wants_flip
from bitskip.cli.packed import PackedArgument, packed_path


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("eval")(evaluate)


def evaluate(
    file: PackedArgument,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option(help="Take only so many test pictures.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the native engine.")] = 1,
    engine: Annotated[
        str, typer.Option(help="auto, native, or reference (numpy, slow: the contract).")
    ] = "auto",
    tta: TtaOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Test a packed model on a data set's test pictures.

    Examples:

    - `bitskip eval hybrid.bitskip --data cifar-10-batches-bin`
    - `bitskip eval hybrid.bitskip --limit 1000 --json`
    - `bitskip eval hybrid.bitskip --tta flip`
    """
    from bitskip.errors import DataError
    from bitskip.runtime import load
    from bitskip.runtime.accuracy import measure, measure_with_flip

    flip = wants_flip(tta)
    model = load(packed_path(file), threads=threads, engine=engine)
    height, width, _ = model.input_shape
    if limit is not None and limit < 1:
        raise DataError(f"--limit is {limit}, expected at least 1 picture")
    images = read_images(data, height)
    images = images.for_classes(model.program.class_names, model.program.classes, file, say)
    if images.test_images.shape[1:] != model.input_shape:
        raise DataError(
            f"{images.name} has pictures of {images.image_size} pixels, but {file} takes {height}x{width}"
        )
    started = time.perf_counter()
    pictures, labels = images.test_images[:limit], images.test_labels[:limit]
    if flip:
        accuracy, flipped = measure_with_flip(model, pictures, labels, _show)
    else:
        accuracy = measure(model, pictures, labels, _show)
    seconds = time.perf_counter() - started
    low, high = accuracy.interval
    if as_json:
        values = {
            "model": model.program.name,
            "data": images.name,
            "accuracy": accuracy.share,
            "interval_95": [low, high],
            "hits": accuracy.hits,
            "images": accuracy.images,
            "engine": model.engine,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(values | ({"tta": flipped.to_dict("flip")} if flip else {}), indent=2))
        return
    typer.echo(
        f"{model.program.name}: {accuracy.share:.2%} of {accuracy.images:,} test pictures of {images.name} "
        f"(95% interval {low:.2%} to {high:.2%}), engine {model.engine}, {seconds:.1f} s"
    )
    if flip:
        low, high = flipped.interval
        typer.echo(
            f"  with test-time augmentation (mean of picture and mirror image): {flipped.share:.2%} "
            f"(95% interval {low:.2%} to {high:.2%})"
        )


def _show(done: int, total: int) -> None:
    if interactive():
        typer.echo(f"\r  {done:,} of {total:,} pictures", nl=done == total, err=True)
