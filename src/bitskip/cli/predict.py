"""`bitskip run`: classify pictures with a packed file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("run")(run)


def run(
    file: Annotated[str, typer.Argument(metavar="M.bitskip", help="A packed model.")],
    pictures: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Pictures of any size; PNG, JPEG, ...")
    ],
    top: Annotated[int, typer.Option(help="How many classes to name, likeliest first.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of the native engine.")] = 1,
    engine: Annotated[
        str, typer.Option(help="auto, native, or reference (numpy, slow: the contract).")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Classify pictures; each is scaled by its shorter side and cropped at the centre.

    The milliseconds are those of the network alone, without reading the picture.

    Examples:

    - `bitskip run hybrid.bitskip cat.png`
    - `bitskip run hybrid.bitskip photos/*.jpg --top 1 --json`
    """
    import numpy as np

    from bitskip.data import read_picture
    from bitskip.errors import DataError
    from bitskip.runtime import load

    if top < 1:
        raise DataError(f"--top is {top}, expected at least 1 class")
    model = load(file, threads=threads, engine=engine)
    height, width, channels = model.input_shape
    if channels != 3 or height != width:
        raise DataError(f"{file} takes {height}x{width}x{channels}; `run` reads square colour pictures only")
    model.predict(np.zeros((1, *model.input_shape), np.uint8))  # the first call is slower than the others
    results = []
    for path in pictures:
        picture = read_picture(Path(path), height)[None]
        started = time.perf_counter()
        logits = model.predict(picture)
        milliseconds = (time.perf_counter() - started) * 1000
        best = model.ranked(logits, top)[0]
        results.append(
            {
                "image": path,
                "ms": round(milliseconds, 3),
                "top": [
                    {"class": p.name, "index": p.index, "probability": round(p.probability, 6)} for p in best
                ],
            }
        )
    if as_json:
        values = {"model": model.program.name, "engine": model.engine, "results": results}
        typer.echo(json.dumps(values, indent=2))
        return
    for path, result in zip(pictures, results, strict=True):
        named = ", ".join(f"{p['class']} {p['probability']:.1%}" for p in result["top"])  # type: ignore[attr-defined]
        typer.echo(f"{path}: {named}  ({result['ms']} ms, engine {model.engine})")
