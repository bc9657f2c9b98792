"""State dicts as people keep them: which tensors are the model's, under which names, for how many classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.errors import FileFormatError

# Keys under which training scripts keep the state dict among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
# Parts that train a network and that inference does not use.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")


@dataclass(frozen=True)
class Fitted:
    """A state dict under a model's own names."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]  # what was unwrapped and left out, for people


def read_state(path: Path) -> dict[str, Any]:
    """Return what a weights file holds: safetensors, or a torch file of tensors only.

    Raises:
        FileFormatError: if it cannot be read, or holds a pickled model instead of tensors.
    """
    if not path.is_file():
        raise FileFormatError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has error types of its own
        if "weights_only" in str(error) or "Unsupported global" in str(error):
            raise FileFormatError(
                f"{path} holds Python objects, not tensors only, and is not opened; save "
                "model.state_dict() in its place"
            ) from None
        if path.stat().st_size == 0:
            raise FileFormatError(f"{path} is empty; expected weights that torch.save wrote") from None
        detail = f"{type(error).__name__} {' '.join(str(error).split())[:160]}".strip()
        raise FileFormatError(
            f"{path} cannot be read as weights ({detail}); expected what torch.save or safetensors wrote"
        ) from None
    if not isinstance(values, Mapping):
        raise FileFormatError(f"{path} holds a {type(values).__name__}, expected a state dict")
    return dict(values)


def fit(values: Mapping[str, Any], model: nn.Module, path: Path) -> Fitted:
    """Return the tensors of `values` that are the model's, under the model's names.

    Unwrapped are checkpoints (`state_dict`, `model`, ...) and prefixes (`module.` of DataParallel,
    `_orig_mod.` of torch.compile, `model.` of Lightning, ...). Auxiliary heads that the model lacks are left
    out.

    Raises:
        FileFormatError: if names of the model are missing, or other names are left.
    """
    notes: list[str] = []
    while True:
        inner = next((key for key in _WRAPPERS if isinstance(values.get(key), Mapping)), None)
        if inner is None and not any(isinstance(value, Tensor) for value in values.values()):
            others = [key for key, value in values.items() if _is_state(value)]
            inner = others[0] if len(others) == 1 else None  # whatever a script calls it
        if inner is None:
            break
        notes.append(f"taken from '{inner}'")
        values = values[inner]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if any("_orig_mod." in name for name in tensors):
        notes.append("without '_orig_mod.'")
        tensors = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    wanted = model.state_dict().keys()
    prefix = _prefix(tensors, wanted)
    if prefix:
        notes.append(f"without '{prefix}'")
        tensors = {name[len(prefix) :]: v for name, v in tensors.items() if name.startswith(prefix)}
    auxiliary = [name for name in tensors if name not in wanted and name.startswith(_AUXILIARY)]
    if auxiliary:
        notes.append(f"without {len(auxiliary)} tensors of auxiliary heads")
        tensors = {name: value for name, value in tensors.items() if name not in set(auxiliary)}
    tensors, head = _head_of_a_sequence(tensors, wanted)
    notes += head
    missing = [n for n in wanted if n not in tensors and not n.endswith("num_batches_tracked")]
    strange = [n for n in tensors if n not in wanted and not n.endswith("num_batches_tracked")]
    if missing or strange:
        lacks = f"{len(missing)} tensors are missing ({_some(missing)})" if missing else ""
        more = f"{len(strange)} are not the model's ({_some(strange)})" if strange else ""
        raise FileFormatError(
            f"{path} does not fit {type(model).__name__}: {' and '.join(filter(None, (lacks, more)))}"
        )
    kept = {name: value for name, value in tensors.items() if name in wanted}
    return Fitted(kept, tuple(notes))


def classes_in(fitted: Fitted, model: nn.Module, classes: int) -> int | None:
    """Return how many classes a state dict has outputs for; None if only other code could tell.

    Args:
        fitted: of the model.
        model: built for `classes` classes.
        classes: what it was built for.
    """
    found: set[int] = set()
    for name, own in model.state_dict().items():
        value = fitted.tensors.get(name)
        if value is None or value.shape == own.shape:
            continue
        # The head's first dimension is a multiple of the classes: anchors or box coordinates for each.
        if value.dim() == 0 or value.shape[1:] != own.shape[1:] or (classes * len(value)) % len(own):
            return None
        found.add(classes * len(value) // len(own))
    if not found:
        return classes
    return found.pop() if len(found) == 1 else None


def load_into(model: nn.Module, fitted: Fitted, path: Path) -> None:
    """Load tensors that `fit` returned.

    Raises:
        FileFormatError: if a tensor has another shape than the model's.
    """
    own = model.state_dict()
    for name, expected in own.items():
        value = fitted.tensors.get(name, expected)
        if value.shape != expected.shape:
            raise FileFormatError(
                f"{path} does not fit {type(model).__name__}: '{name}' is {tuple(value.shape)}, expected "
                f"{tuple(expected.shape)}; give the number of classes with --classes if that is what differs"
            )
    model.load_state_dict(fitted.tensors, strict=False)


def _prefix(tensors: Mapping[str, Tensor], wanted: Any) -> str:
    """Return what stands before the model's own names in most of the tensors' names."""
    if not wanted or sum(name in tensors for name in wanted) * 2 >= len(wanted):
        return ""
    counts: dict[str, int] = {}
    # Names of a model end alike (`bn1.weight`), so the whole of its first names are looked for.
    for name in list(wanted)[:50]:
        for key in tensors:
            if key.endswith("." + name):
                prefix = key[: -len(name)]
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts, key=lambda prefix: counts[prefix], default="")
    covered = sum(best + name in tensors for name in wanted)
    return best if covered * 2 >= len(wanted) else ""


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _head_of_a_sequence(tensors: dict[str, Tensor], wanted: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename a head that training put into a sequence, such as `Sequential(Dropout(), Linear())`."""
    missing = {n for n in wanted if n not in tensors and not n.endswith("num_batches_tracked")}
    strange = {name for name in tensors if name not in wanted}
    for name in strange:
        head, _, rest = name.rpartition(".weight")[0].rpartition(".")
        if rest.isdecimal() and strange == {f"{head}.{rest}.{kind}" for kind in ("weight", "bias")}:
            if missing == {f"{head}.weight", f"{head}.bias"}:
                inner = f"{head}.{rest}"
                renamed = {n.replace(inner, head) if n in strange else n: v for n, v in tensors.items()}
                return renamed, (f"'{inner}' is taken as '{head}', without what else stood in that sequence",)
    return tensors, ()


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
