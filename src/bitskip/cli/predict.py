"""`bitskip run`: classify pictures with a packed file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import JsonOption, say
from bitskip.cli.packed import PackedArgument

if TYPE_CHECKING:
    from bitskip.errors import DataError
    from bitskip.runtime import Model


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("run")(run)


def run(
    file: PackedArgument,
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures of any size (PNG, JPEG, ...), or folders of them."),
    ],
    top: Annotated[int, typer.Option(help="How many classes to name, likeliest first.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of the native engine.")] = 1,
    engine: Annotated[
        str, typer.Option(help="auto, native, or reference (numpy, slow: the contract).")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Classify pictures; each is scaled by its shorter side and cropped at the centre.

    Of a folder all pictures are taken, those in folders below it too. Results come as they are ready. A
    picture that cannot be read is named, the others are classified all the same, and the exit code is 2.
    The milliseconds are those of the network alone, without reading the picture.

    Examples:

    - `bitskip run hybrid.bitskip cat.png`
    - `bitskip run resnet14-hybrid-none cat.png` (a model of the zoo)
    - `bitskip run hybrid.bitskip photos --top 1`
    - `bitskip run hybrid.bitskip photos/*.jpg --top 1 --json`
    """
    from bitskip.errors import DataError
    from bitskip.runtime import load

    if top < 1:
        raise DataError(f"--top is {top}, expected at least 1 class")
    model = load(file, threads=threads, engine=engine)
    height, width, channels = model.input_shape
    if channels not in (1, 3):
        raise DataError(f"{file} takes {height}x{width}x{channels}; `run` reads pictures of 1 or 3 channels")
    paths = [path for word in pictures for path in _pictures(word)]
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path, result in _classify(model, paths, top):
        if isinstance(result, DataError):
            failed.append({"image": str(path), "error": str(result)})
            if len(paths) > 1:
                say(f"bitskip: {result}")
            continue
        results.append(result)
        if not as_json:
            named = ", ".join(f"{p['class']} {p['probability']:.1%}" for p in result["top"])
            typer.echo(f"{path}: {named}  ({result['ms']} ms, engine {model.engine})")
    if as_json:
        values = {"model": model.program.name, "engine": model.engine, "results": results, "failed": failed}
        typer.echo(json.dumps(values, indent=2))
    if failed:
        raise DataError(
            failed[0]["error"]
            if len(paths) == 1
            else f"{len(failed)} of {len(paths)} pictures cannot be read; they are named above"
        )


def _pictures(word: str) -> list[Path]:
    """Return the pictures of a folder, or the file itself."""
    from bitskip.errors import DataError

    path = Path(word)
    if not word or word == "-" or "://" in word:
        raise DataError(f"got '{word}', expected a file or a folder: save the picture to a file first")
    if not path.is_dir():
        return [path]
    from bitskip.data.folders import find_pictures

    found = find_pictures(path)
    skipped = found.say_skipped()
    if not found.pictures:
        raise DataError(f"{path} holds no pictures" + (f" ({skipped})" if skipped else ""))
    count = "1 picture" if len(found.pictures) == 1 else f"{len(found.pictures)} pictures"
    say(f"{path}: {count}" + (f"; {skipped}" if skipped else ""))
    return found.pictures


def _classify(model: Model, paths: list[Path], top: int) -> Iterator[tuple[Path, dict[str, Any] | DataError]]:
    """Yield each path with what the model says of it, or why it cannot be read."""
    import numpy as np

    from bitskip.data import read_picture
    from bitskip.errors import DataError

    height, width, channels = model.input_shape
    model.predict(np.zeros((1, *model.input_shape), np.uint8))  # the first call is slower than the others
    for path in paths:
        try:
            picture = read_picture(path, (height, width), channels)[None]
        except DataError as error:
            yield path, error
            continue
        started = time.perf_counter()
        logits = model.predict(picture)
        milliseconds = (time.perf_counter() - started) * 1000
        best = model.ranked(logits, top)[0]
        classes = [{"class": p.name, "index": p.index, "probability": round(p.probability, 6)} for p in best]
        yield path, {"image": str(path), "ms": round(milliseconds, 3), "top": classes}
