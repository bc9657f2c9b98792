"""From what a word on the command line names to its Program, for `pack` and `export`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.cli.options import interactive, path_or_none, read_images, read_normalisation, say

if TYPE_CHECKING:
    from bitskip.data import ImageSet
    from bitskip.program import Program
    from bitskip.sources.load import LoadedModel

__all__ = ["Lowered", "lower_loaded", "lower_source"]


@dataclass(frozen=True)
class Lowered:
    """A Program, what set its int8 ranges, and how to lower the same network otherwise."""

    program: Program
    images: ImageSet | None  # the data set that int8 ranges were measured on
    trained_on: tuple[str, ...]  # the classes that its run was trained on; nothing if they are not known
    again: Callable[..., Program]  # with other options of `bitskip.lower.lower`


def lower_source(source: str, *, activations: str | None = "fp32", **options: Any) -> Program:
    """Return the Program of a run, or of a library model with its weights; see `lower_loaded`."""
    return lower_loaded(source, activations=activations, **options).program


def lower_loaded(
    source: str,
    *,
    activations: str | None = None,
    dense: str | None = None,
    calibration: int = 512,
    data: str | None = None,
    weights: str | None = None,
    input_size: int | None = None,
    classes: int | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> Lowered:
    """Lower a run, or a library model with its weights; arguments as `bitskip pack`'s.

    Without `activations` it becomes int8 throughout where pictures to calibrate on are at hand, else fp32.

    Raises:
        RunError: if `source` names no trained network.
        LoweringError: if the network cannot run as asked for.
    """
    from bitskip.errors import LoweringError
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from bitskip.lower import lower
    from bitskip.lower.run import calibration_pictures, lower_run
    from bitskip.sources.load import IMAGENET, load_trained
    from bitskip.training.folder import class_names_of

    if calibration < 1:
        raise LoweringError(f"--calibration is {calibration}, expected at least 1 picture")
    loaded = load_trained(
        source,
        input_size=input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    if loaded.task == "detection":
        raise LoweringError(
            f"{source} is a detector, whose proposals and boxes have no packed form; pack its backbone with "
            "bitskip.detection.pack_backbone(detector, size) and put that in with attach (docs/detection.md)"
        )
    for note in loaded.notes:
        say(f"note: {note}")
    trained_on = () if loaded.run is None else class_names_of(loaded.run)
    images = None
    if activations in (None, "int8"):
        images = _calibration_images(loaded, data, trained_on, wanted=activations == "int8")
    if activations is None:
        activations = "fp32" if images is None else "int8"
        dense = dense or activations
        if images is None:
            say(
                "note: packed with fp32 activations, for there are no pictures at hand to set int8 ranges; "
                "name them with --data for a smaller and faster file"
            )
    options: dict[str, Any] = {"activations": activations, "dense": dense or "fp32"}
    if images is not None:
        options["calibration"] = calibration_pictures(images, calibration, trained_on)
        count = len(options["calibration"])
        if count < calibration:
            say(f"note: {images.name} has only {count} training pictures for calibration")
        if interactive():
            say(f"calibrating on {count} pictures of {images.name}")
    normalisation = loaded.normalisation
    if loaded.from_library and normalisation is None:
        say(f"note: nothing says how pictures of {loaded.name} were normalised; ImageNet's is taken")
        normalisation = IMAGENET

    def again(**asked: Any) -> Program:
        asked["input_shape"] = loaded.input_shape
        if not loaded.from_library:
            return lower_run(Path(source), model=loaded.model, **asked)
        known = normalisation or IMAGENET
        asked |= {"name": loaded.short_name, "class_names": trained_on}
        return lower(loaded.model, known.mean, known.std, **asked)

    return Lowered(again(**options), images, trained_on, again)


def _calibration_images(
    loaded: LoadedModel, data: str | None, trained_on: tuple[str, ...], *, wanted: bool
) -> ImageSet | None:
    """Return the pictures of --data, else those that the run was trained on; None if there are none at hand.

    Args:
        loaded: the network.
        data: what --data names.
        trained_on: the classes that its run was trained on; nothing if they are not known.
        wanted: int8 was asked for: then the data set is fetched, as for training.
    """
    from bitskip.data.resolve import at_hand

    size = loaded.input_shape[1]
    if data is not None:
        return read_images(data, size)
    source = None if loaded.run is None else _data_source(loaded.run)
    if source is None and (loaded.run is None or not at_hand()):
        return read_images(None, size) if wanted else None
    images = read_images(source, size)
    if trained_on and set(trained_on) == set(images.class_names):
        return images.for_classes(trained_on, len(trained_on), loaded.name)  # in whichever order they come
    return images if wanted or not trained_on else None


def _data_source(run: Path) -> str | None:
    """Return what `--data` would name the data of a run by, if it is still there."""
    from bitskip.errors import FileFormatError
    from bitskip.files import read_json

    folder = run if run.is_dir() else run.parent
    try:
        source = read_json(folder / "run.json").get("data_source")
    except (FileFormatError, AttributeError):
        return None
    return source if source == "mini" or (isinstance(source, str) and Path(source).is_dir()) else None
