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


def run(
    file: PackedArgument,
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Pictures of any size (PNG, JPEG, ...), or folders of them; of a model with several inputs "
            "one picture each, as NAME=IMAGE.",
        ),
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
    - `bitskip run stereo.bitskip left=a.png right=b.png`
    """
    from bitskip.errors import DataError
    from bitskip.runtime import load

    if top < 1:
        raise DataError(f"--top is {top}, expected at least 1 class")
    model = load(file, threads=threads, engine=engine)
    for height, width, channels in model.input_shapes.values():
        if channels not in (1, 3):
            raise DataError(
                f"{file} takes {height}x{width}x{channels}; `run` reads pictures of 1 or 3 channels"
            )
    several = len(model.input_shapes) > 1
    if several and not all("=" in word for word in pictures):
        names = " ".join(f"{name}=IMAGE" for name in model.input_shapes)
        raise DataError(f"{file} takes several inputs; give one picture each as {names}")
    if several:
        by_name = dict(word.split("=", 1) for word in pictures)
        if len(by_name) < len(pictures):
            raise DataError(f"got {' '.join(pictures)}, expected one picture of each input")
        sets: list[tuple[str, Any]] = [(" ".join(pictures), by_name)]
    else:
        sets = [(str(path), path) for word in pictures for path in _pictures(word)]
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path, result in _classify(model, sets, top):
        if isinstance(result, DataError):
            failed.append({"image": path, "error": str(result)})
            if len(sets) > 1:
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
            if len(sets) == 1
            else f"{len(failed)} of {len(sets)} pictures cannot be read; they are named above"
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


def _classify(
    model: Model, sets: list[tuple[str, Any]], top: int
) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """Yield what each set was called with what the model says of it, or why it cannot be read.

    A set is a path, or of several inputs one of each by name.
    """
    import numpy as np

    from bitskip.errors import DataError

    # The first call is slower than the others.
    model.predict({name: np.zeros((1, *shape), np.uint8) for name, shape in model.input_shapes.items()})
    for path, given in sets:
        try:
            batch = model.batch(given)
        except DataError as error:
            yield path, error
            continue
        started = time.perf_counter()
        logits = model.predict(batch)
        milliseconds = (time.perf_counter() - started) * 1000
        best = model.ranked(logits, top)[0]
        classes = [{"class": p.name, "index": p.index, "probability": round(p.probability, 6)} for p in best]
        values = [float(value) for value in logits.reshape(-1)]  # float32, as they are
        yield path, {"image": path, "ms": round(milliseconds, 3), "top": classes, "logits": values}
