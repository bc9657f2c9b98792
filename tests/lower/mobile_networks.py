"""Torchvision's MobileNets and EfficientNet-B0 at a quarter of their width, for five classes."""

from __future__ import annotations

from torch import nn
from torchvision.models import efficientnet, mobilenet_v2, mobilenetv3


def small_v2() -> nn.Module:
    """MobileNetV2."""
    return mobilenet_v2(width_mult=0.25, num_classes=5)


def small_v3() -> nn.Module:
    """MobileNetV3-small."""
    settings, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.25)
    return mobilenetv3.MobileNetV3(settings, last, num_classes=5)


def small_efficientnet() -> nn.Module:
    """EfficientNet-B0, half as deep too."""
    settings, last = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=0.25, depth_mult=0.5)
    return efficientnet.EfficientNet(settings, dropout=0.2, last_channel=last, num_classes=5)
