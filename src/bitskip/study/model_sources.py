"""Models by name: bitskip's specs and runs, torchvision's and timm's networks, as torch modules.

The one word that commands take for a model: a named spec, a spec's JSON file, a run's folder (or its
`weights.safetensors`, pruned or not), `torchvision:NAME` or `timm:NAME`.
"""

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
from bitskip.errors import FileFormatError, RunError, SpecError, nearest
from bitskip.files import read_json
from bitskip.nn import binary_layers, build
from bitskip.nn.torchvision_ops import ensure_torchvision_ops
from bitskip.spec import NetworkSpec, resolve_spec

__all__ = ["LoadedModel", "load_model", "load_trained"]

_LIBRARIES = ("torchvision", "timm")
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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
    source: str = ""  # what gives the architecture again, if anything: LIBRARY:NAME or a spec as JSON
    normalisation: Normalisation | None = None  # of the pictures it was trained on; None: not known
    held_out: int = HELD_OUT  # training pictures that its run did not train on

    @property
    def from_library(self) -> bool:
        """Whether it is a network of torchvision or timm, pruned or not."""
        return self.name.partition(":")[0] in _LIBRARIES

    def held_out_of(self, images: ImageSet) -> int:
        """Return how many training pictures of `images` to judge on."""
        return held_out_count(self.held_out, len(images.train_images))

    def example(self, batch: int = 1) -> Tensor:
        """Return a batch of random pictures that the model takes, the same every time."""
        return torch.randn(batch, *self.input_shape, generator=torch.Generator().manual_seed(0))


def load_model(
    source: str,
    *,
    input_size: int | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
) -> LoadedModel:
    """Return the model that `source` names.

    Args:
        source: see this module's first lines.
        input_size: height = width in pixels; None for the model's usual size.
        weights: state dict (`.safetensors`, or `.pt` of tensors only) to load into a library's model.
        normalisation: of a library model's pictures; None for ImageNet's. Runs know their own.

    Raises:
        SpecError: for an unknown name, or a normalisation for a run.
        RunError: if a library is not installed, or the folder holds no finished run.
        FileFormatError: if the weights do not fit.
    """
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES:
        model, usual = _torchvision(name) if library == "torchvision" else _timm(name)
        if weights is not None:
            _load_weights(model, weights)
        size = input_size or usual
        return LoadedModel(
            source,
            model.eval(),
            (3, size, size),
            weights is not None,
            source=source,
            normalisation=normalisation or IMAGENET,
        )
    if weights is not None:
        raise SpecError(
            f"--weights goes with torchvision: and timm: models; give the run's folder, not '{source}'"
        )
    path = Path(source)
    if path.is_dir() or path.suffix == ".safetensors":
        return _run(path, input_size, normalisation)
    if normalisation is not None:
        raise SpecError(_KNOWS_ITS_OWN.format(source))
    spec = resolve_spec(source)
    if input_size is not None:
        spec = dataclasses.replace(spec, input_size=input_size)
    return LoadedModel(
        spec.name, build(spec).eval(), _shape(spec, input_size), False, source=spec.to_json()
    )


def load_trained(
    source: str,
    *,
    input_size: int | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
) -> LoadedModel:
    """Return the model that `source` names, as `load_model` does, if it is trained.

    Raises:
        RunError: if its weights are random; also what `load_model` raises.
    """
    if source.partition(":")[0] not in _LIBRARIES and not Path(source).exists():
        raise RunError(
            f"there is no run '{source}'; give the folder of a finished run, or torchvision:NAME or "
            "timm:NAME with --weights"
        )
    loaded = load_model(source, input_size=input_size, weights=weights, normalisation=normalisation)
    if not loaded.trained:
        raise RunError(f"'{source}' has random weights; name the trained ones with --weights, or a run")
    return loaded


def _run(path: Path, input_size: int | None, normalisation: Normalisation | None) -> LoadedModel:
    """Return the network of a finished run, or of a pruned one that no spec describes."""
    from bitskip.training.run import load_run, weights_file, weights_metadata

    file = weights_file(path)
    metadata = weights_metadata(path)
    if "pruned_from" not in metadata:
        spec, model = load_run(path)
        if normalisation is not None:
            raise SpecError(_KNOWS_ITS_OWN.format(path))
        return LoadedModel(
            spec.name,
            model,
            _shape(spec, input_size),
            True,
            file,
            spec.to_json(),
            Normalisation.from_metadata(metadata),  # if None, `bitskip pack` says so
            _held_out(file, metadata),
        )
    from bitskip.pruning import load_pruned

    source = metadata["pruned_from"]
    if source.startswith("{") and normalisation is not None:
        raise SpecError(_KNOWS_ITS_OWN.format(path))
    size = input_size or int(metadata["input_size"])
    original: nn.Module
    if source.startswith("{"):
        spec = NetworkSpec.from_json(source, str(file))
        name, original, shape = spec.name, build(spec), _shape(spec, None)
    else:
        loaded = load_model(source)
        name, original, shape = loaded.name, loaded.model, (3, size, size)
    if metadata.get("standardise") == "true":
        for layer in binary_layers(original).values():
            layer.standardise = True
    pruned = load_pruned(file.parent, original).eval()
    known = (
        normalisation
        or Normalisation.from_metadata(metadata)
        or (None if source.startswith("{") else IMAGENET)
    )
    return LoadedModel(
        f"{name}-pruned",
        pruned,
        shape,
        True,
        file,
        normalisation=known,
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


def _shape(spec: NetworkSpec, input_size: int | None) -> tuple[int, int, int]:
    size = input_size or spec.input_size
    return (spec.input_channels, size, size)


def _torchvision(name: str) -> tuple[nn.Module, int]:
    ensure_torchvision_ops()
    try:
        from torchvision import models
    except ImportError:
        raise RunError("torchvision is not installed; pip install torchvision") from None
    known = models.list_models(module=models)
    if name not in known:
        raise SpecError(f"unknown torchvision model '{name}'{nearest(name, known)}")
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}
    size = 299 if name == "inception_v3" else 224
    model: nn.Module = models.get_model(name, **options)
    return model, size


def _timm(name: str) -> tuple[nn.Module, int]:
    ensure_torchvision_ops()
    try:
        import timm
    except ImportError:
        raise RunError("timm is not installed; pip install timm") from None
    known = timm.list_models()
    if name not in known:
        raise SpecError(f"unknown timm model '{name}'{nearest(name, known)}")
    model: nn.Module = timm.create_model(name, pretrained=False)
    size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))[-1]
    return model, int(size)


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:  # each format has error types of its own
        detail = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{path} does not fit {type(model).__name__}: {detail}") from None
