"""How much accuracy comes back after a trained run loses its shortcuts: refit, one-shot, gradual, scratch.

    bitskip train resnet14-full-all --epochs 60 --out runs/teacher
    python benchmarks/shortcut_recovery.py runs/teacher --out runs/recovery --epochs 60 \
        --scratch none=runs/none --scratch middle=runs/middle

Stopped at any moment, the same command goes on. The folder gets results.json, page.md and recovery.svg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitskip.cli.options import epoch_line, read_images, say
from bitskip.errors import BitskipError, RunError
from bitskip.report.recovery import write_recovery
from bitskip.study.recovery import ARMS, TARGETS, Experiment, run_experiment


def main(
    teacher: Annotated[Path, typer.Argument(help="Folder of a finished run with all shortcuts.")],
    out: Annotated[Path, typer.Option(help="The experiment's folder.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each training arm.")] = 30,
    targets: Annotated[str, typer.Option(help=f"With commas, of {', '.join(TARGETS)}.")] = "middle,none",
    arms: Annotated[
        str, typer.Option(help=f"With commas, of {', '.join(ARMS)}.")
    ] = "continued,refit,one_shot,gradual",
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Of order and augmentation.")] = 0,
    precision: Annotated[
        str, typer.Option(help="Arithmetic of training: 32-true or bf16-mixed.")
    ] = "32-true",
    scratch: Annotated[
        list[str] | None, typer.Option(help="TARGET=FOLDER of a run trained without those shortcuts.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="As for `bitskip train`.")] = None,
) -> None:
    """Run the arms that are still missing, and write the results."""

    def on_arm(target: str, arm: str, done: bool) -> None:
        say(f"{target}, {arm}" + (": done already" if done else ""))

    def on_epoch(entry: dict[str, Any]) -> None:
        say(epoch_line(entry | {"validation_accuracy": entry["accuracy"]}, epochs))

    try:
        experiment = Experiment(
            tuple(targets.split(",")), tuple(arms.split(",")), epochs, learning_rate,
            batch_size=batch_size, seed=seed, precision=precision,
        )  # fmt: skip
        looked_up = {
            name: Path(folder) for name, _, folder in (word.partition("=") for word in scratch or ())
        }
        for name in looked_up:
            if name not in TARGETS:
                raise RunError(f"--scratch names '{name}', expected TARGET=FOLDER, of {', '.join(TARGETS)}")
        values = run_experiment(
            teacher, read_images(data), out, experiment, scratch=looked_up, on_arm=on_arm, on_epoch=on_epoch
        )
        page = write_recovery(values, out)
    except BitskipError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    typer.echo(page.read_text())


if __name__ == "__main__":
    typer.run(main)
