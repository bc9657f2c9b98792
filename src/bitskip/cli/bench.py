"""`bitskip bench`: how fast a packed model runs on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bitskip.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bench")(bench)


def bench(
    file: Annotated[str, typer.Argument(metavar="M.bitskip", help="A packed model.")],
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option(help="Pictures a call.")] = 1,
    isa: Annotated[
        list[str] | None,
        typer.Option(help="Instruction set to force; may be repeated. Default: all but scalar."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each instruction set.")] = 1.0,
    layers: Annotated[bool, typer.Option("--layers", help="Also time every layer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Time a packed model: medians of whole calls, and of each layer with `--layers`.

    Examples:

    - `bitskip bench hybrid.bitskip`
    - `bitskip bench hybrid.bitskip --isa avx2 --layers`
    - `bitskip bench hybrid.bitskip --threads 2 --batch 8 --json`
    """
    from bitskip.bench.speed import measure, measure_layers
    from bitskip.program import Program
    from bitskip.runtime.native import available_isas, cpu_features

    program = Program.load(file)
    found = available_isas()
    isas = tuple(isa or [name for name in found if name != "scalar"] or found)
    timings = measure(program, isas, threads=threads, batch=batch, seconds=seconds)
    by_layer = {name: measure_layers(program, name) for name in isas} if layers else {}
    if as_json:
        values = {
            "file": file,
            "features": cpu_features(),
            "timings": [timing.to_dict() for timing in timings],
            "layers": {name: [vars(layer) for layer in times] for name, times in by_layer.items()},
        }
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import print_table

    rows = [
        [t.isa, f"{t.median_ms:.3f}", f"{t.p10_ms:.3f} .. {t.p90_ms:.3f}", f"{batch / t.median_ms * 1e3:.0f}"]
        for t in timings
    ]
    pictures = "1 picture" if batch == 1 else f"{batch} pictures"
    print_table(
        f"{program.name}, {pictures} a call, threads: {threads}",
        ["instruction set", "median ms", "10% .. 90%", "pictures/s"],
        rows,
        left_columns=(0,),
        notes=[f"this machine has {', '.join(cpu_features()) or 'no instruction set beyond scalar'}"],
    )
    for name, times in by_layer.items():
        total = sum(layer.median_us for layer in times)
        print_table(
            f"layers on {name}, {total:.0f} us in all",
            ["layer", "kernel", "median us", "share"],
            [
                [layer.op, layer.kernel, f"{layer.median_us:.1f}", f"{layer.median_us / total:.1%}"]
                for layer in times
            ],
            left_columns=(0, 1),
        )
