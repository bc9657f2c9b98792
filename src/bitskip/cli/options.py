"""Options that several commands share, and how long work shows itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from bitskip.data import ImageSet
    from bitskip.data.batches import Normalisation

DataOption = Annotated[
    str | None,
    typer.Option(
        help="Folder of the data set (CIFAR-10 or CIFAR-100 in the binary or torchvision's layout, or a "
        "folder of pictures), or `mini` for the bundled set. Default: $BITSKIP_DATA, the cache, a download "
        "of CIFAR-10, else the bundled set.",
        show_default=False,
    ),
]
AcceleratorOption = Annotated[str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, ...")]
DeviceOption = Annotated[
    str, typer.Option("--accelerator", help="Where to compute: auto (a GPU where there is one), cpu or gpu.")
]
DevicesOption = Annotated[str, typer.Option(help="Number of devices, or auto.")]
NodesOption = Annotated[int, typer.Option(help="Number of machines.")]
StrategyOption = Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp, ...")]
ArithmeticOption = Annotated[
    str, typer.Option("--precision", help="Arithmetic of training: auto, 32-true, bf16-mixed, 16-mixed.")
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Train through torch.compile: faster steps, slower start; needs a C++ compiler."
    ),
]
TtaOption = Annotated[
    str,
    typer.Option(
        "--tta",
        metavar="none|flip",
        help="Test-time augmentation. flip: report as well the accuracy of the mean logits of a picture and "
        "its mirror image.",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        help="What a library model's pictures (0..1) were normalised with, with commas between.  "
        "[default: the library's]",
        show_default=False,
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(help="Standard deviations, likewise.  [default: the library's]", show_default=False),
]
ClassesOption = Annotated[
    int | None,
    typer.Option(
        "--classes",
        help="Outputs of the network; a detector's count the background.  [default: as many as the weights "
        "have, else the network's own number]",
        show_default=False,
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        help="Height = width of the pictures, in pixels.  [default: the model's]",
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
WideOption = Annotated[
    bool, typer.Option("--wide", help="Print all columns of a table, however narrow the terminal is.")
]
JobsOption = Annotated[
    str,
    typer.Option(
        "--jobs",
        metavar="N|auto",
        help="Trainings at a time, each a process of its own. auto: six a GPU; on CPUs one a core for small "
        "networks, which gain nothing from a second thread.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|auto",
        help="Train on a Ray cluster (pip install 'bitskip[ray]'); every machine must see --out under the "
        "same path.",
        show_default=False,
    ),
]
SharedScalesOption = Annotated[
    bool,
    typer.Option(
        "--shared-scales",
        help="One int8 scale for a sum and the residual that it adds: other engines then add exactly in int8 "
        "(docs/onnx.md).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def gpus_of(accelerator: str) -> int:
    """Return how many GPUs `--accelerator` means on this machine.

    Raises:
        RunError: if a GPU is asked for and there is none.
    """
    if accelerator not in ("auto", "gpu", "cuda"):
        return 0
    import torch

    count = torch.cuda.device_count()
    if accelerator != "auto" and not count:
        from bitskip.errors import RunError

        raise RunError(
            f"--accelerator is {accelerator}, but torch {torch.__version__} sees no GPU here; use "
            "--accelerator cpu, or install a torch that knows your GPU"
        )
    return count


def device_of(accelerator: str) -> torch.device:
    """Return the device that `--accelerator` means on this machine.

    Raises:
        RunError: if it is none of auto, cpu and gpu, or a GPU is asked for and there is none.
    """
    import torch

    from bitskip.errors import RunError, nearest

    known = ("auto", "cpu", "gpu", "cuda")
    if accelerator not in known:
        raise RunError(
            f"--accelerator is '{accelerator}', expected auto, cpu or gpu{nearest(accelerator, known)}"
        )
    return torch.device("cuda" if gpus_of(accelerator) else "cpu")


def say(text: str) -> None:
    """Print one line for people on stderr, so that stdout stays clean for results."""
    typer.echo(text, err=True)


def interactive() -> bool:
    """Whether somebody watches the output, so that progress bars make sense."""
    return sys.stderr.isatty()


def read_images(data: str | None, size: int = 32) -> ImageSet:
    """Load the data set that `--data` names, with a progress bar for a download."""
    from bitskip.data import load_images

    if not interactive():
        return load_images(data, size=size, notice=say)
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("CIFAR-10"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("download", visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None, visible=True)

        return load_images(data, size=size, notice=bar.console.print, progress=show)


def epoch_line(entry: dict[str, Any], epochs: int) -> str:
    """Say in one line how an epoch went."""
    parts = [f"epoch {entry['epoch']}/{epochs}", f"training {entry['train_accuracy']:.1%}"]
    if "validation_accuracy" in entry:
        parts.append(f"validation {entry['validation_accuracy']:.1%}")
    if "sign_flip_share" in entry:
        parts.append(f"signs flipped {entry['sign_flip_share']:.2%}")
    parts.append(f"{entry['seconds']:.0f} s")
    return "  " + ", ".join(parts)


def wants_flip(tta: str) -> bool:
    """Read `--tta`."""
    from bitskip.errors import RunError, check_one_of
    from bitskip.runtime.accuracy import TTA

    check_one_of(tta, TTA, "--tta is", RunError)
    return tta == "flip"


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """Turn `key=value` words into recipe changes, each value read as YAML."""
    import yaml

    from bitskip.errors import RecipeError

    parsed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, got '{change}'")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {key}: '{value}' is no YAML value; quote or close it") from None
    return parsed


def path_or_none(value: str | None) -> Path | None:
    """Return the path, if there is one."""
    return None if value is None else Path(value)


def read_normalisation(mean: str | None, std: str | None) -> Normalisation | None:
    """Read `--mean` and `--std`; None if neither is given, ImageNet's for the one that is not."""
    if mean is None and std is None:
        return None
    from bitskip.data.batches import Normalisation
    from bitskip.errors import RunError
    from bitskip.sources.load import IMAGENET

    found = Normalisation(
        IMAGENET.mean if mean is None else _numbers("--mean", mean),
        IMAGENET.std if std is None else _numbers("--std", std),
    )
    if len(found.mean) != len(found.std) or not all(0 < value < float("inf") for value in found.std):
        raise RunError(
            f"got mean {found.mean} and std {found.std}, expected as many numbers of each, and std above 0"
        )
    return found


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from bitskip.errors import RunError

    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise RunError(f"{option} is '{text}', expected numbers with commas between them") from None
