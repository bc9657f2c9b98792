"""Cost of any torch module: the same figures as `bitskip.cost` derives from a spec.

The module is run once, by preference without values or memory (see `bitskip.nn.trace`). docs/cost.md says
what is counted and how.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from bitskip.cost import Cost, LayerCost
from bitskip.errors import some_of
from bitskip.graph.fuse import trace_peaks
from bitskip.graph.record import LayerTrace, record_module
from bitskip.graph.working import unwrap
from bitskip.nn.layers import BinaryLayer, Int8Conv2d, Int8Linear, LearnedThreshold, RPReLU

_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.batchnorm._BatchNorm, "batch_norm"),
    (nn.modules.conv._ConvTransposeNd, "conv_transpose"),
    (nn.modules.conv._ConvNd, "conv"),
    (nn.Linear, "linear"),
    (LearnedThreshold, "threshold"),
    (RPReLU, "activation"),
)
_WEIGHT_BITS = {"w1": 1, "w1a1": 1, "int8": 8}  # of declared layers; others count as they are held
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


def count_module(
    model: nn.Module, input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]], name: str = ""
) -> Cost:
    """Return the cost of `model` for one input.

    A row is a module that holds parameters itself or multiplies and accumulates, in the order they run. A
    parameter that several modules share counts once. Weights of bitskip's 1-bit and int8 layers count as 1
    and 8 bits.

    Args:
        model: any module that takes tensors; on any device, the meta device included. A copy of it is run
            in eval mode under `torch.no_grad`, so it is left as it was. `DataParallel` and compiled modules
            are opened.
        input_shape: shape of the input without the batch, e.g. (3, 32, 32); of several inputs each one's, by
            the name that the module's `forward` gives it, e.g. {"left": (3, 32, 32), "right": (1, 32, 32)}.
        name: what to call the model; by default the name of its class.

    Raises:
        SpecError: if the model cannot be run on such an input.
    """
    trace = record_module(model, input_shape)
    modules = trace.modules
    order = [*trace.layers, *(path for path in modules if path not in trace.layers)]
    title = name or type(unwrap(model)).__name__
    seen: set[int] = set()
    rows: list[LayerCost] = []
    notes: list[str] = []
    idle: list[LayerCost] = []
    if not trace.results:
        notes.append("peak activations are unknown: no tensor of the output comes from the input")
        # What made the output (numpy, another thread) was not seen.
        trace.layers.setdefault("", LayerTrace()).not_counted.append("what made the output")
    for path in order:
        module, layer = modules[path], trace.layers.get(path)
        by_bits = _parameters_by_bits(module, seen, layer is not None and layer.macs > 0)
        if by_bits is None:
            notes.append(f"parameters of '{path or title}' are packed by {type(module).__name__}: unknown")
        traced = layer or LayerTrace()
        if traced.not_counted:
            operators = ", ".join(traced.not_counted)
            notes.append(f"MACs of '{path or title}' are unknown: no formula for {operators}")
        if by_bits == {} and not traced.macs and not traced.not_counted:
            continue
        rows.append(_row(path or title, module, traced, by_bits))
        if layer is None:
            idle.append(rows[-1])
    if idle:
        held = sum(row.parameters or 0 for row in idle)
        names = some_of([row.name for row in idle])
        notes.append(f"{held:,} parameters are counted, but not used in inference: {names}")
    peaks: dict[str, int | None] = {"naive": None, "in_place": None}
    if trace.results:
        peaks.update(trace_peaks(trace))
    shape = dict(input_shape) if isinstance(input_shape, Mapping) else tuple(input_shape)
    return Cost(title, shape, tuple(rows), peaks, tuple(notes))


def _parameters_by_bits(module: nn.Module, seen: set[int], runs: bool) -> dict[int, int] | None:
    """Count the parameters that `module` holds itself and that are not in `seen`; None if they are packed.

    Args:
        module: one of the model's.
        seen: ids of the parameters that are counted; gets those of `module`.
        runs: whether it multiplies and accumulates.
    """
    if type(module).__module__.startswith("torch.ao.nn") and hasattr(module, "_packed_params"):
        return None
    if isinstance(module, torch.jit.ScriptModule) and runs and next(module.parameters(), None) is None:
        return None  # torch.jit.freeze made them constants of its code
    by_bits: dict[int, int] = {}
    declared = _WEIGHT_BITS.get(getattr(module, "precision", ""))
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        bits = declared if declared and name == "weight" else 8 * parameter.element_size()
        by_bits[bits] = by_bits.get(bits, 0) + parameter.numel()
    return by_bits


def _row(name: str, module: nn.Module, layer: LayerTrace, by_bits: dict[int, int] | None) -> LayerCost:
    macs = None if layer.not_counted else layer.macs
    if isinstance(module, BinaryLayer | Int8Conv2d | Int8Linear):
        return LayerCost(
            name=name,
            kind="conv" if module.weight.dim() == 4 else "linear",
            precision=module.precision,
            input_bits={"signs": 1, "codes": 8}.get(module.input_form, layer.input_bits),
            output_shape=layer.output_shape,
            parameters_by_bits=by_bits,
            macs=macs,
            mac_precision="fp32" if module.precision == "w1" else module.precision,
        )
    kind = next((kind for base, kind in _KINDS if isinstance(module, base)), type(module).__name__)
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    precision = _PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))
    return LayerCost(
        name, kind, precision, layer.input_bits, layer.output_shape, by_bits, macs, mac_precision=precision
    )
