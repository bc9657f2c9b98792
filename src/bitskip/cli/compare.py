"""`bitskip compare`: runs and packed models side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import DataOption, JsonOption, WideOption, read_images, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass
class _Compared:
    """What is known of one of the compared: figures by name, None where unknown."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    right: npt.NDArray[np.bool_] | None = None  # (N,) whether each test picture is recognised


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Folders of finished runs, packed files, names of `bitskip zoo list`."
        ),
    ],
    data: DataOption = None,
    threads: Annotated[int, typer.Option(help="Threads of the native engine, for packed models.")] = 1,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put runs and packed models side by side, and say how far their accuracies differ from the first's.

    Runs are compared by their results. Packed models are tested on the pictures of --data, all on the same
    ones: the interval of a difference is then that of matched pairs (Agresti and Min 2005). Without --data
    they are compared by what their files hold.

    Examples:

    - `bitskip compare runs/a runs/b`
    - `bitskip compare resnet14-full-all-int8 resnet14-hybrid-none-int8`
    - `bitskip compare before.bitskip after.bitskip --data photos`
    """
    from bitskip.errors import RunError

    if len(models) < 2:
        raise RunError(f"got {len(models)} model, expected at least 2 to compare")
    found = [_read(model, data, threads) for model in models]
    differences = [_difference(found[0], other) for other in found[1:]]
    if as_json:
        rows = [{"name": c.name, **c.figures} for c in found]
        for row, difference in zip(rows[1:], differences, strict=True):
            row["difference_to_first"] = difference
        typer.echo(json.dumps(rows, indent=2))
        return
    _print(found, differences, wide)


def _read(model: str, data: str | None, threads: int) -> _Compared:
    folder = Path(model)
    if folder.is_dir():
        return _of_run(folder)
    return _of_packed(model, data, threads)


def _of_run(folder: Path) -> _Compared:
    from bitskip.cost import cost_of
    from bitskip.errors import RunError
    from bitskip.spec import resolve_spec
    from bitskip.training import RunResult

    if not (folder / "result.json").is_file():
        raise RunError(f"{folder} holds no finished run: there is no result.json in it")
    result = RunResult.load(folder)
    figures: dict[str, Any] = {
        "network": result.model,
        "accuracy": result.test_accuracy,
        "hits": round(result.test_accuracy * result.test_images),
        "images": result.test_images,
    }
    for key in ("data", "recipe", "epochs", "seed", "teacher", "warm_start", "changes", "seconds"):
        figures[key] = getattr(result, key)
    if (folder / "spec.json").is_file():
        cost = cost_of(resolve_spec(str(folder / "spec.json")))
        figures |= {
            "effective_parameters": cost.effective_parameters,
            "macs": cost.macs,
            "peak_activation_bytes": cost.peak_activation_bytes["in_place"],
        }
    return _Compared(str(folder), figures)


def _of_packed(model: str, data: str | None, threads: int) -> _Compared:
    from bitskip.runtime import load
    from bitskip.runtime.accuracy import logits_of
    from bitskip.runtime.summary import summarise
    from bitskip.zoo import card_of, packed_path, zoo_names

    path = packed_path(model)
    loaded = load(path, threads=threads)
    summary = summarise(loaded.program, path.stat().st_size)
    figures: dict[str, Any] = {
        "network": loaded.program.name,
        "activations": summary["activations"],
        **{key: summary[key] for key in ("file_bytes", "macs", "peak_activation_bytes")},
    }
    compared = _Compared(model, figures)
    if data is not None:
        images = read_images(data, loaded.input_shape[0])
        images = images.for_classes(loaded.program.class_names, loaded.program.classes, model, say)
        logits, _ = logits_of(loaded, images.test_images)
        compared.right = logits.argmax(axis=1) == images.test_labels
        hits, count = int(compared.right.sum()), len(compared.right)
        figures |= {"accuracy": hits / count, "hits": hits, "images": count, "data": images.name}
    elif model in zoo_names():
        card = card_of(model)
        figures |= {"accuracy": card.test_accuracy, "hits": card.test_correct, "images": card.test_images}
        figures["data"] = card.data
    return compared


def _difference(first: _Compared, other: _Compared) -> dict[str, Any] | None:
    """Return how much more accurate `other` is, with its 95% interval; None if they were not tested alike."""
    from bitskip.runtime.accuracy import wilson_interval
    from bitskip.runtime.confusion import paired_difference

    a, b = first.figures, other.figures
    if a.get("accuracy") is None or b.get("accuracy") is None:
        return None
    if (a["data"], a["images"]) != (b["data"], b["images"]):
        return None
    if first.right is not None and other.right is not None:
        difference, low, high = paired_difference(first.right, other.right)
        return {"accuracy": difference, "interval_95": [low, high], "paired": True}
    # Newcombe 1998, method 10: the square-and-add interval of two Wilson intervals.
    (low_a, high_a), (low_b, high_b) = (wilson_interval(v["hits"], v["images"]) for v in (a, b))
    difference = b["accuracy"] - a["accuracy"]
    below = ((b["accuracy"] - low_b) ** 2 + (high_a - a["accuracy"]) ** 2) ** 0.5
    above = ((high_b - b["accuracy"]) ** 2 + (a["accuracy"] - low_a) ** 2) ** 0.5
    return {
        "accuracy": difference,
        "interval_95": [difference - below, difference + above],
        "paired": False,
    }


def _print(found: list[_Compared], differences: list[dict[str, Any] | None], wide: bool) -> None:
    from bitskip.terminal import byte_size, number, print_table

    def text(key: str, value: Any) -> str:
        if value in (None, {}, ""):
            return "-"
        if key == "accuracy":
            return f"{value:.2%}"
        if key.endswith("bytes"):
            return byte_size(value)
        if key == "seconds":
            return f"{value:,.0f}"
        if isinstance(value, dict):
            return ", ".join(f"{k}={v}" for k, v in value.items())
        return number(value) if isinstance(value, int | float) and key != "seed" else str(value)

    short = [Path(compared.name).name for compared in found]
    keys = dict.fromkeys(key for compared in found for key in compared.figures if key != "hits")
    rows = [
        [key.replace("_", " "), *(text(key, compared.figures.get(key)) for compared in found)] for key in keys
    ]
    if any(differences):
        rows.append(["difference, points", "", *map(_points, differences)])
    notes = ["the difference is to the first, with its 95% interval"] if any(differences) else []
    if any(d and not d["paired"] for d in differences):
        notes.append("packed models that are tested with --data have narrower intervals: of matched pairs")
    if not all(differences):
        notes.append("no difference where two were not tested on the same pictures")
    print_table(
        "Compared",
        ["", *(short if len(set(short)) == len(short) else [compared.name for compared in found])],
        rows,
        left_columns=range(len(found) + 1),
        prose=range(1, len(found) + 1),
        continued=True,
        wide=wide,
        notes=notes,
    )


def _points(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "-"
    low, high = difference["interval_95"]
    return f"{difference['accuracy'] * 100:+.2f} ({low * 100:+.2f} to {high * 100:+.2f})"
