"""tools/winograd: its convolutions and activations are torch's, forward and backward."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.errors import RunError
from bitskip.nn import SignQuantizer
from bitskip.nn.layers import RPReLU

FOLDER = Path(__file__).parents[2] / "tools" / "winograd"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built with GCC's options")


def _load(name: str) -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def winograd() -> ModuleType:
    return _load("convolution")


@pytest.fixture(scope="module")
def pointwise() -> ModuleType:
    return _load("pointwise")


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


def test_without_a_compiler_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("CC", "no-such-compiler -v")
    with pytest.raises(RunError, match="does not compile with 'no-such-compiler -v'.*choose one with CC"):
        _load("compiled").library("pointwise.c", contract="off")


def test_a_frozen_filter_and_a_first_layer_need_no_gradient(winograd: ModuleType) -> None:
    x, w = _pictures(2, 32, 8, 8), torch.randn(32, 32, 3, 3, requires_grad=True)
    winograd.conv2d(x, w, padding=1).sum().backward()
    assert w.grad is not None
    assert x.grad is None
    y = winograd.conv2d(x.requires_grad_(), w.detach(), padding=1)
    y.sum().backward()
    assert x.grad is not None


def _rprelu(forward: Any, module: RPReLU, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = forward(module, x)
    y.backward(dy)
    gradients = [parameter.grad for parameter in (x, module.shift_in, module.slope, module.shift_out)]
    assert all(gradient is not None for gradient in gradients)
    return [y.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(4, 64, 16, 16), (3, 24, 5, 7), (1, 3, 1, 1), (0, 16, 4, 4)])
def test_rprelu_is_torchs_and_sums_more_exactly(
    pointwise: ModuleType, shape: tuple[int, ...], threads: int
) -> None:
    torch.manual_seed(0)
    module, x, dy = RPReLU(shape[1]), _pictures(*shape), _pictures(*shape)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(shape[1]))
        if x.numel():
            x[0] = module.shift_in.view(-1, 1, 1)  # z = 0, where the slope is the one below
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, torchs = (_rprelu(call, module, x, dy) for call in (pointwise.rprelu, RPReLU.forward))
    finally:
        torch.set_num_threads(before)
    exact = _rprelu(RPReLU.forward, module.double(), x.double(), dy.double())
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], torchs[:2], strict=True))
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in ours[:2])
    for value, expected in zip(ours[2:], exact[2:], strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_clipped_sign_is_bitskips(pointwise: ModuleType, channels_last: bool) -> None:
    torch.manual_seed(0)
    x = 2 * torch.randn(3, 20, 6, 5)
    x[0, 0, 0] = torch.tensor([0.0, -0.0, 1.0, -1.0, 1 + 2**-23])
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    dy = torch.randn(3, 20, 6, 5)
    found = []
    for forward in (pointwise.sign, SignQuantizer.forward):
        leaf = x.clone().requires_grad_()
        y = forward(SignQuantizer("ste_sign"), leaf)
        y.backward(dy)
        assert leaf.grad is not None
        found.append((y.detach(), leaf.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_does_not_fit_is_bitskips(pointwise: ModuleType) -> None:
    module = RPReLU(16)
    for x in (torch.randn(2, 16, 4, 4), torch.randn(2, 16), _pictures(2, 16, 4, 4).bfloat16()):
        assert torch.equal(pointwise.rprelu(module, x), module(x))
    part = torch.randn(4, 16)[:, ::2]
    for x in (part, torch.randn(3, dtype=torch.float64)):
        assert torch.equal(pointwise.sign(SignQuantizer("ste_sign"), x), SignQuantizer("ste_sign")(x))


def test_installed_they_leave_other_estimators_alone(
    pointwise: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RPReLU, "forward", RPReLU.forward)
    monkeypatch.setattr(SignQuantizer, "forward", SignQuantizer.forward)
    pointwise.install()
    assert RPReLU.forward is pointwise.rprelu
    x = torch.tensor([0.25, -3.0], requires_grad=True)
    SignQuantizer("approx_sign")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.5, 0.0]
    assert SignQuantizer("ste_sign")(x).tolist() == [1.0, -1.0]
