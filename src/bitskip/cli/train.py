"""`bitskip train`: one network, one folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import (
    AcceleratorOption,
    ArithmeticOption,
    CompileOption,
    DataOption,
    DevicesOption,
    JsonOption,
    NodesOption,
    SizeOption,
    StrategyOption,
    epoch_line,
    gpus_of,
    interactive,
    parse_changes,
    path_or_none,
    read_images,
    say,
)


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="A named model or a spec's JSON file; a run, for its shape; zoo:NAME, to train on from its "
            "weights; or baseline:NAME."
        ),
    ],
    recipe: Annotated[str, typer.Option(help="A recipe's name, or the path of a YAML file.")] = "paper",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs; rescales the recipe's schedule.", show_default=False)
    ] = None,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the run.  [default: runs/MODEL-RECIPE]", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    width: Annotated[float, typer.Option(help="Multiply every width by this factor.")] = 1.0,
    input_size: SizeOption = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key of the recipe, e.g. latent.clip=1.5."
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Folder of a finished run to distil from.", show_default=False)
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="What to start from: the folder of a finished run, zoo:NAME or a .bitskip file; `none` for "
            "fresh weights.",
            show_default=False,
        ),
    ] = None,
    accelerator: AcceleratorOption = "auto",
    devices: DevicesOption = "auto",
    nodes: NodesOption = 1,
    strategy: StrategyOption = "auto",
    precision: ArithmeticOption = "auto",
    compiled: CompileOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one network and test its last epoch once.

    Ctrl-C leaves a run that `--resume` continues; every epoch leaves a checkpoint.

    Examples:

    - `bitskip train resnet14-hybrid-none --recipe paper --epochs 3`
    - `bitskip train resnet14-binary-all --width 0.25 --data mini --out runs/try`
    - `bitskip train resnet14-hybrid-all --recipe modern --data PICTURES --input-size 64 --out runs/mine`
    - `bitskip train zoo:resnet14-hybrid-all-x0.25-int8 --recipe modern --data PICTURES --out runs/mine`
    - `bitskip train resnet14-binary-all --out runs/try --resume`
    - `bitskip train baseline:mlperf-resnet8 --recipe modern`
    """
    from bitskip.errors import SpecError
    from bitskip.sources.trainable import trainable
    from bitskip.spec import NetworkSpec
    from bitskip.training import Hardware, is_first_process, load_recipe, what_is_kept
    from bitskip.training import train as run
    from bitskip.training.folder import trained_on_tests
    from bitskip.training.small import fit_recipe
    from bitskip.training.unpack import is_packed

    gpus_of(accelerator)  # a GPU that is not there is said before anything is written
    base = trainable(model)
    changes = parse_changes(change or []) | ({} if epochs is None else {"epochs": epochs})
    settled = load_recipe(recipe, base, changes)
    spec = base
    if isinstance(spec, NetworkSpec):
        spec = spec.scaled(width).resized(spec.input_size if input_size is None else input_size)
    elif width != 1:
        raise SpecError(f"--width does not apply to {spec.name}, which has the widths of its source")
    elif input_size is not None:
        spec = dataclasses.replace(spec, input_size=input_size)
    images = read_images(data, spec.input_size)
    if spec.classes != images.classes:
        say(f"{images.name} has {images.classes} classes: the head gets as many outputs")
        spec = dataclasses.replace(spec, classes=images.classes)
    start = _start(model, warm_start, width)
    kept = "fresh" if start is None else what_is_kept(start, images)
    own = Path(recipe).is_file()  # somebody's own recipe says itself how long it is
    settled, said = fit_recipe(
        settled,
        len(images.train_images),
        {*changes, *(("epochs", "batch_size") if own else ())},
        kept=kept,
    )
    if said:
        say(f"note: {said}")
    for before in (start, teacher):
        if (
            before is not None
            and not is_packed(before)
            and (warning := trained_on_tests(Path(before), images))
        ):
            say(f"note: {warning}")
    folder = Path(out) if out else Path("runs") / f"{spec.name.removeprefix('baseline:')}-{settled.name}"
    result = run(
        spec,
        settled,
        images,
        folder,
        seed=seed,
        resume=resume,
        hardware=Hardware(accelerator, devices, nodes, strategy, precision, compiled),
        teacher=path_or_none(teacher),
        warm_start=start,
        keep_better_start=kept == "all" and bool(said),
        progress_bar=interactive(),
        on_epoch=lambda entry: None if interactive() else say(epoch_line(entry, settled.epochs)),
    )
    if not is_first_process():
        return
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        if result.start_kept:
            say(
                f"the network as it started does better on the {result.validation_images} pictures held out "
                "of training, so it was kept; more pictures are needed to improve it"
            )
        trained = "as it started" if result.start_kept else f"after {result.epochs} epochs"
        typer.echo(
            f"{result.model}: test accuracy {result.test_accuracy:.2%} {trained} "
            f"({result.test_images:,} pictures of {result.data}); weights in {folder / 'weights.safetensors'}"
        )


def _start(model: str, warm_start: str | None, width: float) -> str | Path | None:
    """Return what to start from: what was named, else the packed weights of a zoo: model of its own width."""
    if warm_start == "none":
        return None
    if warm_start is None and model.startswith("zoo:") and width == 1:
        say(f"starting from the weights of {model} (--warm-start none: from fresh ones)")
        return model
    return warm_start if warm_start is None or warm_start.startswith("zoo:") else Path(warm_start)
