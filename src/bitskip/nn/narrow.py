"""oneDNN kept away from narrow networks while they train on CPUs.

In torch 2.13 oneDNN's gradients of convolutions with fewer than 16 channels write outside their buffers
(channels_last; seen in float32 and bfloat16, with one thread and with two): a run that trains such a network
may crash at any later moment. torch's own kernels are slower and right. (With 16 channels it was seen in
bfloat16 alone, for strided 1x1 convolutions, which `bitskip.nn.blocks.Projection` keeps in float32.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bitskip.nn.layers import BinaryConv2d
from bitskip.spec import NetworkSpec

_LEAST_CHANNELS = 16


def is_narrow(network: nn.Module | NetworkSpec) -> bool:
    """Whether some convolution of `network` writes so few channels that oneDNN must not train it."""
    if isinstance(network, NetworkSpec):
        return min(network.stem_width, *network.widths) < _LEAST_CHANNELS
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d | BinaryConv2d))
    return any(conv.out_channels < _LEAST_CHANNELS for conv in convolutions)


@contextmanager
def onednn_where_safe(network: nn.Module | NetworkSpec) -> Iterator[None]:
    """Turn oneDNN off inside the `with` block if `network` is narrow."""
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    backend.enabled = before and not is_narrow(network)
    try:
        yield
    finally:
        backend.enabled = before
