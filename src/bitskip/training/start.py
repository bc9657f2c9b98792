"""What a run starts from: another run's weights or packed ones, and the network that it learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from bitskip.data import ImageSet
from bitskip.data.batches import Batches
from bitskip.data.image_set import are_numbers, some_names
from bitskip.errors import RunError
from bitskip.files import read_json
from bitskip.nn.baselines import Baseline
from bitskip.spec import NetworkSpec
from bitskip.training.folder import RunResult, class_names_of, load_run, load_weights, weights_file
from bitskip.training.initial import match_classes
from bitskip.training.module import Splits
from bitskip.training.recipes import Recipe
from bitskip.training.unpack import is_packed, unpack_weights
from bitskip.zoo import packed_path


def name_of(start: Path | str) -> str:
    """Return what results call what a run starts from: a folder's or a file's name, or `zoo:NAME`."""
    return str(start) if is_packed(start) and isinstance(start, str) else Path(start).name


def file_of(start: Path | str) -> Path:
    """Return the file with the weights to start from: a run's, or a packed one."""
    file = packed_path(start) if is_packed(start) else weights_file(Path(start))
    if not file.is_file():
        raise RunError(
            f"there is no file {file} to start from; name a finished run, zoo:NAME or a .bitskip file"
        )
    return file


def weights_of(
    start: Path | str, splits: Splits, recipe: Recipe, images: ImageSet, head: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Return the weights to start from, the head's for the classes of `images`.

    Raises:
        RunError: if there are none, or a packed network takes pictures of other channels.
    """
    if not is_packed(start):
        known = class_names_of(Path(start))
        return match_classes(load_weights(Path(start)), known, images.class_names, head)
    from bitskip.program import Program

    program = Program.load(packed_path(start))
    height, width, channels = program.input_shape
    own = splits.train[0].shape[3]
    if own != channels:
        raise RunError(f"{start} takes pictures of {channels} channels, but these have {own}")
    pictures, _ = next(iter(Batches(*splits.train, splits.normalisation, 256)))
    if pictures.shape[2:] != (height, width):  # the network is measured at its own size
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    weights = unpack_weights(program, pictures, recipe.latent.standardise)
    return match_classes(weights, program.class_names, images.class_names, head)


def what_is_kept(start: Path | str, images: ImageSet) -> Literal["body", "all"]:
    """Return what of the weights to start from a network for `images` keeps: `all` if it knows their classes.

    Raises:
        RunError: if there is no such file; SpecError for a name that the zoo does not have.
    """
    if is_packed(start):
        from bitskip.program import Program

        known = tuple(Program.load(file_of(start)).class_names)
    else:
        known = class_names_of(Path(start))
    wanted = images.class_names
    by_name = not are_numbers(known) and not are_numbers(wanted) and set(wanted) <= set(known)
    return "all" if by_name or known == wanted else "body"


def epochs_of(start: Path | str) -> int:
    """Return for how many epochs the weights of a run were trained, those of its own start included."""
    if is_packed(start):
        card = packed_path(start).with_suffix(".json")
        known = read_json(card) if card.is_file() else {}
        return int(known.get("epochs", 0)) + int(known.get("epochs_before", 0))
    file = weights_file(Path(start)).with_name("result.json")
    if not file.is_file():  # weights that somebody moved; nothing says how long they were trained
        return 0
    result = RunResult.load(file.parent)
    return result.epochs + result.epochs_before


def load_teacher(folder: Path, spec: NetworkSpec | Baseline, images: ImageSet) -> nn.Module:
    """Return the network of a finished run to learn from; raises RunError if its classes are others."""
    teaching, model = load_run(folder)
    if teaching.classes != spec.classes:
        raise RunError(
            f"teacher {folder} has {teaching.classes} classes, but '{spec.name}' has {spec.classes}; "
            "choose a teacher trained on the same classes"
        )
    known = class_names_of(folder)
    named = known and not are_numbers(known) and not are_numbers(images.class_names)
    if named and known != images.class_names:
        other = "them in another order" if set(known) == set(images.class_names) else some_names(known)
        raise RunError(
            f"{images.name} has the classes {some_names(images.class_names)}, but teacher {folder} was "
            f"trained on {other}; choose a teacher trained on the same classes in the same order"
        )
    return model.requires_grad_(False).to(memory_format=torch.channels_last)
