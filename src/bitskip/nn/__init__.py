"""Torch side of a network: quantizers, 1-bit layers, residual blocks, and the builder."""

from __future__ import annotations

from bitskip.nn.layers import (
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    Int8Conv2d,
    Int8Linear,
    LearnedThreshold,
    RPReLU,
    binary_layers,
)
from bitskip.nn.quantizers import (
    QUANTIZERS,
    NoGradientSign,
    SignQuantizer,
    make_quantizer,
    set_progress,
    sign,
)
from bitskip.nn.resnet import ResNet, build, follows_its_spec

__all__ = [
    "QUANTIZERS",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Int8Conv2d",
    "Int8Linear",
    "LearnedThreshold",
    "NoGradientSign",
    "RPReLU",
    "ResNet",
    "SignQuantizer",
    "binary_layers",
    "build",
    "follows_its_spec",
    "make_quantizer",
    "set_progress",
    "sign",
]
