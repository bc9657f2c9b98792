"""`bitskip count`: what a model costs, layer by layer, or several models side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bitskip.cli.input_shapes import InputsOption, read_input_shapes
from bitskip.cli.options import ClassesOption, JsonOption, SizeOption, WideOption
from bitskip.errors import SpecError
from bitskip.sources import SOURCES_HELP

if TYPE_CHECKING:
    from bitskip.cost import Cost


def count(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=SOURCES_HELP,
            show_default=False,
        ),
    ],
    wide: WideOption = False,
    as_json: JsonOption = False,
    compare: Annotated[bool, typer.Option("--compare", help="Put the models side by side.")] = False,
    width: Annotated[
        float | None, typer.Option(help="Multiply every width by this factor, e.g. 0.5.", show_default=False)
    ] = None,
    input_size: SizeOption = None,
    inputs: InputsOption = None,
    classes: ClassesOption = None,
) -> None:
    """Count parameters, MACs, bytes and peak activation memory, without training anything.

    Examples:

    - `bitskip count resnet14-hybrid-none`
    - `bitskip count resnet14-binary-all --width 0.5 --json`
    - `bitskip count my-network.json --input-size 64`
    - `bitskip count torchvision:mobilenet_v2`
    - `bitskip count timm:resnet18d --classes 3 --input-size 64`
    - `bitskip count my_net.py:Net --input-size 32`
    - `bitskip count stereo.py:Net --input left=3,32,32 --input right=1,32,32`
    - `bitskip count --compare resnet14-full-all resnet14-hybrid-none torchvision:resnet18`

    A MAC is one multiply-accumulate; a 1-bit MAC has a 1-bit weight and a 1-bit input. Effective parameters
    are stored weight bits / 32. `?` is unknown, and a note says why.
    """
    if len(models) > 1 and not compare:
        raise SpecError(f"got {len(models)} models; add --compare to put them side by side")
    shapes = read_input_shapes(inputs or (), input_size)
    costs = [_cost(model, input_size, classes, width, shapes) for model in models]
    if as_json:
        values = [cost.to_dict() for cost in costs]
        typer.echo(json.dumps(values if compare else values[0], indent=2))
    elif compare:
        _print_comparison(costs, wide)
    else:
        _print_layers(costs[0], wide)


def _cost(
    model: str,
    input_size: int | None,
    classes: int | None,
    width: float | None,
    inputs: dict[str, tuple[int, int, int]],
) -> Cost:
    from bitskip.sources import Kind, parse
    from bitskip.sources.cost import cost_of_source

    if parse(model).kind in (Kind.TORCHVISION, Kind.PYTHON) and width is None and not inputs:
        from bitskip.detection.cost import count_detector
        from bitskip.sources.load import load_model

        loaded = load_model(model, input_size=input_size, classes=classes, on_meta=True)
        if loaded.task == "detection":
            return count_detector(loaded.model, loaded.input_shape, loaded.name)
    return cost_of_source(model, input_size=input_size, classes=classes, width=width, inputs=inputs)


def _print_parts(cost: Cost) -> None:
    """Say what each part of a detector costs; of other networks nothing."""
    if not any(row.name.startswith("backbone.") for row in cost.layers):
        return
    from bitskip.detection.cost import parts_of
    from bitskip.terminal import byte_size, number, print_table

    print_table(
        "Parts",
        ["", "parameters", "memory", "MACs"],
        [
            [name, number(part["parameters"]), byte_size(part["weight_bytes"]), number(part["macs"])]
            for name, part in parts_of(cost).items()
        ],
    )


def _print_layers(cost: Cost, wide: bool) -> None:
    from bitskip.terminal import byte_size, number, print_table, shape_text

    widths = sorted({1, 32} | set(cost.parameters_by_bits or ()))
    kinds = ["w1a1", *sorted(_mac_precisions(cost) - {"w1a1", "fp32"}), "fp32"]
    rows = []
    for layer in cost.layers:
        by_bits = layer.parameters_by_bits
        shape = layer.output_shape
        rows.append(
            [
                layer.name,
                layer.precision,
                "?" if shape is None else "x".join(str(size) for size in shape) or "1",
                byte_size(layer.weight_bytes),
                *(
                    number(layer.macs if layer.mac_precision == kind or layer.macs is None else 0)
                    for kind in kinds
                ),
                *(number(None if by_bits is None else by_bits.get(bits, 0)) for bits in widths),
                number(layer.input_bits),
            ]
        )
    total = cost.parameters_by_bits
    macs = cost.macs_by_precision
    print_table(
        f"{cost.name}, input {shape_text(cost.input_shape)}",
        [
            "layer",
            "precision",
            "output",
            "memory",
            *(f"{_MAC_HEADINGS.get(kind, kind)} MACs" for kind in kinds),
            *(f"{bits}-bit params" for bits in widths),
            "input bits",
        ],
        rows,
        left_columns=(0, 1),
        footer=[
            "total",
            "",
            "",
            byte_size(cost.weight_bytes),
            *(number(None if macs is None else macs.get(kind, 0)) for kind in kinds),
            *(number(None if total is None else total.get(bits, 0)) for bits in widths),
            "",
        ],
        wide=wide,
    )
    _print_parts(cost)
    print_table(
        f"Totals of {cost.name}",
        ["", ""],
        [[label, values[0]] for label, values in _totals([cost])],
        notes=[f"note: {note}" for note in cost.notes],
    )


_MAC_HEADINGS = {"w1a1": "1-bit", "int8": "8-bit", "fp32": "32-bit"}


def _mac_precisions(cost: Cost) -> set[str]:
    return {layer.mac_precision for layer in cost.layers if layer.macs}


def _print_comparison(costs: list[Cost], wide: bool) -> None:
    from bitskip.terminal import print_table

    print_table(
        "Cost for one input",
        ["", *(cost.name for cost in costs)],
        [[label, *values] for label, values in _totals(costs)],
        notes=[f"note: {cost.name}: {note}" for cost in costs for note in cost.notes],
        continued=True,
        wide=wide,
    )


def _totals(costs: list[Cost]) -> list[tuple[str, list[str]]]:
    from bitskip.terminal import byte_size, number, shape_text

    def share(part: int | None, whole: int | None) -> str:
        return "?" if part is None or whole is None else f"{part / whole:.1%}" if whole else "-"

    def times(factor: float | None) -> str:
        return "?" if factor is None else f"{factor:.2f}x"

    return [
        ("input", [shape_text(c.input_shape) for c in costs]),
        ("parameters", [number(c.parameters) for c in costs]),
        ("1-bit parameters", [number(c.binary_parameters) for c in costs]),
        ("effective parameters", [number(c.effective_parameters) for c in costs]),
        ("size", [byte_size(c.weight_bytes) for c in costs]),
        ("float-32 equivalent", [byte_size(c.float32_bytes) for c in costs]),
        ("compression", [times(c.compression) for c in costs]),
        ("MACs", [number(c.macs) for c in costs]),
        ("share of binarised MACs", [share(c.binary_macs, c.macs) for c in costs]),
        ("share of MACs with 1-bit weights", [share(c.binary_weight_macs, c.macs) for c in costs]),
        ("peak activations, naive", [byte_size(c.peak_activation_bytes["naive"]) for c in costs]),
        ("peak activations, in place", [byte_size(c.peak_activation_bytes["in_place"]) for c in costs]),
    ]
