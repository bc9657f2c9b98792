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
from bitskip.nn.quantizers import SignQuantizer, set_progress, sign
from bitskip.nn.resnet import ResNet, build, follows_its_spec

__all__ = [
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Int8Conv2d",
    "Int8Linear",
    "LearnedThreshold",
    "RPReLU",
    "ResNet",
    "SignQuantizer",
    "binary_layers",
    "build",
    "follows_its_spec",
    "set_progress",
    "sign",
]
