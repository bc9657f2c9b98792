"""`bitskip export`: a packed model, or a network that is packed on the way, in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import JsonOption, MeanOption, SizeOption, StdOption, WeightsOption
from bitskip.cli.outputs import refuse_name_of_exported

if TYPE_CHECKING:
    from bitskip.program import Program


def export(
    file: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A packed model, a name of `bitskip zoo list`, or what `bitskip pack` takes: a run, or "
            "`torchvision:NAME` with --weights.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="The form to write it in.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")],
    binary_weights: Annotated[
        str | None,
        typer.Option(
            help="onnx, qonnx: what 1-bit weights stand as: bits, int8 or fp32.  [default: bits; qonnx: fp32]"
        ),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="onnx, qonnx: the picture: normalised (float32, N C H W) or pixels (uint8, N H W C).  "
            "[default: normalised]",
        ),
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(
            help="onnx: which int8 layers round exactly as the packed model, in float32: auto (the first "
            "ones, where it matters most), exact (all) or fused (none); qonnx: auto, or exact, in float64.  "
            "[default: auto]",
        ),
    ] = None,
    weights: WeightsOption = None,
    input_size: SizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="c99: prefix of files and functions, a C identifier.  [default: the model's name]"),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(
            help="c99: whose kernels to choose: cortex-m0plus, cortex-m3, cortex-m4, cortex-m7, cortex-m33, "
            "rv32imc or host.  [default: cortex-m4]"
        ),
    ] = None,
    arena_bytes: Annotated[
        int | None,
        typer.Option(help="c99: working memory that there is; layers run in bands of rows until it fits."),
    ] = None,
    flash_bytes: Annotated[
        int | None,
        typer.Option(
            help="c99: flash that there is; the folder builds with -O3, -O2 or -Os, whose code fits.  "
            "[default: -O3, or -O2 where the code would be larger than the constants]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a packed model in another form, for microcontrollers or for other engines.

    A network that is not packed yet is packed on the way, with its real layers in fp32.

    Examples:

    - `bitskip export hybrid.bitskip --to onnx -o hybrid.onnx`
    - `bitskip export torchvision:resnet18 --weights resnet18.safetensors --to onnx -o resnet18.onnx`
    - `bitskip export hybrid.bitskip --to qonnx -o hybrid.onnx`
    - `bitskip export hybrid.bitskip --to c99 -o hybrid_c`
    - `bitskip export hybrid.bitskip --to c99 --cpu cortex-m0plus --arena-bytes 30000 -o hybrid_c`
    """
    from bitskip.backends import export_target
    from bitskip.errors import LoweringError, RunError

    target = export_target(to)
    given: dict[str, Any] = {
        "binary-weights": binary_weights,
        "input": pictures,
        "rounding": rounding,
        "name": name,
        "cpu": cpu,
        "arena-bytes": arena_bytes,
        "flash-bytes": flash_bytes,
    }
    options = {key: value for key, value in given.items() if value is not None}
    strange = sorted(set(options) - target.options)
    if strange:
        known = ", ".join(sorted(target.options)) or "no options"
        raise RunError(f"--to {to} does not take --{strange[0]}; it takes {known}")
    refuse_name_of_exported(out, to)
    library = {"weights": weights, "input_size": input_size, "mean": mean, "std": std}
    program = _read(file, {key: value for key, value in library.items() if value is not None})
    reasons = target.supports(program)
    if reasons:
        raise LoweringError(f"{file} cannot be exported to {to}: {'; '.join(reasons)}")
    written = target.export(program, out, options)
    if as_json:
        facts = {**written.facts, "files": [str(path) for path in written.files]}
        typer.echo(json.dumps(facts, indent=2))
        return
    for line in (f"wrote {written.files[0]}", *written.lines):
        typer.echo(line)


def _read(source: str, library: dict[str, Any]) -> Program:
    """Return the packed model that `source` names, or pack it."""
    from bitskip.cli.lowering import lower_source
    from bitskip.errors import RunError
    from bitskip.program import Program
    from bitskip.zoo import packed_path, zoo_names

    path = Path(source)
    trained = path.is_dir() or path.suffix == ".safetensors" or ":" in source
    packed = path.suffix == ".bitskip" or source in zoo_names() or source.startswith("zoo:")
    if packed or not trained:
        if library:
            name = next(iter(library)).replace("_", "-")
            raise RunError(f"--{name} is for a library model, but '{source}' is a packed one; leave it out")
        return Program.load(packed_path(source))
    return lower_source(source, **library)
