"""Small classifiers as users write them, each with a few of the ways that torch offers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from bitskip.nn import BinaryConv2d, BinaryLinear, LearnedThreshold, RPReLU
from bitskip.nn.layers import Dropout


class PreActivation(nn.Module):
    """Batch norms before convolutions: none takes them, so they stand alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn3, self.act, self.head = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.act(self.bn2(self.conv1(self.act(self.bn1(x))))))
        return self.head(self.act(self.bn3(x)).mean((-2, -1)))


class Additions(nn.Module):
    """Every spelling of an addition, one of which no convolution can take."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if n == 0 else 6, 6, 3, padding=1) for n in range(8))
        self.quantizable = FloatFunctional()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.convs[0](x)
        a = torch.add(self.convs[1](a), a)
        b = self.convs[2](a)
        b += a
        b = b.add(self.convs[3](b)).relu_()
        b = self.quantizable.add_relu(self.convs[4](b), b)
        b = torch.relu(b) + F.max_pool2d(b, 3, 1, 1) + a
        b = torch.add(b, self.convs[5](b), alpha=0.5)
        b = b.add_(self.convs[6](b))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(b + b, 1), 1))


class Functional(nn.Module):
    """Parameters of its own and torch's functions, and an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.2)
        self.gain, self.offset = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.randn(6) * 0.1)
        self.register_buffer("variance", torch.rand(6) + 0.5)
        self.matrix, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        x = (1 - x) * 0.5 / torch.tensor([0.9, 1.0, 1.1]).view(1, 3, 1, 1)
        x = F.conv2d(x, self.kernel * 2, stride=(1, 2), padding=1)
        x = F.relu(F.batch_norm(x, self.mean, self.variance, self.gain, self.offset, self.training))
        x = F.dropout(x, 0.5, self.training)
        x = F.leaky_relu(-F.max_pool2d(x, 2) + self.offset[:, None, None], 0.1)
        if features:
            return x
        return F.linear(x.mean([2, 3]), self.matrix, self.bias)


def flat_classifier() -> nn.Module:
    """Linear layers on a flattened picture of 3x4 pixels, several in a row."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2)),
        nn.BatchNorm2d(8),
        nn.PReLU(),
        nn.MaxPool2d((2, 3), ceil_mode=True),
        nn.Conv2d(8, 6, 3, padding="same"),
        nn.PReLU(6),
        nn.Dropout2d(),
        nn.Flatten(),
        nn.Linear(6 * 3 * 4, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        Dropout(0.3),
        nn.Linear(16, 9),
        nn.Identity(),
        nn.LeakyReLU(0.2),
        nn.Linear(9, 5),
    )


class Pools(nn.Module):
    """Pools with padding, counted and not, cut off, adaptive, and a maximum over the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8)
        self.counted = nn.AvgPool2d(3, 1, 1)
        self.inside = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.cut = nn.AvgPool2d(3, 2, ceil_mode=True)
        self.thirds = nn.AdaptiveAvgPool2d((5, None))
        self.largest = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = self.cut(self.counted(x) + self.inside(x))
        return self.head(self.largest(self.thirds(x))).squeeze(-1).squeeze(-1)


class Signs(nn.Module):
    """1-bit layers with shifts, scales, padding values, a flattened picture, and inputs with two readers."""

    def __init__(self) -> None:
        super().__init__()
        one_bit = {"input_quantizer": "ste_sign"}
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.move = nn.Parameter(torch.randn(1, 12, 1, 1) * 0.3)
        self.threshold = LearnedThreshold(12)
        self.conv1 = BinaryConv2d(12, 12, 3, padding=1, pad_value=-1, weight_scale="channel", **one_bit)
        self.conv2 = BinaryConv2d(12, 12, 3, 2, 1, **one_bit)
        self.conv3 = BinaryConv2d(12, 12, 1, weight_scale="learned")
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(12) for _ in range(3))
        self.act = RPReLU(12)
        self.fc1 = BinaryLinear(12 * 3 * 3, 20, bias=True, **one_bit)
        self.bn4 = nn.BatchNorm1d(20)
        self.fc2 = BinaryLinear(20, 5, weight_scale="channel", **one_bit)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x))
        y = self.act(self.bn1(self.conv1(x + self.move)) + x)
        y = self.bn2(self.conv2(self.threshold(y)))
        y = self.bn3(self.conv3(y)) + F.max_pool2d(y, 1)
        y = F.max_pool2d(y, 2).flatten(1)
        return self.fc2(self.bn4(self.fc1(y)))


# -- what a Program cannot express ------------------------------------------------------------------------


class InPlaceFunctions(nn.Module):
    """Functions that change their argument, which is read again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        F.relu_(x)
        y = self.one(x)
        torch.relu_(y)
        return self.head((self.two(y) + y + x).mean((2, 3)))


def conv_after_global_pool() -> nn.Module:
    """A 3x3 convolution of one pixel, its padding around it."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


class Of(nn.Module):
    """A stem, one function, and a head."""

    def __init__(self, function: object, channels: int = 4) -> None:
        super().__init__()
        self.stem, self.function = nn.Conv2d(3, 4, 3, padding=1), function
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)).mean((2, 3)))


def layer(*modules: nn.Module) -> nn.Module:
    """A stem of 4 channels, `modules`, and a head for 4 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
