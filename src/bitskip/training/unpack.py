"""Weights to go on from, out of a packed file: what lowering folded into integers, unfolded again.

A packed convolution gives out = slope * sum(w q) + offset for integer weights w and integer inputs q, per
channel. Here w, or its signs, become the layer's weights and (slope, offset) the batch norm after it:

1. A batch norm with mean 0, variance 1 and (slope, offset) as its factors gives the packed network's numbers.
2. Trained so, it would divide by the spread of its batch and forget the factors. So pictures are passed
   through, and the mean m and variance v of each batch norm's input are measured.
3. mean m, variance v, weight slope sqrt(v + eps), bias offset + slope m: the same function, ready to train.

What is lost is what quantization lost: int8 weights have 8 bits, and latent weights one magnitude.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitskip.bits import unpack_signs
from bitskip.errors import RunError
from bitskip.nn import BinaryLayer, build
from bitskip.program import Program
from bitskip.program.ops import Conv2d, FloatEpilogue, GlobalAvgPool, IntegerEpilogue
from bitskip.spec import NetworkSpec

_ZOO = "zoo:"
_LATENT = 0.05  # magnitude of latent weights: some 50 steps of Adam at 1e-3 turn a sign


def is_packed(start: str | Path) -> bool:
    """Whether `start` names a packed file: `zoo:NAME`, or a path that ends in `.bitskip`."""
    return str(start).startswith(_ZOO) or str(start).endswith(".bitskip")


@torch.no_grad()
def unpack_weights(program: Program, pictures: Tensor, standardise: bool = False) -> dict[str, Tensor]:
    """Return the state of the network that `program` was packed from, by parameter name.

    Args:
        program: of a network of bitskip with real activations.
        pictures: float32 (N, C, H, W), normalised; some hundred, of those that training goes on with.
        standardise: whether the network that goes on standardises its latent weights.

    Raises:
        RunError: if the file has no spec, or layers whose weights cannot be told: 1-bit activations.
    """
    if program.spec is None:
        raise RunError(
            f"'{program.name}' holds no network spec; start from a network of bitskip, e.g. a zoo: one"
        )
    spec = NetworkSpec.from_dict(dict(program.spec), program.name)
    network = build(spec)
    unset = {name for name, module in network.named_modules() if _has_weight(module)}
    for op in program.ops:
        if isinstance(op, Conv2d) and op.name in unset:
            _unpack_layer(network, op, program)
            unset.discard(op.name)
    if unset:
        raise RunError(
            f"'{program.name}' has no weights for {min(unset)}; start from the run it was packed from"
        )
    for module in network.modules():
        if isinstance(module, BinaryLayer):
            module.standardise = standardise
    _measure(network.eval(), pictures)
    return network.state_dict()


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear | BinaryLayer)


def _unpack_layer(network: nn.Module, op: Conv2d, program: Program) -> None:
    module: Any = network.get_submodule(op.name)
    source = program.tensors[op.input]
    if source.dtype == "bits" or not isinstance(op.epilogue, FloatEpilogue | IntegerEpilogue):
        raise RunError(
            f"'{program.name}' has 1-bit activations, from which training cannot go on; start from another "
            "network (`bitskip zoo list`), or from the run that it was packed from"
        )
    if op.weight_dtype == "w1":
        stored = unpack_signs(op.weight, source.shape[2])
    else:
        stored = np.asarray(op.weight, dtype=np.float32)
    values = torch.from_numpy(np.ascontiguousarray(stored.transpose(0, 3, 1, 2)))  # (O, I, KH, KW)
    slope, offset = _affine(op, program)
    slope = slope / _unit(
        program, op.input
    )  # of what the layer gives for real inputs, not for their integers
    if isinstance(module, nn.Linear):
        module.weight.copy_(values.flatten(1) * slope.view(-1, 1))
        module.bias.copy_(offset)
        return
    if isinstance(module, BinaryLayer):
        values = values * _LATENT
        module.weight.copy_(values)
        if module.scale is not None:
            module.scale.fill_(_LATENT)
        factor = module.output_scale()
        slope = slope if factor is None else slope / factor
    else:
        # Of the size that fresh weights have, so that rates and decay mean what they mean for those.
        size = module.weight.std() / values.std().clamp_min(1e-12)
        module.weight.copy_(values * size)
        slope = slope / size
    place, _, name = op.name.rpartition(".")
    norm: Any = network.get_submodule(f"{place}.{name.replace('conv', 'bn')}")
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.copy_(slope)
    norm.bias.copy_(offset)


def _unit(program: Program, number: int) -> float:
    """Return what one step of a tensor's integers is worth; those of a pool's sums know it by their input."""
    tensor = program.tensors[number]
    for op in program.ops:
        if isinstance(op, GlobalAvgPool) and op.output == number and tensor.dtype == "i32":
            pooled = program.tensors[op.input]
            return pooled.scale / (pooled.shape[0] * pooled.shape[1])
    return tensor.scale


def _affine(op: Conv2d, program: Program) -> tuple[Tensor, Tensor]:
    """Return slope and offset, float32 (O,), that turn the integer sum into the real output."""
    how = op.epilogue
    if isinstance(how, IntegerEpilogue):
        unit = program.tensors[op.outputs[0]].scale * 2.0**-how.shift
        factors, offsets = how.multiplier * unit, how.bias * unit
    else:
        assert isinstance(how, FloatEpilogue)
        count = op.weight.shape[0]
        factors = np.ones(count) if how.scale is None else how.scale
        offsets = np.zeros(count) if how.bias is None else how.bias
    return tuple(torch.from_numpy(np.array(v, dtype=np.float32)) for v in (factors, offsets))  # type: ignore[return-value]


def _measure(network: nn.Module, pictures: Tensor) -> None:
    """Give each batch norm the statistics of its input, and factors with which it computes as before."""
    inputs: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def watch(norm: nn.BatchNorm2d, given: tuple[Tensor, ...]) -> None:
        x = given[0].transpose(0, 1).flatten(1)
        inputs.setdefault(norm, []).append(torch.stack([x.mean(1), x.pow(2).mean(1)]))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    for some in torch.split(pictures, 64):
        network(some)
    for hook in hooks:
        hook.remove()
    for norm, found in inputs.items():
        mean, square = torch.stack(found).mean(0)
        slope = norm.weight.clone()
        norm.bias.copy_(norm.bias + slope * mean)
        variance = (square - mean**2).clamp_min(1e-8)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
