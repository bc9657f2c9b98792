"""`bitskip models`: the named models and baselines, and what they cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from bitskip.cli.options import JsonOption, WideOption

if TYPE_CHECKING:
    from bitskip.cost import Cost
    from bitskip.spec import NetworkSpec


def models(
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the named models and the baselines with their parameters, bits and shortcuts.

    Examples:

    - `bitskip models`
    - `bitskip models --json`

    Any ResNet here also takes `-<full|hybrid|binary|w1a1>-<all|middle|none>`, e.g. `resnet20-binary-none`,
    and a width factor at the end, e.g. `resnet14-hybrid-none-x0.5`. Other networks are spec files. Baselines
    (`baseline:NAME`) are for `bitskip count`; they need torch, and are left out where it is missing.
    """
    from bitskip.spec import named_models, named_spec

    rows = [_row(named_spec(name)) for name in named_models()] + _baseline_rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows, wide)


def _row(spec: NetworkSpec) -> dict[str, Any]:
    from bitskip.cost import cost_of

    return {
        "name": spec.name,
        "input_size": spec.input_size,
        "classes": spec.classes,
        "precision": list(spec.precision),
        "shortcuts": list(spec.shortcuts),
        **_counts(cost_of(spec)),
    }


def _baseline_rows() -> list[dict[str, Any]]:
    """Return a row a baseline, with the precisions of its layers in the order that they first occur."""
    try:
        from bitskip.nn.baselines import CLASSES, INPUT_SIZE, baseline_names, count_baseline
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "torch":
            raise
        return []
    costs = [count_baseline(name) for name in baseline_names()]
    return [
        {
            "name": cost.name,
            "input_size": INPUT_SIZE,
            "classes": CLASSES,
            "precision": list(dict.fromkeys(layer.precision for layer in cost.layers if layer.macs)),
            "shortcuts": None,
            **_counts(cost),
        }
        for cost in costs
    ]


def _counts(cost: Cost) -> dict[str, Any]:
    return {
        "parameters": cost.parameters,
        "binary_parameters": cost.binary_parameters,
        "effective_parameters": cost.effective_parameters,
        "macs": cost.macs,
    }


def _print_table(rows: list[dict[str, Any]], wide: bool) -> None:
    from bitskip.terminal import number, print_table

    print_table(
        "Named models",
        ["model", "parameters", "effective", "MACs", "stages", "shortcuts", "1-bit", "input", "classes"],
        [
            [
                row["name"],
                number(row["parameters"]),
                number(row["effective_parameters"]),
                number(row["macs"]),
                _run_lengths(row["precision"]),
                _shortcuts(row["shortcuts"]),
                number(row["binary_parameters"]),
                f"{row['input_size']}x{row['input_size']}",
                number(row["classes"]),
            ]
            for row in rows
        ],
        left_columns=(0, 4, 5),
        wide=wide,
        notes=[
            "effective = stored weight bits / 32; stages and shortcuts run from the first stage to the last",
            "for a baseline, stages are the precisions that its layers have",
        ],
    )


def _shortcuts(kept: list[bool] | None) -> str:
    return "-" if kept is None else _run_lengths(["yes" if keep else "no" for keep in kept])


def _run_lengths(values: list[str]) -> str:
    """Shorten equal values: ["w1", "w1", "w1"] to "w1", ["w1", "fp32", "w1"] to "w1 fp32 w1"."""
    return values[0] if len(set(values)) == 1 else " ".join(values)
