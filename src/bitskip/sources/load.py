"""Any network that the grammar names, as a torch module in evaluation mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.data import ImageSet
from bitskip.data.batches import Normalisation, held_out_count
from bitskip.errors import FileFormatError, RunError, SpecError
from bitskip.files import read_json
from bitskip.nn import binary_layers, build
from bitskip.nn.baselines import Baseline
from bitskip.sources.grammar import Kind, Source, parse, spec_of
from bitskip.sources.libraries import (
    IMAGENET,
    Built,
    build_baseline_named,
    build_timm,
    build_torchvision,
    parameters_on_meta,
)
from bitskip.sources.python_file import build_from_file, picture_shape
from bitskip.sources.state import classes_in, fit, load_into, read_state
from bitskip.spec import NetworkSpec

__all__ = ["IMAGENET", "LoadedModel", "load_model", "load_trained"]

HELD_OUT = 5000  # pictures of the training set to judge on, where no run says how many it held out
_KNOWS_ITS_OWN = "--mean and --std go with torchvision: and timm: models; '{}' knows its own"


@dataclass(frozen=True)
class LoadedModel:
    """A module in evaluation mode and what it takes."""

    name: str
    model: nn.Module
    input_shape: tuple[int, int, int]  # channels, height, width
    trained: bool  # False: its weights are random
    run: Path | None = None  # the weights file of a bitskip run
    source: str = ""  # gives the architecture again, if anything does: a word of the grammar or a spec's JSON
    normalisation: Normalisation | None = None  # of the pictures it was trained on; None: not known
    held_out: int = HELD_OUT  # training pictures that its run did not train on
    task: str = "classification"  # classification, segmentation or detection
    classes: int | None = None  # that a library's network was built for, if not the library's own number
    own: bool = True  # a network of bitskip, which knows its normalisation and its spec
    notes: tuple[str, ...] = ()  # what was settled without being asked, for people

    @property
    def from_library(self) -> bool:
        """Whether it is not a network of bitskip's own, pruned or not."""
        return not self.own

    @property
    def short_name(self) -> str:
        """Its name without the library or the file."""
        return self.name.rpartition(":")[2]

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))

    def held_out_of(self, images: ImageSet) -> int:
        """Return how many training pictures of `images` to judge on."""
        return held_out_count(self.held_out, len(images.train_images))

    def example(self, batch: int = 1) -> Tensor:
        """Return a batch of random pictures that the model takes, the same every time, on its device."""
        pictures = torch.randn(batch, *self.input_shape, generator=torch.Generator().manual_seed(0))
        return pictures.to(self.device)


def load_model(
    source: str,
    *,
    input_size: int | None = None,
    classes: int | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
    on_meta: bool = False,
) -> LoadedModel:
    """Return the model that `source` names.

    Args:
        source: a word of the grammar of `bitskip.sources.grammar`.
        input_size: height = width in pixels; None for the model's usual size.
        classes: outputs; None for as many as the weights have, or the model's usual number.
        weights: state dict for a network that is not bitskip's own: `.safetensors`, or `.pt` of tensors only.
        normalisation: of such a network's pictures; None for the library's. Runs know their own.
        on_meta: for counts: a library's weights take no memory and have no values, and auxiliary heads stay.

    Raises:
        SpecError: for an unknown name, a number that the network does not take, or a normalisation or
            classes for a run.
        RunError: if a library is not installed, or the folder holds no finished run.
        FileFormatError: if the weights do not fit.
    """
    word = parse(source)
    if word.takes_weights:
        return _foreign(word, input_size, classes, weights, normalisation, on_meta)
    if weights is not None:
        raise SpecError(
            f"--weights goes with torchvision: and timm: models; give the run's folder, not '{source}'"
        )
    if word.kind is Kind.RUN:
        if classes is not None:
            raise SpecError(f"--classes does not apply to '{source}': a trained network has its own")
        return _run(word, input_size, normalisation)
    if normalisation is not None:
        raise SpecError(_KNOWS_ITS_OWN.format(source))
    spec = spec_of(word, classes, input_size)
    return LoadedModel(spec.name, build(spec).eval(), _shape(spec, input_size), False, source=spec.to_json())


def load_trained(
    source: str,
    *,
    input_size: int | None = None,
    classes: int | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
) -> LoadedModel:
    """Return the model that `source` names, as `load_model` does, if it is trained.

    Raises:
        RunError: if its weights are random; also what `load_model` raises.
    """
    word = parse(source)
    if word.kind in (Kind.NAMED, Kind.ZOO):
        raise RunError(
            f"there is no run '{source}'; give the folder of a finished run, or torchvision:NAME, timm:NAME "
            "or FILE.py:CALLABLE with --weights"
        )
    loaded = load_model(
        source, input_size=input_size, classes=classes, weights=weights, normalisation=normalisation
    )
    # A user's own callable may load its weights itself.
    if not loaded.trained and word.kind is not Kind.PYTHON:
        raise RunError(f"'{source}' has random weights; name the trained ones with --weights, or a run")
    return loaded


# -- networks that are not bitskip's own ----------------------------------------------------------------


def _foreign(
    word: Source,
    input_size: int | None,
    classes: int | None,
    weights: Path | None,
    normalisation: Normalisation | None,
    on_meta: bool,
) -> LoadedModel:
    if weights is None:
        # torchvision's SSD runs its backbone while it is built, which weights without values cannot.
        if on_meta and word.kind is not Kind.PYTHON and not word.name.startswith("ssd"):
            with parameters_on_meta():
                built = _build(word, classes, input_size, auxiliary=True)
        else:
            built = _build(word, classes, input_size)
        notes = built.notes
    else:
        built, classes, notes = _with_weights(word, classes, input_size, weights)
    return LoadedModel(
        word.text,
        built.model,
        built.input_shape,
        weights is not None,
        source=word.text,
        normalisation=normalisation or built.normalisation,
        task=built.task,
        classes=classes,
        own=False,
        notes=notes if normalisation is None else tuple(n for n in notes if not n.startswith("timm's")),
    )


def _build(word: Source, classes: int | None, input_size: int | None, auxiliary: bool = False) -> Built:
    match word.kind:
        case Kind.TORCHVISION:
            return build_torchvision(word.name, classes, input_size, auxiliary)
        case Kind.TIMM:
            return build_timm(word.name, classes, input_size)
        case Kind.BASELINE:
            return build_baseline_named(word.name, classes, input_size)
    if word.path is None:
        raise AssertionError(word)
    model = build_from_file(word.path, word.name, classes).eval()
    transform = getattr(model, "transform", None)
    if type(transform).__name__ == "GeneralizedRCNNTransform" and hasattr(model, "backbone"):
        return _own_detector(model, transform, input_size, classes)
    shape = picture_shape(model, word.text, input_size)
    return Built(model, "classification", shape, classes or 0, None)


def _own_detector(model: nn.Module, transform: Any, input_size: int | None, classes: int | None) -> Built:
    """Return a detector that is made of torchvision's parts, for square pictures of one size."""
    size = input_size or int(transform.min_size[0])
    transform.min_size, transform.max_size = (size,), size
    normalisation = Normalisation(tuple(transform.image_mean), tuple(transform.image_std))
    return Built(model, "detection", (3, size, size), classes or 0, normalisation)


def _with_weights(
    word: Source, classes: int | None, input_size: int | None, path: Path
) -> tuple[Built, int | None, tuple[str, ...]]:
    """Return the network with its weights, for as many classes as they have unless `classes` says it."""
    values = read_state(path)
    built = _build(word, classes, input_size)
    fitted = fit(values, built.model, path)
    notes = [*built.notes, *(f"{path.name}: {note}" for note in fitted.notes)]
    if classes is None and word.kind in (Kind.TORCHVISION, Kind.TIMM):
        found = classes_in(fitted, built.model, built.classes)
        if found is not None and found != built.classes:
            classes = found
            built = _build(word, classes, input_size)
            notes.append(f"{path.name} has weights for {classes} classes")
    load_into(built.model, fitted, path)
    return built, classes, tuple(notes)


# -- runs -----------------------------------------------------------------------------------------------


def _run(word: Source, input_size: int | None, normalisation: Normalisation | None) -> LoadedModel:
    """Return the network of a finished run, or of a pruned one that no spec describes."""
    from bitskip.training.folder import load_run, weights_file, weights_metadata

    if word.path is None:
        raise AssertionError(word)
    path = word.path
    file = weights_file(path)
    metadata = weights_metadata(path)
    if "pruned_from" in metadata:
        return _pruned_run(file, metadata, input_size, normalisation)
    spec, model = load_run(path)
    if normalisation is not None:
        raise SpecError(_KNOWS_ITS_OWN.format(path))
    own = isinstance(spec, NetworkSpec)
    return LoadedModel(
        spec.name,
        model,
        _shape(spec, input_size),
        True,
        file,
        spec.to_json() if own else spec.name,
        Normalisation.from_metadata(metadata),  # if None, `bitskip pack` says so
        _held_out(file, metadata),
        classes=None if own else spec.classes,
        own=own,
    )


def _pruned_run(
    file: Path, metadata: Mapping[str, str], input_size: int | None, normalisation: Normalisation | None
) -> LoadedModel:
    from bitskip.pruning import load_pruned

    source = metadata["pruned_from"]
    own = source.startswith("{")
    if own and normalisation is not None:
        raise SpecError(_KNOWS_ITS_OWN.format(file.parent))
    size = input_size or int(metadata["input_size"])
    if own:
        spec = NetworkSpec.from_json(source, str(file))
        original = LoadedModel(spec.name, build(spec), _shape(spec, None), False)
    else:
        classes = int(metadata["classes"]) if "classes" in metadata else None
        original = load_model(source, input_size=size, classes=classes)
    if metadata.get("standardise") == "true":
        for layer in binary_layers(original.model).values():
            layer.standardise = True
    return dataclasses.replace(
        original,
        name=f"{original.name}-pruned",
        model=load_pruned(file.parent, original.model).eval(),
        trained=True,
        run=file,
        source="",
        normalisation=normalisation or Normalisation.from_metadata(metadata) or original.normalisation,
        held_out=_held_out(file, metadata),
    )


def _held_out(file: Path, metadata: Mapping[str, str]) -> int:
    """Return how many training pictures a run held out, by its own files."""
    try:
        if "held_out" in metadata:
            return int(metadata["held_out"])
        recipe = read_json(file.parent / "run.json")["recipe"]
        return min(HELD_OUT, int(recipe["validation_images"]))
    except (FileFormatError, KeyError, TypeError, ValueError):
        return HELD_OUT


def _shape(spec: NetworkSpec | Baseline, input_size: int | None) -> tuple[int, int, int]:
    size = input_size or spec.input_size
    return (spec.input_channels, size, size)
