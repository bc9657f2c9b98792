"""`bitskip shortcuts`: list, score, plan and prune the shortcuts of any PyTorch model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import (
    ClassesOption,
    DataOption,
    JsonOption,
    MeanOption,
    StdOption,
    WideOption,
    epoch_line,
    interactive,
    path_or_none,
    read_images,
    read_normalisation,
    say,
)
from bitskip.sources import SOURCES_HELP

if TYPE_CHECKING:
    from bitskip.pruning import Gain
    from bitskip.sources.load import LoadedModel

_shortcuts = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Find, score and remove the shortcuts of any PyTorch model.\n\n"
    f"MODEL: {SOURCES_HELP[0].lower()}{SOURCES_HELP[1:]}\n\n"
    "A first look: `bitskip shortcuts list torchvision:resnet18`.",
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        help=SOURCES_HELP,
        show_default=False,
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        help="Height = width of the picture, in pixels.  [default: the model's]",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="State dict for a network that is not bitskip's own: .safetensors, or .pt of tensors only.",
        show_default=False,
    ),
]


_FEWEST_BATCHES = 10  # that scores are judged on, if there are as many pictures


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    _shortcuts.command("list")(list_)
    _shortcuts.command("score")(score)
    _shortcuts.command("plan")(plan)
    _shortcuts.command("prune")(prune)
    _shortcuts.command("recover")(recover)
    _shortcuts.command("coverage")(coverage)
    app.add_typer(_shortcuts, name="shortcuts")


def list_(
    model: ModelArgument,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
) -> None:
    """List a model's shortcuts and what removing them all would free.

    Examples:

    - `bitskip shortcuts list resnet14-full-all`
    - `bitskip shortcuts list torchvision:resnet50 --json`
    - `bitskip shortcuts list timm:resnet18d --input-size 64`
    """
    from bitskip.cli.detector_shortcuts import analysis_of, gains_of
    from bitskip.pruning import plan_shortcuts, remove_shortcuts

    loaded = _load(model, input_size, classes)
    analysis = analysis_of(loaded)
    gains: list[Gain] = []
    if analysis.shortcuts:
        nothing_left = remove_shortcuts(loaded.model, plan_shortcuts(loaded.model, analysis, "none"))
        gains = gains_of(loaded, nothing_left)
    if as_json:
        values = {
            "model": loaded.name,
            "input_shape": list(loaded.input_shape),
            "shortcuts": [shortcut.to_dict() for shortcut in analysis.shortcuts],
            "without_all": [gain.to_dict() for gain in gains],
            "notes": list(analysis.notes),
        }
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import byte_size, number, print_table

    if not analysis.shortcuts:
        typer.echo(f"{loaded.name} has no shortcuts.")
        return
    print_table(
        f"Shortcuts of {loaded.name}, input {'x'.join(map(str, loaded.input_shape))}",
        ["id", "kind", "memory", "at its block's peak", "parameters", "shape", "stage", "traffic"],
        [
            [
                s.id, s.kind, byte_size(s.bytes), byte_size(s.peak_bytes), number(s.parameters),
                "x".join(map(str, s.shape)), number(s.stage), byte_size(s.traffic_bytes),
            ]
            for s in analysis.shortcuts
        ],
        left_columns=(0, 1),
        wide=wide,
        notes=[f"note: {note}" for note in analysis.notes],
    )  # fmt: skip
    _print_gains("With all of them removed", gains)


def score(
    model: ModelArgument,
    out: Annotated[
        str, typer.Option(help="JSON file of the scores; scoring goes on from it.")
    ] = "scores.json",
    data: DataOption = None,
    batches: Annotated[int, typer.Option(help="Batches to judge on, at most.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch.")] = 100,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close each shortcut alone, re-estimate batch norm, and measure what changes.

    Judged on pictures held out of the training set, never on test pictures. Interrupted, the same command
    goes on where it stopped.

    Examples:

    - `bitskip shortcuts score runs/resnet14-full-all-paper --out scores.json`
    - `bitskip shortcuts score runs/small --data mini --json`
    """
    import dataclasses

    from bitskip.cli.detector_shortcuts import analysis_of, score_loaded
    from bitskip.pruning import score_shortcuts

    loaded = _load(model, input_size, classes, weights, mean, std)
    if not loaded.trained:
        say(f"note: {loaded.name} has random weights, so its scores mean little")
    if loaded.task == "detection":
        with _progress("scoring") as show:
            scores = score_loaded(loaded, data, batches, batch_size, Path(out), show)
    else:
        calibration, held_out = _batches(loaded, data, batch_size)
        # An interval needs several batches: of few pictures, smaller ones.
        held_out.batch_size = min(batch_size, max(1, len(held_out.labels) // _FEWEST_BATCHES))
        analysis = analysis_of(loaded)
        with _progress("scoring") as show:
            scores = score_shortcuts(
                loaded.model,
                analysis.shortcuts,
                held_out,
                calibration=calibration,
                # The pictures asked for, in smaller batches; a number below 1 is refused as it was given.
                max_batches=batches * batch_size // held_out.batch_size if batches > 0 else batches,
                calibration_batches=batches,
                cache=Path(out),
                progress=show,
            )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(value) for value in scores.values()], indent=2))
        return
    from bitskip.terminal import print_table

    def figure(mean: float, ci: float | None, scale: float = 1.0, digits: int = 4) -> str:
        spread = "" if ci is None else f" ± {ci * scale:.{digits}f}"
        return f"{mean * scale:+.{digits}f}{spread}"

    print_table(
        f"Closing one shortcut of {loaded.name} (mean ± 95% interval over batches)",
        ["id", "loss", "change of maps", "AP50, points"]
        if loaded.task == "detection"
        else ["id", "loss", "KL of outputs", "accuracy, points"],
        [
            [
                s.id,
                figure(s.loss_change, s.loss_ci),
                figure(s.kl, s.kl_ci),
                figure(s.accuracy_change, s.accuracy_ci, 100, 2),
            ]
            for s in scores.values()
        ],
    )


def plan(
    model: ModelArgument,
    keep: Annotated[
        str | None,
        typer.Option(
            help="all, middle (first and last stage lose theirs), none, how many to keep, or ids with "
            "commas.  [default: middle]",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="Scores from `bitskip shortcuts score`.", show_default=False)
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(help="Points that the single drops may sum up to, e.g. 1.5.", show_default=False),
    ] = None,
    target_peak: Annotated[
        int | None,
        typer.Option(help="Bytes of activations for one picture to come down to.", show_default=False),
    ] = None,
    executor: Annotated[str, typer.Option(help="Whose peak: naive or in_place.")] = "naive",
    shorten: Annotated[
        bool | None,
        typer.Option(
            "--shorten/--no-shorten",
            help="Make one skip over a block one per convolution instead of removing it, where shapes allow. "
            " [default: around 1-bit activations only]",
            show_default=False,
        ),
    ] = None,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    out: Annotated[str, typer.Option(help="JSON file of the plan.")] = "plan.json",
    as_json: JsonOption = False,
) -> None:
    """Choose which shortcuts go, and write that down.

    Examples:

    - `bitskip shortcuts plan resnet14-full-all --keep middle`
    - `bitskip shortcuts plan torchvision:resnet50 --target-peak 5000000 --executor in_place`
    - `bitskip shortcuts plan runs/teacher --scores scores.json --max-accuracy-drop 2`
    - `bitskip shortcuts plan torchvision:resnet18 --keep layer2.0,layer3.0`
    """
    from bitskip.cli.detector_shortcuts import analysis_of, gains_of
    from bitskip.pruning import load_scores, plan_shortcuts, remove_shortcuts

    loaded = _load(model, input_size, classes)
    analysis = analysis_of(loaded)
    chosen = plan_shortcuts(
        loaded.model,
        analysis,
        _kept(keep),
        scores=None if scores is None else load_scores(Path(scores), loaded.model),
        max_accuracy_drop=None if max_accuracy_drop is None else max_accuracy_drop / 100,
        target_peak=target_peak,
        executor=executor,
        shorten=shorten,
    )
    chosen.save(Path(out))
    gains = gains_of(loaded, remove_shortcuts(loaded.model, chosen))
    if as_json:
        values = chosen.to_dict() | {"gains": [gain.to_dict() for gain in gains]}
        typer.echo(json.dumps(values, indent=2))
        return
    from bitskip.terminal import print_table

    typer.echo(f"{loaded.name}, {chosen.rule}")
    print_table(
        "Plan",
        ["id", "action"],
        [[entry.id, entry.action] for entry in chosen.shortcuts],
        left_columns=(0, 1),
        notes=[f"note: {note}" for note in chosen.notes],
    )
    _print_gains("What it changes", gains)
    typer.echo(f"written to {out}")


def prune(
    model: ModelArgument,
    plan_file: Annotated[
        str, typer.Argument(metavar="PLAN", help="JSON file from `bitskip shortcuts plan`.")
    ],
    out: Annotated[str, typer.Option(help="Folder for the weights, the plan and a report.")],
    data: DataOption = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Refit each block and batch norm on training pictures (no training)."),
    ] = False,
    batches: Annotated[int, typer.Option(help="Batches to refit on, with --refit.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch, with --refit.")] = 100,
    timed: Annotated[
        bool, typer.Option("--timed", help="Also time a forward pass before and after.")
    ] = False,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out a plan: additions and dead projections go, outputs equal those of closed gates.

    Without `--refit` the weights stay as they are and accuracy falls until the network is trained on
    (`bitskip.pruning.recover`, docs/shortcuts.md). A pruned bitskip run stays one: every command takes it,
    unless shortcuts were shortened; then `bitskip pack` does.

    Examples:

    - `bitskip shortcuts prune runs/teacher plan.json --out runs/pruned --refit`
    - `bitskip shortcuts prune torchvision:resnet50 plan.json --out pruned --weights resnet50.safetensors`
    """
    from bitskip.cli.detector_shortcuts import gains_of
    from bitskip.errors import PruningError
    from bitskip.pruning import Plan
    from bitskip.sources.pruned import prune_loaded, write_pruned

    loaded = _load(model, input_size, classes, weights, mean, std)
    chosen = Plan.load(Path(plan_file))
    if refit and loaded.task == "detection":
        raise PruningError("--refit is for classifiers; train a detector on with `bitskip shortcuts recover`")
    sets = _batches(loaded, data, batch_size) if refit else None
    pruned, measures = prune_loaded(loaded, chosen, sets, batches)
    gains = gains_of(loaded, pruned, timed=timed)
    report = {
        "model": loaded.name,
        "gains": [gain.to_dict() for gain in gains],
        "held_out_accuracy": measures,
    }
    write_pruned(Path(out), loaded, pruned, chosen, report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    _print_gains(f"{loaded.name}: {chosen.rule}", gains)
    for name, value in measures.items():
        typer.echo(f"held-out accuracy, {name}: {value:.2%}")
    typer.echo(f"written to {out}")


def recover(
    model: ModelArgument,
    plan_file: Annotated[
        str, typer.Argument(metavar="PLAN", help="JSON file from `bitskip shortcuts plan`.")
    ],
    out: Annotated[str, typer.Option(help="Folder for the state, the weights, the plan and a report.")],
    epochs: Annotated[int, typer.Option(help="Epochs in all.")] = 20,
    schedule: Annotated[
        str, typer.Option(help="gradual (one gate after another), together, or one_shot.")
    ] = "gradual",
    interval: Annotated[
        float, typer.Option(help="gradual: epochs from one gate to the next, or a part of one.")
    ] = 1,
    fade: Annotated[float, typer.Option(help="Epochs that a gate takes to close.")] = 1.0,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="gradual: points of held-out accuracy below the teacher at which a gate reopens.",
            show_default=False,
        ),
    ] = None,
    teacher_weight: Annotated[
        float, typer.Option(help="Share of the distance to the teacher's outputs in the loss, 0..1.")
    ] = 0.35,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Of order and augmentation.")] = 0,
    precision: Annotated[
        str, typer.Option(help="Arithmetic of training: 32-true or bf16-mixed.")
    ] = "32-true",
    data: DataOption = None,
    input_size: SizeOption = None,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train while the plan's shortcuts fade out, then remove them.

    Interrupted, the same command goes on from its last epoch.

    Examples:

    - `bitskip shortcuts recover runs/teacher plan.json --out runs/pruned --epochs 30 --interval 3 --fade 3`
    - `bitskip shortcuts recover runs/teacher plan.json --out runs/pruned --max-accuracy-drop 1`
    """
    from bitskip.cli.detector_shortcuts import gains_of, recover_loaded_detector
    from bitskip.errors import PruningError
    from bitskip.pruning import Plan, RecoverySettings
    from bitskip.sources.pruned import recover_loaded, write_pruned

    loaded = _load(model, input_size, classes, weights, mean, std)
    if not 0 <= teacher_weight <= 1:
        raise PruningError(f"--teacher-weight is {teacher_weight:g}, expected a share, 0 to 1")
    if loaded.task == "detection":
        if (schedule, interval, fade, max_accuracy_drop, seed) != ("gradual", 1, 1.0, None, 0):
            raise PruningError(
                "a detector's gates close one after another over the first third of its training; leave out "
                "--schedule, --interval, --fade, --max-accuracy-drop and --seed"
            )
        carried_out = Plan.load(Path(plan_file))
        recovered, precisions = recover_loaded_detector(
            loaded,
            carried_out,
            data,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            teacher_weight=teacher_weight,
            mixed=precision == "bf16-mixed",
        )
        gains = gains_of(loaded, recovered)
        report: dict[str, Any] = {
            "model": loaded.name,
            "gains": [gain.to_dict() for gain in gains],
            "held_out_ap50": precisions,
        }
        write_pruned(Path(out), loaded, recovered, carried_out, report)
        if as_json:
            typer.echo(json.dumps(report, indent=2))
            return
        _print_gains(f"{loaded.name}: {carried_out.rule}", gains)
        typer.echo(
            f"held-out AP50 {precisions['pruned']:.2%}, before {precisions['before']:.2%}; written to {out}"
        )
        return
    settings = RecoverySettings(
        schedule=schedule,
        epochs=epochs,
        interval=interval,
        fade=fade,
        learning_rate=learning_rate,
        weight_decay=0.0,
        ce_weight=1 - teacher_weight,
        mse_weight=teacher_weight,
        max_accuracy_drop=None if max_accuracy_drop is None else max_accuracy_drop / 100,
        precision=precision,
    )

    def show(entry: dict[str, Any]) -> None:
        say(epoch_line(entry | {"validation_accuracy": entry["accuracy"]}, epochs))
        if "rolled_back" in entry:
            say(f"  '{entry['rolled_back']}' stays: without it the accuracy fell too far")

    result = recover_loaded(
        loaded,
        Plan.load(Path(plan_file)),
        _batches(loaded, data, batch_size),
        settings,
        seed=seed,
        folder=Path(out),
        on_epoch=show,
    )
    gains = gains_of(loaded, result.model)
    report = {
        "model": loaded.name,
        "gains": [gain.to_dict() for gain in gains],
        "held_out_accuracy": {"teacher": result.teacher_measure, "pruned": result.measure},
        "rolled_back": list(result.rolled_back),
        "history": result.history,
    }
    write_pruned(Path(out), loaded, result.model, result.plan, report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    _print_gains(f"{loaded.name}: {result.plan.rule}", gains)
    typer.echo(
        f"held-out accuracy {result.measure:.2%}, before {result.teacher_measure:.2%}; written to {out}"
    )


def coverage(
    out: Annotated[str, typer.Option(help="Page to write; the JSON goes beside it.")],
    only: Annotated[
        str | None, typer.Option(help="Model names, with commas; all if not given.", show_default=False)
    ] = None,
) -> None:
    """Try every image classifier of torchvision, and write what was found and proven.

    Example: `bitskip shortcuts coverage --out docs/shortcuts-coverage.md`
    """
    from bitskip.errors import SpecError, nearest
    from bitskip.files import write_json, write_text
    from bitskip.pruning.coverage import cover, coverage_page, library_versions, torchvision_classifiers

    known = torchvision_classifiers()
    names = known if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise SpecError(f"unknown torchvision classifier '{name}'{nearest(name, known)}")
    values = {"versions": library_versions(), "rows": cover(names, lambda name: say(name))}
    page = Path(out)
    write_json(page.with_suffix(".json"), values)
    write_text(page, coverage_page(values))


# -- shared -------------------------------------------------------------------------------------------


def _load(
    model: str,
    input_size: int | None,
    classes: int | None = None,
    weights: str | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> LoadedModel:
    from bitskip.sources.load import load_model

    loaded = load_model(
        model,
        input_size=input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    for note in loaded.notes:
        say(f"note: {note}")
    return loaded


def _batches(loaded: LoadedModel, data: str | None, batch_size: int) -> tuple[Any, Any]:
    from bitskip.lower.run import class_names
    from bitskip.sources.pruned import batches_for
    from bitskip.training.folder import weights_metadata

    images = read_images(data, size=loaded.input_shape[1])
    known = () if loaded.run is None else class_names(weights_metadata(loaded.run))
    if known:  # labels are matched by name, as in `bitskip eval`
        images = images.for_classes(known, len(known), loaded.name, say)
    return batches_for(loaded, images, batch_size)


def _kept(keep: str | None) -> str | int | list[str] | None:
    from bitskip.pruning.choose import PRESETS

    if keep is None or keep in PRESETS:
        return keep
    return int(keep) if keep.isdigit() else [name.strip() for name in keep.split(",")]


def _print_gains(title: str, gains: list[Gain]) -> None:
    from bitskip.terminal import byte_size, number, print_table

    def cell(value: float | None, unit: str) -> str:
        if unit == "bytes":
            return byte_size(None if value is None else int(value))
        if unit == "seconds":
            return "?" if value is None else f"{value * 1000:.2f} ms"
        return number(None if value is None else int(value))

    rows = []
    for gain in gains:
        change = "" if gain.change is None else "=" if gain.change == 0 else f"{gain.change:+.1%}"
        rows.append(
            [gain.name, cell(gain.before, gain.unit), cell(gain.after, gain.unit), change, gain.remark]
        )
    print_table(title, ["", "before", "after", "change", ""], rows, left_columns=(0, 4), prose=(4,))


@contextmanager
def _progress(label: str) -> Iterator[Any]:
    """Yield a function (done, total, name) that shows a bar where somebody watches, else lines."""
    if not interactive():
        yield lambda done, total, name: say(f"{label} {done + 1}/{total}: {name}") if name else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=f"{label} {name}"
        )
