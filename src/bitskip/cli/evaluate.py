"""`bitskip eval`: the accuracy of a packed file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import (
    DataOption,
    JsonOption,
    TtaOption,
    WideOption,
    interactive,
    read_images,
    say,
    wants_flip,
)
from bitskip.cli.packed import PackedArgument

if TYPE_CHECKING:
    from bitskip.runtime.confusion import Confusion


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
    top: Annotated[int, typer.Option(help="Also count a picture whose class is among the K likeliest.")] = 1,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print the accuracy of each class, worst first.")
    ] = False,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Also print the confusion matrix: rows are the true classes.")
    ] = False,
    matrix: Annotated[
        str | None, typer.Option(help="Draw the confusion matrix to FILE.svg.", show_default=False)
    ] = None,
    mistakes: Annotated[
        str | None,
        typer.Option(
            help="Put the pictures that it is surest and wrong about on one sheet, FILE.png or .jpg.",
            show_default=False,
        ),
    ] = None,
    worst: Annotated[int, typer.Option(help="How many pictures --mistakes shows.")] = 25,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """Test a packed model on a data set's test pictures, whose classes are matched with its own by name.

    Examples:

    - `bitskip eval hybrid.bitskip --data cifar-10-batches-bin`
    - `bitskip eval resnet14-hybrid-none-int8 --per-class` (a model of the zoo)
    - `bitskip eval mine.bitskip --data photos --confusion --matrix matrix.svg --mistakes wrong.png`
    - `bitskip eval hybrid.bitskip --limit 1000 --top 5 --json`
    - `bitskip eval hybrid.bitskip --tta flip`
    """
    import numpy as np

    from bitskip.errors import DataError, RunError
    from bitskip.files import write_bytes, write_text
    from bitskip.report.confusion import confusion_svg, contact_sheet
    from bitskip.runtime import load
    from bitskip.runtime.accuracy import Accuracy, logits_of
    from bitskip.runtime.confusion import Confusion, top_hits, worst_mistakes

    flip = wants_flip(tta)
    for path, suffixes in ((matrix, (".svg",)), (mistakes, (".png", ".jpg", ".jpeg"))):
        if path is not None and Path(path).suffix.lower() not in suffixes:
            raise RunError(f"'{path}' is not a picture that can be written; expected {' or '.join(suffixes)}")
    model = load(file, threads=threads, engine=engine)
    classes = model.program.classes
    for option, value, least in (("--limit", limit, 1), ("--top", top, 1), ("--worst", worst, 1)):
        if value is not None and value < least:
            raise DataError(f"{option} is {value}, expected at least {least}")
    if top > classes:
        raise DataError(f"--top is {top}, but {file} has {classes} classes")
    height, width, _ = model.input_shape
    images = read_images(data, height)
    images = images.for_classes(model.program.class_names, classes, file, say)
    if images.test_images.shape[1:] != model.input_shape:
        raise DataError(
            f"{images.name} has pictures of {images.image_size} pixels, but {file} takes {height}x{width}"
        )
    count = len(images.test_images)
    # Spread over the set: the pictures of a folder come class by class.
    chosen = slice(None) if limit is None or limit >= count else np.arange(limit) * count // limit
    pictures, labels = images.test_images[chosen], images.test_labels[chosen]
    started = time.perf_counter()
    logits, with_flip = logits_of(model, pictures, _show, flip=flip)
    seconds = time.perf_counter() - started
    accuracy = Accuracy(top_hits(logits, labels, 1), len(labels))
    found = Confusion.of(logits, labels, model.class_names)
    low, high = accuracy.interval
    values: dict[str, Any] = {
        "model": model.program.name,
        "data": images.name,
        "accuracy": accuracy.share,
        "interval_95": [low, high],
        "hits": accuracy.hits,
        "images": accuracy.images,
        "engine": model.engine,
        "seconds": round(seconds, 3),
    }
    lines = [
        f"{model.program.name}: {accuracy.share:.2%} of {accuracy.images:,} test pictures of {images.name} "
        f"(95% interval {low:.2%} to {high:.2%}), engine {model.engine}, {seconds:.1f} s"
    ]
    if flip:
        flipped = Accuracy(top_hits(with_flip, labels, 1), len(labels))
        values["tta"] = flipped.to_dict("flip")
        lines.append(
            f"  with test-time augmentation (mean of picture and mirror image): {flipped.share:.2%} "
            f"(95% interval {flipped.interval[0]:.2%} to {flipped.interval[1]:.2%})"
        )
    if top > 1:
        among = Accuracy(top_hits(logits, labels, top), len(labels))
        values["top"] = {"k": top, "hits": among.hits, "accuracy": among.share}
        values["top"]["interval_95"] = list(among.interval)
        lines.append(
            f"  among the {top} likeliest: {among.share:.2%} "
            f"(95% interval {among.interval[0]:.2%} to {among.interval[1]:.2%})"
        )
    values |= found.to_dict()
    if matrix is not None:
        write_text(Path(matrix), confusion_svg(found, f"{model.program.name}: {accuracy.share:.2%}"))
        lines.append(f"confusion matrix: {matrix}")
    if mistakes is not None:
        wrong = worst_mistakes(logits, labels, worst)
        kind = "PNG" if mistakes.lower().endswith(".png") else "JPEG"
        write_bytes(Path(mistakes), contact_sheet(pictures, wrong, model.class_names, kind))
        names = np.array(images.test_names)[chosen] if images.test_names else None
        values["mistakes"] = [
            {
                "image": int(np.arange(count)[chosen][m.index]) if names is None else str(names[m.index]),
                "class": model.class_names[m.label],
                "taken_for": model.class_names[m.predicted],
                "probability": round(m.probability, 6),
            }
            for m in wrong
        ]
        lines.append(f"the {len(wrong)} worst mistakes: {mistakes}")
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for line in lines:
        typer.echo(line)
    if per_class:
        _print_classes(found, wide)
    if confusion:
        _print_matrix(found, wide)


def _print_classes(found: Confusion, wide: bool) -> None:
    from bitskip.terminal import number, print_table

    tested = [(i, figures) for i in range(len(found.class_names)) if (figures := found.accuracy_of(i))]
    rows = []
    for index, figures in sorted(tested, key=lambda pair: pair[1].share):
        low, high = figures.interval
        taken = found.taken_for(index)
        rows.append(
            [
                found.class_names[index],
                f"{figures.share:.1%}",
                f"{low:.1%} to {high:.1%}",
                number(figures.images),
                "" if taken is None else f"{taken[0]} ({taken[1]})",
            ]
        )
    print_table(
        "Classes, the worst first",
        ["class", "accuracy", "95% interval", "pictures", "most often taken for"],
        rows,
        left_columns=(0, 4),
        wide=wide,
    )


def _print_matrix(found: Confusion, wide: bool) -> None:
    from bitskip.terminal import print_table

    print_table(
        "Confusion matrix: a row is the class, a column what it is taken for",
        ["", *found.class_names],
        [
            [name, *(str(n) if n else "." for n in row)]
            for name, row in zip(found.class_names, found.matrix.tolist(), strict=True)
        ],
        continued=True,
        wide=wide,
    )


def _show(done: int, total: int) -> None:
    if interactive():
        typer.echo(f"\r  {done:,} of {total:,} pictures", nl=done == total, err=True)
