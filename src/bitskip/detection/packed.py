"""A detector whose backbone is a packed Program: boxes come out of the native runtime's maps.

Proposals, RoIAlign, heads and non-maximum suppression stay torchvision's. The Program holds either the whole
backbone with its pyramid, or the body below the pyramid; what its outputs' shapes say decides.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitskip.detection.parts import backbone_of
from bitskip.errors import LoweringError, SpecError, in_one_line
from bitskip.lower import lower
from bitskip.program import Program
from bitskip.runtime import Model


class _Named(nn.Module):
    """A part of a backbone that gives its maps as a dict of the names of their levels."""

    def __init__(self, part: nn.Module, names: dict[str | None, str]) -> None:
        super().__init__()
        self.part, self.names = part, names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps."""
        maps = self.part(x)
        return {name: maps if key is None else maps[key] for key, name in self.names.items()}


def _named(part: nn.Module, size: int, letter: str) -> nn.Module:
    """Return the part with a name for each map: P3 is eight (2 to the 3) times smaller than the picture.

    It has the name of the part's class, so that messages say that one.
    """
    maps = _maps(part, size)
    names = [f"{letter}{round(math.log2(size / value.shape[2]))}" for value in maps.values()]
    if len(set(names)) != len(names):
        names = [str(key) for key in maps]
    made: nn.Module = type(type(part).__name__, (_Named,), {})(part, dict(zip(maps, names, strict=True)))
    return made.eval()


def pack_backbone(
    detector: Any,
    size: int,
    *,
    part: str = "backbone",
    activations: str = "fp32",
    dense: str = "fp32",
    calibration: npt.NDArray[np.uint8] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Program:
    """Return the Program of a detector's backbone for square pictures; its outputs are P2, P3, ... or C2, ...

    Args:
        detector: trained, of torchvision's kinds; left as it is.
        size: height = width of the pictures, in pixels, as `attach` brings them to.
        part: `backbone`, with its pyramid, or `backbone.body`, what lies below the pyramid.
        activations: see `bitskip.lower.lower`; so are the others.
        dense: see there.
        calibration: uint8 (N, size, size, 3), for int8.
        progress: called with the calibration pictures done and in all.

    Raises:
        SpecError: if it is not such a detector, or has no such part.
        LoweringError: if a Program cannot express the part.
    """
    backbone_of(detector)
    try:
        module = detector.get_submodule(part)
    except AttributeError:
        raise SpecError(
            f"{type(detector).__name__} has no part '{part}', expected backbone or backbone.body"
        ) from None
    transform = detector.transform
    return lower(
        _named(module, size, "C" if part.endswith("body") else "P"),
        tuple(transform.image_mean),
        tuple(transform.image_std),
        input_shape=(3, size, size),
        name=f"{type(detector).__name__}.{part}",
        activations=activations,
        dense=dense,
        calibration=calibration,
        progress=progress,
    )


def calibration_of(pictures: Tensor) -> npt.NDArray[np.uint8]:
    """Return pictures (N, 3, H, W) in 0..1 as calibration takes them: uint8 (N, H, W, 3)."""
    pixels = (pictures * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


class PackedMaps(nn.Module):
    """Runs a Program in the place of a part of a backbone.

    It takes the pictures that torchvision has normalised, brings them back to pixels, and returns the maps
    under the names that the part gave them. Values between two pixel levels, which resizing makes, are
    rounded to the nearer one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, program: Program, names: tuple[str, ...], threads: int = 1) -> None:
        super().__init__()
        self.model = Model(program, threads=threads)
        self.names = names
        self.register_buffer("mean", torch.tensor(program.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(program.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Turn normalised pictures (N, 3, H, W) into maps; raises SpecError while training."""
        if self.training:
            raise SpecError("a detector with a packed backbone cannot be trained; train the original")
        wanted = self.model.input_shape
        if tuple(x.shape[2:]) != wanted[:2]:
            raise SpecError(
                f"the packed backbone takes pictures of {wanted[0]}x{wanted[1]} pixels, got "
                f"{x.shape[2]}x{x.shape[3]}"
            )
        pixels = calibration_of(x * self.std + self.mean)
        maps = self.model.outputs(pixels).values()
        return OrderedDict(
            (name, torch.from_numpy(np.ascontiguousarray(np.moveaxis(value, 3, 1))))
            for name, value in zip(self.names, maps, strict=True)
        )


@torch.no_grad()
def attach(detector: Any, packed: Program | str | Path, *, threads: int = 1) -> Any:
    """Return a detector like `detector` whose backbone runs as a Program; `detector` is left as it is.

    Pictures are scaled to the Program's size by their longer side and padded to a square below and to the
    right. The heads are shared with `detector`.

    Args:
        detector: of torchvision's kinds, on the CPU.
        packed: from `pack_backbone`, or a file of it.
        threads: of the native engine.

    Raises:
        SpecError: if the Program's maps are not those of the detector's backbone or of its body.
        FileFormatError: if the file cannot be read.
    """
    backbone = backbone_of(detector)
    program = packed if isinstance(packed, Program) else Program.load(packed)
    height, width, _ = program.input_shape
    if height != width:
        raise SpecError(f"{program.name} takes pictures of {height}x{width} pixels, expected square ones")
    found = [program.tensors[output.tensor].shape for output in program.outputs]
    tried = []
    for path in ("backbone", "backbone.body"):
        try:
            part = detector.get_submodule(path)
        except AttributeError:
            continue
        maps = _maps(part, height)
        shapes = [(m.shape[2], m.shape[3], m.shape[1]) for m in maps.values()]
        if shapes == found:
            names = tuple("0" if key is None else key for key in maps)  # torchvision's name of a lone map
            replaced = PackedMaps(program, names, threads)
            return _with_part(detector, backbone, path, replaced, height)
        tried.append(f"{path} gives {_shapes(shapes)}")
    raise SpecError(f"{program.name} gives {_shapes(found)}, but the detector's {'; '.join(tried)}")


@torch.no_grad()
def _maps(part: nn.Module, size: int) -> OrderedDict[str | None, Tensor]:
    """Return the maps of a part for a grey picture, a lone one under None; the part keeps its modes.

    Raises:
        SpecError: if it does not take a picture, or gives something else than maps.
    """
    modes = {module: module.training for module in part.modules()}
    part.eval()
    device = next((values.device for values in part.parameters()), torch.device("cpu"))
    name = type(part).__name__
    try:
        maps = part(torch.zeros(1, 3, size, size, device=device))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = in_one_line(error, 200)
        raise SpecError(f"{name} does not take pictures (1, 3, {size}, {size}): {reason}") from None
    finally:
        for module, mode in modes.items():
            module.training = mode
    if isinstance(maps, Tensor):
        maps = {None: maps}
    if not isinstance(maps, dict) or not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps.values()):
        raise SpecError(
            f"{name} gives a {type(maps).__name__}; expected a map (N, C, H, W) or a dict of maps"
        )
    return OrderedDict(maps)


def _with_part(detector: Any, backbone: nn.Module, path: str, part: nn.Module, size: int) -> Any:
    """Return a copy of the detector with another part; only what leads to the part is copied."""
    made = copy.copy(detector)
    made._modules = dict(detector._modules)
    made.transform = copy.deepcopy(detector.transform)
    if made.transform.fixed_size is None:
        made.transform.min_size, made.transform.max_size = (size,), size
        made.transform.size_divisible = size
    elif tuple(made.transform.fixed_size) != (size, size):
        taken = made.transform.fixed_size
        raise LoweringError(f"the detector works at {taken} pixels, the Program at {size}")
    if path == "backbone":
        # Heads ask the backbone for its channels.
        if hasattr(backbone, "out_channels"):
            part.out_channels = backbone.out_channels
        made.backbone = part
    else:
        body = copy.copy(backbone)
        body._modules = dict(backbone._modules)
        body.body = part
        made.backbone = body
    made.eval()
    return made


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)
