"""MobileNets, EfficientNets and what they are made of: torch, reference and native runtime agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from mobile_networks import small_efficientnet, small_v2, small_v3
from networks import MEAN, STD, normalised, pictures_of, randomised, torch_logits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.lower.recorded import Recorder, Traced
from bitskip.lower.torch_ops import convolve
from bitskip.program import Concat, Conv2d, IntegerEpilogue, Lookup, Mul, Program
from bitskip.runtime import Model, run_reference


class Gate(nn.Module):
    """Squeeze and excitation around a layer, its gate on either side of the product."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.down, self.up, self.gate = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1), gate

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        weight = self.gate(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return weight * x


class Joined(nn.Module):
    """A concatenation of five maps, one of which is read again, and the activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 4 + 2 * at, 1) for at in range(4))
        self.last = nn.Conv2d(4 + 6 + 8 + 10 + 8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(x)
        a, b, c, d = (branch(x) for branch in self.branches)
        parts = [F.hardswish(a), b.clamp(0, 6), F.hardtanh(c, 0, 6), d * F.hardsigmoid(d)]
        y = torch.cat([*parts, F.max_pool2d(x, 3, 1, 1)], dim=1)
        return self.head((F.hardsigmoid(self.last(y)) + x).mean((2, 3)))


def gated(gate: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish(), Gate(8, gate), nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "sigmoid gate": (lambda: gated(nn.Sigmoid()), 12),
    "hard gate": (lambda: gated(nn.Hardsigmoid()), 12),
    "joined": (Joined, 12),
    "mobilenet_v2": (small_v2, 32),
    "efficientnet_b0": (small_efficientnet, 32),
}
WHOLE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "narrow mobilenet_v3_small": (small_v3, 32),
    "whole mobilenet_v2": (partial(models.mobilenet_v2, num_classes=10), 64),
    "whole mobilenet_v3_small": (partial(models.mobilenet_v3_small, num_classes=10), 64),
    "whole mobilenet_v3_large": (partial(models.mobilenet_v3_large, num_classes=10), 64),
    "whole efficientnet_b0": (partial(models.efficientnet_b0, num_classes=10), 64),
}


def measured(name: str) -> tuple[nn.Module, int]:
    """Return the network, random, with batch norms measured on pictures, and its pictures' side."""
    make, side = (NETWORKS | WHOLE)[name]
    torch.manual_seed(0)
    model = make()
    return randomised(
        model, lambda step: normalised(pictures_of((16, side, side, 3), 100 + step)), scales=False
    ), side


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in WHOLE)])
def test_torch_native_and_reference_agree(name: str) -> None:
    """fp32 as torch to rounding; int8 native = reference to the bit, and near torch."""
    model, side = measured(name)
    images = pictures_of((4, side, side, 3))
    options = {"input_shape": (3, side, side)}
    real = Program.from_bytes(lower(model, MEAN, STD, **options).to_bytes())
    expected = torch_logits(model, images)
    assert expected.std(axis=0).mean() > 1e-3, "the pictures must differ for this to mean anything"
    for found in (Model(real).predict(images), run_reference(real, images)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    how = {"activations": "int8", "dense": "int8", "calibration": pictures_of((16, side, side, 3), 7)}
    program = Program.from_bytes(lower(model, MEAN, STD, **options, **how).to_bytes())
    assert {op.weight_dtype for op in program.ops if isinstance(op, Conv2d)} == {"i8"}
    found = Model(program).predict(images)
    np.testing.assert_array_equal(found, run_reference(program, images))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.5


def int8(model: nn.Module, side: int) -> Program:
    return lower(
        model.eval(),
        MEAN,
        STD,
        input_shape=(3, side, side),
        activations="int8",
        dense="int8",
        calibration=pictures_of((8, side, side, 3)),
    )


def test_curved_activations_are_tables_and_nothing_leaves_int8() -> None:
    """Stem, depthwise layer and gate; what reads the sums of a pool stays in float: one pixel."""
    program = int8(gated(nn.Sigmoid()), 12)
    kinds = Counter(op.kind for op in program.ops)
    assert kinds == {"quantize_input": 1, "conv2d": 6, "lookup": 3, "mul": 1, "global_avg_pool": 2}
    in_float = [op.name for op in program.ops if isinstance(op, Conv2d) and op.epilogue.kind == "float"]
    assert in_float == ["3.down", "7"]  # the second gives the logits
    assert {t.dtype for t in program.tensors if t.shape[0] > 1} == {"u8", "i8"}
    depthwise = next(op for op in program.ops if op.name == "3.conv")
    assert isinstance(depthwise, Conv2d)
    assert (depthwise.groups, depthwise.weight.shape) == (8, (8, 5, 5, 1))
    product = next(op for op in program.ops if isinstance(op, Mul))
    assert isinstance(product.epilogue, IntegerEpilogue)


def test_relu6_is_where_codes_end() -> None:
    """Calibrated codes end at 6 or below; those of a wider range are cut by a table."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))
    model[0].weight.data.mul_(20)  # type: ignore[operator]
    program = int8(model, 8)
    assert "lookup" not in {op.kind for op in program.ops}
    tensor = next(t for t in program.tensors if t.dtype == "i8" and t.name == "0")
    assert tensor.zero_point == -128
    assert 255 * tensor.scale < 6.03


def test_a_concatenation_has_one_scale() -> None:
    """What it alone reads is written in its codes; what others read too goes through a table."""
    program = int8(Joined(), 12)
    for op in program.ops:
        if isinstance(op, Concat):
            assert (
                len(
                    {
                        (program.tensors[n].scale, program.tensors[n].zero_point)
                        for n in (*op.inputs, op.output)
                    }
                )
                == 1
            )
    rescaled = [op.name for op in program.ops if isinstance(op, Lookup) and op.name.endswith(".rescaled")]
    assert len(rescaled) == 1  # the max pool keeps the scale of what it reads


def test_groups_at_1_bit_are_refused() -> None:
    record = Recorder((4, 8, 8))
    record.where = "'1' (Conv)"
    with pytest.raises(
        LoweringError, match=r"'1' \(Conv\) has groups=4 and 1-bit weights, expected groups=1"
    ):
        convolve(record, Traced(0, (8, 8, 4), (2, 4, 8, 8)), torch.ones(4, 1, 3, 3), groups=4, precision="w1")
