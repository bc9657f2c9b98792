"""From what a word on the command line names to its Program, for `pack` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.cli.options import interactive, path_or_none, read_images, read_normalisation, say

if TYPE_CHECKING:
    from bitskip.program import Program

__all__ = ["lower_source"]


def lower_source(
    source: str,
    *,
    activations: str = "fp32",
    dense: str = "fp32",
    calibration: int = 512,
    data: str | None = None,
    weights: str | None = None,
    input_size: int | None = None,
    classes: int | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> Program:
    """Return the Program of a run, or of a library model with its weights; arguments as `bitskip pack`'s.

    Raises:
        RunError: if `source` names no trained network.
        LoweringError: if the network cannot run as asked for.
    """
    from bitskip.errors import LoweringError
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from bitskip.lower import lower
    from bitskip.lower.run import calibration_pictures, class_names, lower_run
    from bitskip.sources.load import IMAGENET, load_trained
    from bitskip.training.run import weights_metadata

    if activations == "int8" and calibration < 1:
        raise LoweringError(f"--calibration is {calibration}, expected at least 1 picture")
    loaded = load_trained(
        source,
        input_size=input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    for note in loaded.notes:
        say(f"note: {note}")
    options: dict[str, Any] = {"activations": activations, "dense": dense}
    if activations == "int8":
        images = read_images(data, loaded.input_shape[1])
        trained_on = () if loaded.run is None else class_names(weights_metadata(loaded.run))
        options["calibration"] = calibration_pictures(images, calibration, trained_on)
        count = len(options["calibration"])
        if count < calibration:
            say(f"note: {images.name} has only {count} training pictures for calibration")
        if interactive():
            say(f"calibrating on {count} pictures of {images.name}")
    options["input_shape"] = loaded.input_shape
    if not loaded.from_library:
        return lower_run(Path(source), model=loaded.model, **options)
    options["name"] = loaded.short_name
    known = loaded.normalisation
    if known is None:
        say(f"note: nothing says how pictures of {loaded.name} were normalised; ImageNet's is taken")
        known = IMAGENET
    return lower(loaded.model, known.mean, known.std, **options)
