"""What int8 kernels that sum products in 16 bits (pmaddubsw) must do anew, in trained networks.

    python benchmarks/marked_sums.py NETWORK... -o benchmarks/results/marked_sums.json  # files, zoo names
    python benchmarks/marked_sums.py --table benchmarks/results/marked_sums.json  # into docs/runtime.md

Test pictures of CIFAR-10 go through the reference. Of the inputs of int8 convolutions behind a ReLU (zero
point -64 or less): the share of eights of channels in which four that share 16 bits sum to more than
32767 / (largest weight). Of their weights: the share of neighbouring pairs that could exceed 32767 with some
inputs.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bitskip.backends.reference import run_reference
from bitskip.cli.options import read_images
from bitskip.files import read_json, write_json, write_text
from bitskip.program import Conv2d, Program
from bitskip.zoo.catalog import packed_path

DOC = Path(__file__).resolve().parent.parent / "docs" / "runtime.md"
BEGIN, END = "<!-- marked sums -->", "<!-- end of marked sums -->"
LIMIT, MARKED_ZERO = 32767, -64


def pairs_beyond(weight: Any) -> Any:
    """Return which neighbouring weights (O, KH, KW, I) can exceed int16 with inputs of 0 to 255."""
    w = weight[..., : weight.shape[-1] // 2 * 2].astype(np.int32).reshape(-1, 2)
    return np.maximum(np.maximum(w, 0).sum(1), np.maximum(-w, 0).sum(1)) * 255 > LIMIT


def network(path: Path, pictures: Any) -> dict[str, Any]:
    """Return the shares of one packed network."""
    program = Program.load(path)
    convs: dict[int, list[Conv2d]] = {}
    for op in program.ops:
        if (
            isinstance(op, Conv2d)
            and op.weight.dtype == np.int8
            and op.groups == 1
            and op.weight_dtype == "i8"
        ):
            source = program.tensors[op.input]
            if source.dtype == "i8" and source.zero_point <= MARKED_ZERO and source.shape[-1] % 8 == 0:
                convs.setdefault(op.input, []).append(op)
    eights, marked = 0, 0

    def observe(number: int, value: Any) -> None:
        nonlocal eights, marked
        for op in convs.get(number, ()):
            fours = (value.astype(np.int32) + 128).reshape(-1, 2, 2, 2).sum((1, 3))
            most = LIMIT // int(np.abs(op.weight.astype(np.int32)).max())
            found = (fours > most).any(1)
            eights, marked = eights + found.size, marked + int(found.sum())

    run_reference(program, pictures, observe=observe)
    weights = [op.weight for ops in convs.values() for op in ops]
    beyond = np.concatenate([pairs_beyond(w) for w in weights])
    return {
        "network": path.stem,
        "convolutions": len(weights),
        "eights": eights,
        "marked": marked / eights,
        "pairs_of_weights_beyond": float(beyond.mean()),
    }


def table(report: dict[str, Any]) -> str:
    """Return the marked part of docs/runtime.md."""
    lines = [
        BEGIN,
        f"{report['pictures']} test pictures of CIFAR-10; shares of all int8 convolutions behind a ReLU.",
        "",
        "| network | convolutions | eights done anew | pairs of weights that can exceed 16 bits |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['network']} | {row['convolutions']} | {row['marked']:.2%} | "
        f"{row['pairs_of_weights_beyond']:.2%} |"
        for row in report["networks"]
    ]
    return "\n".join([*lines, END])


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Packed files, or names of the zoo.")] = None,
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
    data: Annotated[str | None, typer.Option(help="Where CIFAR-10 is.")] = None,
    count: Annotated[int, typer.Option("--pictures", help="Test pictures.")] = 200,
    results: Annotated[Path | None, typer.Option("--table", help="Write these results into the doc.")] = None,
) -> None:
    """Measure, print and write; or write what was measured into docs/runtime.md."""
    if results:
        old = DOC.read_text(encoding="utf-8")
        start, end = old.index(BEGIN), old.index(END) + len(END)
        write_text(DOC, old[:start] + table(read_json(results)) + old[end:])
        return
    pictures = read_images(data, 32).test_images[:count]
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "pictures": len(pictures)}
    report["networks"] = [network(packed_path(name), pictures) for name in networks or ()]
    typer.echo(table(report))
    if out:
        write_json(out, report)


if __name__ == "__main__":
    typer.run(main)
