"""What the nodes of a graph do, as far as finding shortcuts asks: by layer, function or method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional as F

from bitskip.nn import BinaryConv2d, BinaryLinear, LearnedThreshold, RPReLU

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.ELU, RPReLU,
)  # fmt: skip
_NORM_NAMES = ("FrozenBatchNorm2d", "FrozenBatchNormAct2d", "LayerNorm2d")
_TRANSPARENT_NAMES = ("StochasticDepth", "DropPath", "FakeQuantize", "QuantStub", "DeQuantStub")
_ACTIVATION_FUNCTIONS = (F.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, torch.relu)
_AVERAGE_POOLS = (F.avg_pool2d, F.adaptive_avg_pool2d)
_MIXING_FUNCTIONS = (
    torch.matmul, torch.bmm, torch.einsum, F.conv1d, F.conv2d, F.conv3d, F.linear,
    F.scaled_dot_product_attention,
)  # fmt: skip
_UPSAMPLING = (nn.Upsample, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.PixelShuffle)
_UPSAMPLING_FUNCTIONS = (
    F.interpolate,
    F.pixel_shuffle,
    F.conv_transpose2d,
    F.conv_transpose1d,
    F.grid_sample,
)


def skip_kind(nodes: Sequence[tuple[fx.Node, nn.Module | None]]) -> str:
    """Return which of `KINDS` a skip is that takes these nodes, each with its layer if it is one."""
    if any(
        node.target in _AVERAGE_POOLS if module is None else is_average_pool(module) for node, module in nodes
    ):
        return "pooled_projection"
    functions = (*_ACTIVATION_FUNCTIONS, F.dropout, "contiguous", "relu", "relu_", "clone")
    plain = all(
        node.target in functions if module is None else is_elementwise(module) for node, module in nodes
    )
    return "identity" if plain else "projection"


def is_projection_step(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node may stand on a skip: it mixes no positions, and channels only by a 1x1 convolution."""
    if module is not None:
        if isinstance(module, nn.Conv2d | nn.Conv1d | BinaryConv2d):
            kernel = module.kernel_size
            return set(kernel if isinstance(kernel, tuple) else (kernel,)) == {1}
        return is_norm(module) or is_elementwise(module) or is_average_pool(module)
    if node.op == "call_function":
        if node.target in (*_ACTIVATION_FUNCTIONS, *_AVERAGE_POOLS, F.pad, F.dropout, F.batch_norm):
            return True
        return getattr(node.target, "__name__", "") == "getitem" and _is_slicing(node)
    return node.op == "call_method" and node.target in ("contiguous", "relu", "relu_", "clone")


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises."""
    known = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return isinstance(module, known) or type(module).__name__ in _NORM_NAMES


def is_elementwise(module: nn.Module) -> bool:
    """Whether a layer is a function of each value."""
    known = (*ACTIVATIONS, nn.Identity, nn.Dropout, nn.Dropout2d, LearnedThreshold)
    return isinstance(module, known) or type(module).__name__ in _TRANSPARENT_NAMES


def is_mixing(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node mixes channels or positions."""
    if module is not None:
        layers = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention, BinaryConv2d, BinaryLinear)
        return isinstance(module, layers)
    if node.op == "call_method":
        return node.target in ("matmul", "bmm", "__matmul__")
    if node.op != "call_function":
        return False
    # A function of the model's own that fx was told not to open, such as window attention.
    home = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
    foreign = home not in ("torch", "operator", "_operator", "builtins", "math")
    return foreign or node.target in _MIXING_FUNCTIONS or getattr(node.target, "__name__", "") == "matmul"


def is_upsampling(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node makes a map larger."""
    if module is not None:
        return isinstance(module, _UPSAMPLING)
    return node.op == "call_function" and node.target in _UPSAMPLING_FUNCTIONS


def is_average_pool(module: nn.Module) -> bool:
    """Whether a layer is an average pool."""
    return isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AvgPool1d)


def _is_slicing(node: fx.Node) -> bool:
    index = node.args[1] if len(node.args) > 1 else None
    return isinstance(index, tuple) and all(isinstance(part, slice) or part is Ellipsis for part in index)
