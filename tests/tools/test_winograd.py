"""tools/winograd: its convolutions are torch's, forward and backward."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.errors import RunError

FOLDER = Path(__file__).parents[2] / "tools" / "winograd"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built with GCC's options")


@pytest.fixture(scope="module")
def winograd() -> ModuleType:
    found = importlib.util.spec_from_file_location("winograd_convolution", FOLDER / "convolution.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _pictures(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def _run(conv2d: Any, x: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = conv2d(x, w, None, 1, 1)
    y.backward(dy)
    assert x.grad is not None
    assert w.grad is not None
    return y.detach(), x.grad, w.grad


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape",
    [(4, 64, 64, 32, 32), (3, 16, 48, 6, 6), (1, 32, 16, 5, 7), (2, 80, 112, 4, 4), (1, 16, 16, 1, 1)],
)
def test_value_and_gradients_are_those_of_float64(
    winograd: ModuleType, shape: tuple[int, ...], threads: int
) -> None:
    n, inputs, outputs, height, width = shape
    torch.manual_seed(0)
    x, w = _pictures(n, inputs, height, width), torch.randn(outputs, inputs, 3, 3)
    dy = _pictures(n, outputs, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = _run(winograd.conv2d, x, w, dy)
    finally:
        torch.set_num_threads(before)
    for value, expected in zip(ours, _run(F.conv2d, x.double(), w.double(), dy.double()), strict=True):
        assert value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last)
        assert float((value.double() - expected).norm() / expected.norm()) < 1e-5


def test_weights_in_any_memory_format(winograd: ModuleType) -> None:
    torch.manual_seed(0)
    x, w, dy = _pictures(2, 32, 8, 8), torch.randn(32, 32, 3, 3), _pictures(2, 32, 8, 8)
    other = w.contiguous(memory_format=torch.channels_last)
    for one, two in zip(_run(winograd.conv2d, x, w, dy), _run(winograd.conv2d, x, other, dy), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((64, 64), {"stride": 2, "padding": 1}),
        ((64, 64), {"padding": 0}),
        ((64, 64), {"padding": 1, "bias": torch.ones(64)}),
        ((64, 40), {"padding": 1}),
        ((64, 64), {"padding": 2, "dilation": 2}),
        ((8, 64), {"padding": 1}),
    ],
)
def test_what_does_not_fit_is_torchs(
    winograd: ModuleType, channels: tuple[int, int], options: dict[str, Any]
) -> None:
    inputs, outputs = channels
    x, w = _pictures(2, inputs, 8, 8), torch.randn(outputs, inputs, 3, 3)
    assert torch.equal(winograd.conv2d(x, w, **options), F.conv2d(x, w, **options))
    assert winograd.conv2d(x.double(), w.double(), padding=1).dtype == torch.float64


def test_loading_the_library_leaves_the_processors_rounding_alone(winograd: ModuleType) -> None:
    least = torch.tensor([1e-30]) * torch.tensor([1e-12])  # a denormal number, if it is not flushed to zero
    assert float(least) > 0


def test_no_pictures_and_wrong_channels_are_torchs(winograd: ModuleType) -> None:
    w = torch.randn(32, 32, 3, 3)
    assert winograd.conv2d(_pictures(0, 32, 8, 8), w, padding=1).shape == (0, 32, 8, 8)
    with pytest.raises(RuntimeError, match="to have 32 channels"):
        winograd.conv2d(_pictures(2, 16, 8, 8), w, padding=1)


def test_without_a_compiler_there_is_one_sentence(
    tmp_path: Path, winograd: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("CC", "no-such-compiler -v")
    with pytest.raises(RunError, match="do not compile with 'no-such-compiler -v'.*choose one with CC"):
        winograd._library()


def test_a_frozen_filter_and_a_first_layer_need_no_gradient(winograd: ModuleType) -> None:
    x, w = _pictures(2, 32, 8, 8), torch.randn(32, 32, 3, 3, requires_grad=True)
    winograd.conv2d(x, w, padding=1).sum().backward()
    assert w.grad is not None
    assert x.grad is None
    y = winograd.conv2d(x.requires_grad_(), w.detach(), padding=1)
    y.sum().backward()
    assert x.grad is not None
