"""Networks that the paper compares with or that others measure on CIFAR-10, as torch modules that train.

They are not residual networks of a `NetworkSpec`, so they are written out here, layer by layer as their
sources have them; what differs from the source is said. Each takes (N, 3, S, S) pictures and returns
logits (N, classes), ten if nothing else is said.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.cost import Cost
from bitskip.errors import FileFormatError, SpecError, check_one_of
from bitskip.nn.count import count_module
from bitskip.nn.layers import BinaryConv2d, BinaryLinear

CLASSES = 10
INPUT_SIZE = 32  # height = width of CIFAR-10's pictures, in pixels


def baseline_names() -> tuple[str, ...]:
    """Return the names that `build_baseline` knows."""
    return tuple(_BUILDERS)


def build_baseline(name: str, input_size: int = INPUT_SIZE, classes: int = CLASSES) -> nn.Module:
    """Return a baseline network, freshly initialised from torch's random generator.

    - `binarized-vgg`: the CIFAR-10 ConvNet of Hubara et al. 2016, every weight 1-bit;
    - `xnor-nin`: Network in Network with 1-bit inner layers, Cao 2017;
    - `mlperf-resnet8`: the image classification network of MLPerf Tiny, all fp32.

    Args:
        name: one of `baseline_names()`.
        input_size: height = width of the pictures, in pixels, at least 8.
        classes: outputs, at least 2.

    Raises:
        SpecError: for an unknown name, naming the nearest, a size below 8, or fewer than two classes.
    """
    check_one_of(name, _BUILDERS, "unknown baseline", SpecError)
    if input_size < 8:
        raise SpecError(f"baseline '{name}': input size is {input_size}, expected at least 8 pixels")
    if classes < 2:
        raise SpecError(f"baseline '{name}': {classes} classes, expected at least 2")
    return _BUILDERS[name](input_size, classes)


def count_baseline(name: str, input_size: int | None = None) -> Cost:
    """Return the cost of a baseline for one picture; raises SpecError as `build_baseline` does."""
    return Baseline(name, input_size=INPUT_SIZE if input_size is None else input_size).cost()


@dataclass(frozen=True)
class Baseline:
    """A baseline as something to train: what a `NetworkSpec` is for bitskip's own networks."""

    baseline: str  # one of `baseline_names()`
    classes: int = CLASSES
    input_size: int = INPUT_SIZE  # height = width of the pictures, in pixels

    def __post_init__(self) -> None:
        self.cost()  # raises SpecError for what cannot be built

    @property
    def name(self) -> str:
        """The word that names it: `baseline:NAME`."""
        return f"baseline:{self.baseline}"

    @property
    def input_channels(self) -> int:
        """Channels of a picture."""
        return 3

    @property
    def precisions(self) -> frozenset[str]:
        """The precisions of the layers that have weights to multiply with: `fp32`, `w1`, `w1a1`."""
        return frozenset(layer.precision for layer in self.cost().layers if layer.macs)

    @property
    def head(self) -> tuple[str, ...]:
        """What the names of the parameters that count the classes begin with."""
        return _HEADS[self.baseline]

    def cost(self) -> Cost:
        """Return its cost for one picture."""
        return _counted(self)

    def build(self) -> nn.Module:
        """Return the network, freshly initialised from torch's random generator."""
        return build_baseline(self.baseline, self.input_size, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return its values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return its values as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str) -> Baseline:
        """Read what `to_json` wrote; raises FileFormatError for anything else, naming `source`."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError, SpecError) as error:
            raise FileFormatError(f"{source} names no baseline: {error}") from None


@cache
def _counted(baseline: Baseline) -> Cost:
    with torch.device("meta"):
        model = baseline.build()
    size = baseline.input_size
    return count_module(model, (baseline.input_channels, size, size), name=baseline.name)


# -- Binarized VGG --------------------------------------------------------------------------------------


def _binarized_vgg(input_size: int, classes: int) -> nn.Module:
    """Return (2x128C3)-MP2-(2x256C3)-MP2-(2x512C3)-MP2-(2x1024FC)-10 with 1-bit weights and activations.

    Hubara et al. 2016, "Binarized Neural Networks", section 2; layer order of their
    MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py: conv, [max pool,] batch norm, sign. Every weight is
    1-bit, those of the first and last layer included. Real are the picture (so the first layer is `w1`) and
    the batch norms. Left out are biases before batch norms, which absorb them; inputs are padded with 0.
    """
    net = nn.Sequential()
    channels = 3
    for at, width in enumerate((128, 128, 256, 256, 512, 512), 1):
        quantizer = None if at == 1 else "ste_sign"
        net.add_module(f"conv{at}", BinaryConv2d(channels, width, 3, padding=1, input_quantizer=quantizer))
        if at % 2 == 0:
            net.add_module(f"pool{at}", nn.MaxPool2d(2))
        net.add_module(f"bn{at}", nn.BatchNorm2d(width, eps=1e-4))
        channels = width
    net.add_module("flatten", nn.Flatten())
    features = channels * (input_size // 8) ** 2
    for at, width in enumerate((1024, 1024, classes), 7):
        net.add_module(f"fc{at}", BinaryLinear(features, width, input_quantizer="ste_sign"))
        net.add_module(f"bn{at}", nn.BatchNorm1d(width, eps=1e-4))
        features = width
    return net


# -- XNOR NIN -------------------------------------------------------------------------------------------


class _ChannelBias(nn.Module):
    """Adds a real bias to each channel of a 1-bit convolution; shape (N, channels, H, W), unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Add the bias."""
        return x + self.bias.view(1, -1, 1, 1)


def _xnor_layer(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Return batch norm, sign and 1-bit convolution with scale and bias, ReLU."""
    conv = BinaryConv2d(
        channels, width, kernel, padding=kernel // 2, input_quantizer="ste_sign", weight_scale="channel"
    )
    norm = nn.BatchNorm2d(channels, eps=1e-4)
    return _named(bn=norm, conv=conv, bias=_ChannelBias(width), relu=nn.ReLU(inplace=True))


def _xnor_nin(_input_size: int, classes: int) -> nn.Module:
    """Return Network in Network with 1-bit weights and activations in its seven inner convolutions.

    Cao 2017, jiecaoyu/XNOR-Net-PyTorch, CIFAR_10/models/nin.py, after Rastegari et al. 2016, "XNOR-Net"
    (weights scaled by their channel's mean magnitude). Real are the first convolution (5x5, 192), the last
    (1x1, 10), batch norms and biases. Not taken over from the code: its dropout of signs, its centring of
    latent weights, and a ReLU on the logits.
    """
    return _named(
        conv1=nn.Conv2d(3, 192, 5, padding=2),
        bn1=nn.BatchNorm2d(192, eps=1e-4, affine=False),
        relu1=nn.ReLU(inplace=True),
        layer2=_xnor_layer(192, 160, 1),
        layer3=_xnor_layer(160, 96, 1),
        pool3=nn.MaxPool2d(3, stride=2, padding=1),
        layer4=_xnor_layer(96, 192, 5),
        layer5=_xnor_layer(192, 192, 1),
        layer6=_xnor_layer(192, 192, 1),
        pool6=nn.AvgPool2d(3, stride=2, padding=1),
        layer7=_xnor_layer(192, 192, 3),
        layer8=_xnor_layer(192, 192, 1),
        bn8=nn.BatchNorm2d(192, eps=1e-4, affine=False),
        conv9=nn.Conv2d(192, classes, 1),
        pool9=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )


# -- MLPerf Tiny ResNet-8 -------------------------------------------------------------------------------


class _ResNet8Block(nn.Module):
    """conv-BN-ReLU-conv-BN, plus identity or a strided 1x1 convolution without BN, then ReLU."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (N, channels, H, W) into (N, width, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def _mlperf_resnet8(_input_size: int, classes: int) -> nn.Module:
    """Return the ResNet-8 of MLPerf Tiny v0.5 to v1.x: stem 16, one block each of 16, 32 and 64 channels.

    mlcommons/tiny, benchmark/training/image_classification/keras_model.py, `resnet_v1_eembc` with 16
    filters: every convolution has a bias, projections have no batch norm. Keras counts 78,666 parameters,
    of which 480 are running statistics of batch norms. Strided 3x3 convolutions are padded by 1 on every
    side here, where Keras pads only right and below.
    """
    return _named(
        conv=nn.Conv2d(3, 16, 3, padding=1),
        bn=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        block1=_ResNet8Block(16, 16, 1),
        block2=_ResNet8Block(16, 32, 2),
        block3=_ResNet8Block(32, 64, 2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(64, classes),
    )


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "binarized-vgg": _binarized_vgg,
    "xnor-nin": _xnor_nin,
    "mlperf-resnet8": _mlperf_resnet8,
}
_HEADS = {"binarized-vgg": ("fc9.", "bn9."), "xnor-nin": ("conv9.",), "mlperf-resnet8": ("head.",)}
