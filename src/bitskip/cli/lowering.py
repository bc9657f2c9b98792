"""From what a word on the command line names to its Program, for `pack` and `export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.cli.input_shapes import read_input_shapes
from bitskip.cli.options import interactive, path_or_none, read_images, read_normalisation, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bitskip.data import ImageSet
    from bitskip.program import Program
    from bitskip.sources.load import LoadedModel


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
    inputs: Sequence[str] = (),
    classes: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    shared_scales: bool = False,
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
    from bitskip.data.batches import Normalisation
    from bitskip.lower import lower
    from bitskip.lower.run import calibration_pictures, lower_run
    from bitskip.sources.load import IMAGENET, load_trained
    from bitskip.training.folder import class_names_of

    if calibration < 1:
        raise LoweringError(f"--calibration is {calibration}, expected at least 1 picture")
    shapes = read_input_shapes(inputs, input_size)
    loaded = load_trained(
        source,
        input_size=next(iter(shapes.values()))[1] if shapes else input_size,
        classes=classes,
        weights=path_or_none(weights),
        normalisation=read_normalisation(mean, std),
    )
    if loaded.task == "detection":
        raise LoweringError(
            f"{source} is a detector, whose proposals and boxes have no packed form; pack its backbone with "
            "bitskip.detection.pack_backbone(detector, size) and put that in with attach (docs/detection.md)"
        )
    if shapes and not loaded.from_library:
        raise LoweringError(f"{source} knows what it takes; leave --input out")
    for note in loaded.notes:
        say(f"note: {note}")
    trained_on = () if loaded.run is None else class_names_of(loaded.run)
    images = given = None
    if shapes:
        given = None if data is None else _calibration_by_name(Path(data), calibration)
    elif activations in (None, "int8"):
        images = _calibration_images(loaded, data, trained_on, wanted=activations == "int8")
    if activations is None:
        activations = "fp32" if images is None and given is None else "int8"
        dense = dense or activations
        if activations == "fp32":
            say(
                "note: packed with fp32 activations, for there are no pictures at hand to set int8 ranges; "
                "name them with --data for a smaller and faster file"
            )
    options: dict[str, Any] = {"activations": activations, "dense": dense or "fp32"}
    if shared_scales:
        if activations != "int8":
            raise LoweringError("--shared-scales is for int8 activations, but these are fp32; leave it out")
        options["shared_scales"] = True
    if given is not None:
        options["calibration"] = given
    if images is not None:
        options["calibration"] = calibration_pictures(images, calibration, trained_on)
        count = len(options["calibration"])
        if count < calibration:
            say(f"note: {images.name} has only {count} training pictures for calibration")
        if interactive():
            say(f"calibrating on {count} pictures of {images.name}")
    normalisation = loaded.normalisation
    if shapes and normalisation is None:
        say("note: nothing says how the inputs were normalised; pixels are taken as x / 255 (--mean, --std)")
        normalisation = Normalisation((), ())
    elif loaded.from_library and normalisation is None:
        say(f"note: nothing says how pictures of {loaded.name} were normalised; ImageNet's is taken")
        normalisation = IMAGENET

    def again(**asked: Any) -> Program:
        asked["input_shape"] = shapes or loaded.input_shape
        if not loaded.from_library:
            return lower_run(Path(source), model=loaded.model, **asked)
        known = normalisation or IMAGENET
        asked |= {"name": loaded.short_name, "class_names": trained_on}
        return lower(loaded.model, known.mean, known.std, **asked)

    return Lowered(again(**options), images, trained_on, again)


def _calibration_by_name(path: Path, count: int) -> dict[str, npt.NDArray[np.uint8]]:
    """Return `count` pictures of each input, the same ones of each, from an .npz file of arrays by name."""
    import zipfile

    import numpy as np

    from bitskip.errors import DataError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            given = {name: np.asarray(arrays[name]) for name in arrays}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile):
        raise DataError(
            f"--data is '{path}', expected an .npz file with uint8 pictures (N, H, W, C) of each --input, "
            "by name"
        ) from None
    order = np.random.default_rng(0).permutation(max((len(array) for array in given.values()), default=0))
    return {name: array[order[order < len(array)][:count]] for name, array in given.items()}


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
