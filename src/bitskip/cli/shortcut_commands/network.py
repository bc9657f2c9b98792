"""Which network the commands work on, and the pictures that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import device_of, path_or_none, read_images, read_normalisation, say
from bitskip.sources import SOURCES_HELP

if TYPE_CHECKING:
    from bitskip.sources.load import LoadedModel

ModelArgument = Annotated[
    str,
    typer.Argument(help=SOURCES_HELP, show_default=False),
]
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="JSON file from `bitskip shortcuts plan`.")]


def load_network(
    model: str,
    input_size: int | None,
    classes: int | None = None,
    weights: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    accelerator: str = "cpu",
) -> LoadedModel:
    """Return the network on its device, and say what was settled without being asked."""
    from bitskip.sources.load import load_model

    device = device_of(accelerator)
    loaded = load_model(
        model,
        input_size=input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    loaded.model.to(device)
    for note in loaded.notes:
        say(f"note: {note}")
    return loaded


def batches_of(loaded: LoadedModel, data: str | None, batch_size: int) -> tuple[Any, Any]:
    """Return batches to train on and batches to judge on, on the network's device."""
    from bitskip.sources.pruned import batches_for
    from bitskip.training.folder import class_names_of

    images = read_images(data, size=loaded.input_shape[1])
    known = () if loaded.run is None else class_names_of(loaded.run)
    if known:  # labels are matched by name, as in `bitskip eval`
        images = images.for_classes(known, len(known), loaded.name, say)
    return batches_for(loaded, images, batch_size)
