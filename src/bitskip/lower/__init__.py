"""Trained torch network to Program: folded, thresholded, quantized, with its buffers placed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from bitskip.errors import LoweringError
from bitskip.lower.assemble import assemble
from bitskip.lower.build import InputShape, build_graph
from bitskip.lower.calibrate import find_quantizations
from bitskip.lower.forms import F32, Precisions, i8_values
from bitskip.lower.graph import Graph
from bitskip.lower.shared_scales import share_residual_scales
from bitskip.lower.tables import with_tables
from bitskip.program import Program

__all__ = ["lower"]


def lower(
    model: nn.Module,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    *,
    input_shape: InputShape | None = None,
    name: str | None = None,
    activations: str = "fp32",
    dense: str = "fp32",
    calibration: npt.NDArray[np.uint8] | Mapping[str, npt.NDArray[np.uint8]] | None = None,
    shared_scales: bool = False,
    class_names: tuple[str, ...] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Program:
    """Return the Program of a trained network.

    Args:
        model: trained; from `bitskip.nn.build`, or any module that torch.fx can trace and that is made of
            what a Program has ops for (docs/packing.md).
        mean: of the training pictures scaled to 0..1, per channel; 0 if not given. Of several inputs those of
            the first, then of the second, and so on.
        std: likewise; 1 if not given.
        input_shape: (C, H, W) of a picture; a network of bitskip knows its own. Of a module with several
            inputs each one's by the name that its `forward` gives it, `{"left": (3, 32, 32), ...}`.
        name: of the program; that of the spec or of the module's class if not given.
        activations: `fp32` runs `w1` layers on real activations as in training; `int8` on calibrated int8.
        dense: what becomes of `fp32` layers: `fp32` keeps them, `int8` quantizes them too.
        calibration: uint8 training pictures (N, H, W, C), for int8; of several inputs each one's, by name.
        shared_scales: gives a sum and what it adds one int8 scale (`bitskip.lower.shared_scales`).
        class_names: of the outputs, for reports.
        progress: called with the calibration pictures done and in all.

    Raises:
        LoweringError: if the model does what a Program cannot express, or a layer cannot run at its declared
            precision with these options.
    """
    for what, value in (("activations", activations), ("dense", dense)):
        if value not in ("fp32", "int8"):
            raise LoweringError(f"{what} is '{value}', expected fp32 or int8")
    if dense == "int8" and activations != "int8":
        raise LoweringError("dense int8 needs int8 activations too; use --activations int8 --dense int8")
    graph = build_graph(model, input_shape, name)
    shapes = graph.shapes[: len(graph.inputs)]
    channels = sum(shape[2] for shape in shapes)
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    if len(mean) != channels or len(std) != channels:
        raise LoweringError(f"got {len(mean)} means and {len(std)} stds for pictures of {channels} channels")
    if not np.isfinite(mean).all() or not (np.isfinite(std) & (np.asarray(std) > 0)).all():
        raise LoweringError(
            f"mean is {tuple(mean)} and std is {tuple(std)}, expected finite numbers, and deviations above 0"
        )
    labels: dict[str, Any] = {
        "name": graph.name,
        "spec": None if graph.spec is None else graph.spec.to_dict(),
        "class_names": tuple(class_names),
    }
    precisions = Precisions(activations, dense)
    graph = with_tables(graph, precisions)
    values = i8_values(graph, precisions)
    if not values:
        program, _ = assemble(graph, precisions, mean, std, activations=activations, dense=dense, **labels)
        return program
    pictures = _calibration(calibration, graph)
    real, held = assemble(graph, Precisions(real_int8=True), mean, std, **labels)
    tensors = {value: held[value, F32] for value in values}
    quantizations = find_quantizations(real, tensors, pictures, progress)
    if shared_scales:
        quantizations = share_residual_scales(graph, precisions, quantizations)
    program, _ = assemble(
        graph,
        precisions,
        mean,
        std,
        quantizations,
        activations=activations,
        dense=dense,
        calibration_images=len(pictures[0]),
        **labels,
    )
    return program


def _calibration(
    given: npt.NDArray[np.uint8] | Mapping[str, npt.NDArray[np.uint8]] | None, graph: Graph
) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return the calibration pictures of every input, in their order."""
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(graph.inputs[:1], given)
    if by_name.keys() != set(graph.inputs):
        got = ", ".join(by_name) if isinstance(given, Mapping) else "one array"
        raise LoweringError(f"calibration has {got}, expected pictures of {', '.join(graph.inputs)} by name")
    found = []
    for name, shape in zip(graph.inputs, graph.shapes, strict=False):
        pictures = by_name[name]
        if pictures is None or len(pictures) == 0:
            raise LoweringError("int8 activations need calibration pictures, and there are none")
        if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
            raise LoweringError(
                f"calibration pictures are {pictures.dtype} {pictures.shape}, "
                f"expected uint8 (N, {', '.join(map(str, shape))})"
            )
        found.append(pictures)
    if len({len(pictures) for pictures in found}) > 1:
        counts = ", ".join(f"{len(p)} of {n}" for n, p in zip(graph.inputs, found, strict=True))
        raise LoweringError(f"calibration has {counts}, expected as many of each")
    return tuple(found)
