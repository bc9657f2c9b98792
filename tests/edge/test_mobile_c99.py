"""Exported C of MobileNets: grouped convolutions, gates, tables, concatenations, other sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_compilers import compile_driver, run_driver
from mobile_networks import small_efficientnet, small_v2, small_v3
from networks import MEAN, STD, normalised, pictures_of, randomised
from test_c99 import SANITIZERS, assert_as_reference, export, pictures_for
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.backends import export_target
from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.program import Program


class Pieces(nn.Module):
    """One of each: a gate, groups of several channels, a concatenation of unlike scales, a larger size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 10, 3, 2, 1), nn.BatchNorm2d(10)
        self.depthwise = nn.Conv2d(10, 10, (5, 3), (2, 1), (2, 1), groups=10)
        self.down, self.up = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.grouped = nn.Conv2d(20, 15, 3, padding=1, groups=5)
        self.head = nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of (N, 3, H, W)."""
        x = F.hardswish(self.norm(self.stem(x)))
        y = F.relu6(self.depthwise(x))
        y = y * torch.sigmoid(self.up(F.hardsigmoid(self.down(y.mean((2, 3), keepdim=True)))))
        y = torch.cat([F.interpolate(y, size=x.shape[2:]), F.max_pool2d(x, 3, 1, 1)], 1)
        return self.head(F.silu(self.grouped(y)).mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "pieces": (Pieces, 13),
    "mobilenet_v2": (small_v2, 32),
    "mobilenet_v3_small": (small_v3, 32),
    "efficientnet_b0": (small_efficientnet, 32),
}


def packed(name: str, precision: str = "int8") -> Program:
    make, side = NETWORKS[name]
    torch.manual_seed(0)
    model = randomised(make(), lambda s: normalised(pictures_of((8, side, side, 3), s)), scales=False)
    int8 = {"activations": "int8", "dense": "int8", "calibration": pictures_of((8, side, side, 3), 5)}
    how: dict[str, Any] = int8 if precision == "int8" else {}
    title = name if precision == "int8" else f"float-{name}"
    return lower(model, MEAN, STD, input_shape=(3, side, side), name=title, **how)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "cpu"),
    [
        ("pieces", "cortex-m0plus"),
        ("mobilenet_v2", "cortex-m4"),
        slow("mobilenet_v2", "cortex-m0plus"),
        slow("mobilenet_v3_small", "cortex-m4"),
        slow("efficientnet_b0", "cortex-m4"),
    ],
)
def test_int8_agrees_with_the_reference_to_the_bit(name: str, cpu: str, tmp_path: Path) -> None:
    program = packed(name)
    facts = export(program, tmp_path / "net", cpu=cpu)
    assert facts["float"] == (name != "mobilenet_v2")
    assert {"grouped", "depthwise"} & set(facts["kernels"])
    compile_driver(tmp_path / "net", "gcc", "-O3")  # without a warning
    binary = compile_driver(tmp_path / "net", "gcc", *SANITIZERS)
    pictures = pictures_for(program, 4)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)


@pytest.mark.parametrize("name", ["pieces", slow("mobilenet_v2")])
def test_the_smallest_arena_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """No op that needs all rows before it runs in bands."""
    program = packed(name)
    with pytest.raises(LoweringError, match="smallest arena") as error:
        export(program, tmp_path / "net", arena_bytes=1)
    smallest = int(str(error.value).split(" is ")[-1].split()[0])
    facts = export(program, tmp_path / "net", arena_bytes=smallest)
    assert facts["arena_bytes"] == smallest
    binary = compile_driver(tmp_path / "net", "gcc", *SANITIZERS)
    pictures = pictures_for(program, 4)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)


def test_groups_in_float_are_refused_by_name_with_what_to_do() -> None:
    reasons = export_target("c99").supports(packed("pieces", "fp32"))
    assert reasons == (
        "layer 'depthwise' has 10 groups in float, expected int8; pack with --activations int8 --dense int8",
        "layer 'grouped' has 5 groups in float, expected int8; pack with --activations int8 --dense int8",
    )


def test_the_rest_in_float_agrees_with_the_reference(tmp_path: Path) -> None:
    """Products, concatenations, sizes and activations of fp32 networks, as near as sums of floats allow."""
    torch.manual_seed(1)
    model = Pieces()
    model.depthwise, model.grouped = nn.Conv2d(10, 10, 3, (2, 1), 1), nn.Conv2d(20, 15, 3, padding=1)
    program = lower(model.eval(), MEAN, STD, input_shape=(3, 13, 13), name="float-pieces")
    export(program, tmp_path / "net")
    binary = compile_driver(tmp_path / "net", "gcc", *SANITIZERS)
    pictures = pictures_for(program, 4)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)
