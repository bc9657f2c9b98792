"""A trained small detector on disk: half precision, 1-bit layers as bits, files of at most 15 MiB.

The weights lie in `NAME-1.safetensors`, `NAME-2.safetensors`, ...; the first one's metadata says what the
network is, which stages are 1-bit and which plan removed shortcuts. No code and no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save
from torch import nn

from bitskip.bits import pack_signs, unpack_signs
from bitskip.detection.networks import binarise, small_faster_rcnn
from bitskip.errors import FileFormatError
from bitskip.files import write_bytes
from bitskip.nn import binary_layers
from bitskip.pruning import Plan, remove_shortcuts

FORMAT_VERSION = 1
_LARGEST = 15 * 2**20  # bytes of a file


@dataclass(frozen=True)
class DetectorFile:
    """What a saved detector is, beside its weights."""

    classes: int  # with the background
    size: int  # height = width of its pictures
    backbone: str = "resnet18"
    binary: tuple[str, ...] = ()  # stages with 1-bit weights
    plan: Mapping[str, Any] | None = None  # that removed shortcuts
    facts: Mapping[str, Any] = field(default_factory=dict)  # how it was trained and what it reached
    width: float = 1.0  # factor on the channels of backbone and pyramid


def save_detector(folder: Path, name: str, detector: nn.Module, about: DetectorFile) -> list[Path]:
    """Write a small detector; returns the files.

    Latent weights of 1-bit layers are gone afterwards: what is kept is their signs and scales.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    binary = binary_layers(detector)
    for key, value in detector.state_dict().items():
        owner, _, part = key.rpartition(".")
        values = value.detach().cpu()
        if owner in binary and part == "weight":
            latent = values.float().numpy()
            arrays[f"{key}.bits"] = pack_signs(latent.reshape(len(latent), -1))
            arrays[f"{key}.scale"] = np.abs(latent).reshape(len(latent), -1).mean(1).astype(np.float32)
        elif part == "running_var":  # beyond half precision in wide layers
            arrays[key] = values.float().numpy()
        else:
            arrays[key] = (values.half() if values.is_floating_point() else values).numpy()
    shards: list[dict[str, Any]] = [{}]
    used = 0
    for key, array in arrays.items():
        if used and used + array.nbytes > _LARGEST:
            shards.append({})
            used = 0
        shards[-1][key] = np.ascontiguousarray(array)
        used += array.nbytes
    written = []
    values = {
        "bitskip_detector": FORMAT_VERSION,
        "classes": about.classes,
        "size": about.size,
        "backbone": about.backbone,
        "width": about.width,
        "binary": list(about.binary),
        "plan": None if about.plan is None else dict(about.plan),
        "files": len(shards),
        "facts": dict(about.facts),
    }
    for number, shard in enumerate(shards, 1):
        path = folder / f"{name}-{number}.safetensors"
        write_bytes(path, save(shard, {"detector": json.dumps(values)} if number == 1 else None))
        written.append(path)
    return written


def load_detector(file: Path) -> tuple[nn.Module, DetectorFile]:
    """Return a detector that `save_detector` wrote, in evaluation mode, and what it is.

    Args:
        file: the first of its files; the others lie beside it.

    Raises:
        FileFormatError: if a file is missing, damaged, or does not fit the others.
    """
    values = _about(file)
    if not isinstance(values, dict) or values.get("bitskip_detector") != FORMAT_VERSION:
        raise FileFormatError(f"{file} is not a detector of version {FORMAT_VERSION}")
    try:
        about = DetectorFile(
            int(values["classes"]),
            int(values["size"]),
            str(values["backbone"]),
            tuple(values["binary"]),
            values["plan"],
            dict(values["facts"]),
            float(values.get("width", 1.0)),
        )
        count = int(values["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{file} is a damaged detector file: {error}") from None
    detector: nn.Module = small_faster_rcnn(about.classes, about.size, about.backbone, about.width)
    if about.binary:
        binarise(detector, about.binary)
    if about.plan is not None:
        detector = remove_shortcuts(detector, Plan.from_dict(about.plan, str(file)))
    arrays: dict[str, Any] = {}
    for number in range(1, count + 1):
        path = file.with_name(f"{file.stem.removesuffix('-1')}-{number}.safetensors")
        try:
            arrays |= load_file(path)
        except Exception as error:  # safetensors raises an error type of its own for a damaged file
            raise FileFormatError(f"{path} cannot be read: {error}") from None
    state = {}
    for key, own in detector.state_dict().items():
        try:
            if f"{key}.bits" in arrays:
                signs = unpack_signs(arrays[f"{key}.bits"], own[0].numel()) * arrays[f"{key}.scale"][:, None]
                state[key] = torch.from_numpy(signs.astype(np.float32)).reshape(own.shape)
            else:
                state[key] = torch.from_numpy(np.asarray(arrays[key])).to(own.dtype).reshape(own.shape)
        except (KeyError, ValueError, RuntimeError):
            raise FileFormatError(f"{file}: its weights do not hold a fitting '{key}'") from None
    detector.load_state_dict(state)
    return detector.eval(), about


def _about(file: Path) -> Any:
    try:
        with safe_open(file, framework="numpy") as stream:
            return json.loads((stream.metadata() or {}).get("detector", "null"))
    except Exception as error:  # safetensors raises an error type of its own for a damaged file
        raise FileFormatError(f"{file} cannot be read: {error}") from None
