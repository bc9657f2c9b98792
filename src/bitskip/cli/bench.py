"""`bitskip bench`: how fast a packed model runs on this machine, alone or beside other engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import JsonOption, WideOption
from bitskip.cli.packed import PackedArgument

if TYPE_CHECKING:
    from bitskip.bench.peers import Comparison
    from bitskip.bench.speed import LayerTime, Timing
    from bitskip.program import Program


def bench(
    file: PackedArgument,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option(help="Pictures a call.")] = 1,
    isa: Annotated[
        list[str] | None,
        typer.Option(help="Instruction set to force; may be repeated. Default: all but scalar."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each instruction set.")] = 1.0,
    layers: Annotated[bool, typer.Option("--layers", help="Also time every layer.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Also predict the latency from the cost table in this file; without such a file, this "
            "machine is measured first, for about a minute, and the file written."
        ),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Also time the same architecture in onnxruntime and OpenVINO (fp32, int8) and PyTorch, "
            "where they are installed; needs torch and onnx.",
        ),
    ] = False,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time a packed model: medians of whole calls; each layer with `--layers`, other engines with `--peers`.

    Examples:

    - `bitskip bench hybrid.bitskip`
    - `bitskip bench hybrid.bitskip --isa avx2 --layers`
    - `bitskip bench hybrid.bitskip --threads 2 --batch 8 --json`
    - `bitskip bench hybrid.bitskip --peers`
    - `bitskip bench hybrid.bitskip --isa avx2 --calibrate costs.json`
    """
    from bitskip.backends.native import available_isas, cpu_features
    from bitskip.bench.speed import measure, measure_layers
    from bitskip.program import Program
    from bitskip.zoo import packed_path

    path = packed_path(file)
    program = Program.load(path)
    found = available_isas()
    isas = tuple(isa or [name for name in found if name != "scalar"] or found)
    comparison = None
    if peers:
        from bitskip.bench.peers import compare

        comparison = compare(program, isas, threads=threads, batch=batch, seconds=seconds)
        timings = comparison.timings
    else:
        timings = measure(program, isas, threads=threads, batch=batch, seconds=seconds)
    by_layer = {name: measure_layers(program, name) for name in isas} if layers else {}
    predicted = _predict(calibrate, program, isas[-1]) if calibrate else None
    if as_json:
        values: dict[str, Any] = {
            "file": file,
            "features": cpu_features(),
            "timings": [timing.to_dict() for timing in timings],
            "layers": {name: [vars(layer) for layer in times] for name, times in by_layer.items()},
        }
        if comparison:
            values |= _as_json(comparison)
        if predicted:
            values["predicted_ms"] = {predicted[0]: predicted[1]}
        typer.echo(json.dumps(values, indent=2))
        return
    pictures = "1 picture" if batch == 1 else f"{batch} pictures"
    title = f"{program.name}, {pictures} a call, threads: {threads}"
    machine = f"this machine has {', '.join(cpu_features()) or 'no instruction set beyond scalar'}"
    if comparison:
        _print_comparison(title, machine, comparison, path.stat().st_size, wide)
    else:
        _print_timings(title, machine, timings)
    for name, times in by_layer.items():
        _print_layers(name, times)
    if predicted:
        typer.echo(f"predicted for one picture on one thread, {predicted[0]}: {predicted[1]:.3f} ms")


def _predict(path: Path, program: Program, isa: str) -> tuple[str, float]:
    """Return the instruction set of the table and the milliseconds that it predicts."""
    from bitskip.bench.costs import CostTable
    from bitskip.bench.costs import calibrate as measure_costs

    if path.exists():
        table = CostTable.load(path)
    else:
        table = measure_costs(isa, lambda text: typer.echo(text, err=True))
        table.save(path)
    return table.isa, table.predict_us(program) / 1e3


def _milliseconds(timed: Any) -> list[str]:
    return [
        f"{timed.median_ms:.3f}",
        f"{timed.p10_ms:.3f} .. {timed.p90_ms:.3f}",
        f"{timed.batch / timed.median_ms * 1e3:.0f}",
    ]


def _print_timings(title: str, machine: str, timings: list[Timing]) -> None:
    from bitskip.terminal import print_table

    print_table(
        title,
        ["instruction set", "median ms", "10% .. 90%", "pictures/s"],
        [[timing.isa, *_milliseconds(timing)] for timing in timings],
        left_columns=(0,),
        notes=[machine],
    )


def _print_comparison(title: str, machine: str, comparison: Comparison, file_bytes: int, wide: bool) -> None:
    from bitskip.terminal import number, print_table

    timed: list[tuple[str, int, Any]] = [
        *((f"bitskip {timing.isa}", file_bytes, timing) for timing in comparison.timings),
        *((peer.name, peer.file_bytes, peer) for peer in comparison.peers),
    ]

    def ratio(median_ms: float, precision: str) -> str:
        value = comparison.ratio(median_ms, precision)
        return "" if value is None else f"{value:.2f}"

    print_table(
        title,
        ["engine", "median ms", "x int8 peer", "x fp32 peer", "file bytes", "10% .. 90%", "pictures/s"],
        [
            [
                name,
                _milliseconds(t)[0],
                ratio(t.median_ms, "int8"),
                ratio(t.median_ms, "fp32"),
                number(size),
                *_milliseconds(t)[1:],
            ]
            for name, size, t in sorted(timed, key=lambda row: row[2].median_ms)
        ],
        wide=wide,
        notes=[
            "peers run the same architecture with random fp32 weights, or that quantized to int8; "
            "x: how many times faster than the fastest peer of that precision",
            *(f"not measured: {reason}" for reason in comparison.missing),
            machine,
        ],
    )


def _as_json(comparison: Comparison) -> dict[str, Any]:
    def ratios(median_ms: float) -> dict[str, float | None]:
        return {precision: comparison.ratio(median_ms, precision) for precision in ("int8", "fp32")}

    return {
        "peers": [vars(peer) | {"times_faster_than": ratios(peer.median_ms)} for peer in comparison.peers],
        "times_faster_than": {t.isa: ratios(t.median_ms) for t in comparison.timings},
        "missing": comparison.missing,
    }


def _rates(reached: float | None, ceiling: float | None) -> list[str]:
    if reached is None or ceiling is None:
        return ["", "", ""]
    return [f"{reached:.0f}", f"{ceiling:.0f}", f"{reached / ceiling:.0%}"]


def _print_layers(isa: str, times: list[LayerTime]) -> None:
    from bitskip.terminal import print_table

    total = sum(layer.median_us for layer in times)
    print_table(
        f"layers on {isa}, {total:.0f} us in all",
        ["layer", "kernel", "median us", "share", "MACs/ns", "ceiling", "reached"],
        [
            [
                layer.op,
                layer.kernel,
                f"{layer.median_us:.1f}",
                f"{layer.median_us / total:.1%}",
                *_rates(layer.macs_per_ns, layer.ceiling_macs_per_ns),
            ]
            for layer in times
        ],
        left_columns=(0, 1),
        notes=["ceiling: the kernel's innermost loop alone, measured on this machine now"],
    )
