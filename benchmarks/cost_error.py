"""How well a cost table predicts the networks of the zoo here: least times, one picture, one thread.

    python benchmarks/cost_error.py -o benchmarks/results/cost_error.json   # two minutes

The table is measured first (`bitskip bench --calibrate`), then every packed model of the zoo is run and
predicted. The error is prediction over measurement, less one.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.backends.native import available_isas
from bitskip.bench.costs import CostTable, calibrate
from bitskip.bench.speed import native_timers
from bitskip.bench.timing import alternate
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.program import Program
from bitskip.zoo import packed_path, zoo_names


def main(
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
    costs: Annotated[Path | None, typer.Option(help="A cost table to use instead of measuring one.")] = None,
    isa: Annotated[str, typer.Option(help="Instruction set.")] = available_isas()[-1],
    rounds: Annotated[int, typer.Option(help="Rounds over all models.")] = 10,
    seconds: Annotated[float, typer.Option(help="Time for a model in a round.")] = 0.05,
) -> None:
    """Measure, print and write."""
    table = CostTable.load(costs) if costs else calibrate(isa)
    programs = {name: Program.load(packed_path(f"zoo:{name}")) for name in zoo_names()}
    timers = {name: native_timers(program, (isa,), 1, 1)[isa] for name, program in programs.items()}
    rows: list[dict[str, Any]] = []
    for name, spread in alternate(timers, rounds, seconds).items():
        predicted = table.predict_us(programs[name]) / 1e3
        row = {
            "model": name,
            "ms": spread.min_ms,
            "predicted_ms": predicted,
            "error": predicted / spread.min_ms - 1,
        }
        rows.append(row)
        typer.echo(f"{name:40s} {spread.min_ms:8.3f} ms, predicted {predicted:8.3f}, {row['error']:+.1%}")
    errors = [abs(row["error"]) for row in rows]
    typer.echo(f"median error {statistics.median(errors):.1%}, largest {max(errors):.1%}")
    if out:
        write_json(
            out,
            {
                "machine": machine(), "isa": isa, "models": rows,
                "median_error": statistics.median(errors), "largest_error": max(errors),
            },
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
