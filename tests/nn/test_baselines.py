"""The baselines: their counts as factors, and that they train."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitskip.errors import SpecError
from bitskip.nn.baselines import baseline_names, build_baseline, count_baseline
from bitskip.nn.layers import binary_layers


@pytest.mark.parametrize("name", baseline_names())
def test_a_step_of_training_moves_every_parameter_and_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = build_baseline(name)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        logits = model(images)
        assert logits.shape == (8, 10)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", baseline_names())
def test_inputs_of_signs_are_no_constants(name: str) -> None:
    torch.manual_seed(0)
    model = build_baseline(name)
    shares = []
    for layer in binary_layers(model).values():
        if layer.input_quantizer is not None:
            layer.input_quantizer.register_forward_hook(
                lambda module, inputs, output: shares.append(float((output > 0).float().mean()))
            )
    model(torch.randn(8, 3, 32, 32))
    assert all(0.05 < share < 0.95 for share in shares)


def test_binarized_vgg_in_factors() -> None:
    cost = count_baseline("binarized-vgg")
    first = 3 * 3 * 3 * 128
    sizes = {32: 128 * 9 * 128, 16: 128 * 9 * 256 + 256 * 9 * 256, 8: 256 * 9 * 512 + 512 * 9 * 512}
    dense = 4 * 4 * 512 * 1024 + 1024 * 1024 + 1024 * 10
    norms = 2 * (2 * 128 + 2 * 256 + 2 * 512 + 2 * 1024 + 10)
    weights = first + sum(sizes.values()) + dense
    assert cost.binary_parameters == weights
    assert cost.parameters == weights + norms
    assert cost.effective_parameters == weights // 32 + norms
    one_bit = sum(size * size * number for size, number in sizes.items()) + dense
    # The picture is real, so the first layer's MACs are not 1-bit ones, though its weights are.
    assert (cost.binary_macs, cost.binary_weight_macs) == (one_bit, one_bit + first * 32 * 32)
    assert cost.macs == one_bit + first * 32 * 32
    assert {row.precision for row in cost.layers if row.kind != "batch_norm"} == {"w1", "w1a1"}


def test_xnor_nin_in_factors() -> None:
    cost = count_baseline("xnor-nin")
    at32 = 192 * 160 + 160 * 96
    at16 = 96 * 5 * 5 * 192 + 192 * 192 + 192 * 192
    at8 = 192 * 3 * 3 * 192 + 192 * 192
    first, last = 3 * 5 * 5 * 192, 192 * 10
    biases = 192 + 160 + 96 + 5 * 192 + 10
    norms = 2 * (192 + 160 + 96 + 192 + 192 + 192 + 192)  # before each 1-bit layer; two others have none
    assert cost.binary_parameters == at32 + at16 + at8
    assert cost.parameters == at32 + at16 + at8 + first + last + biases + norms
    assert cost.binary_macs == at32 * 32 * 32 + at16 * 16 * 16 + at8 * 8 * 8
    assert cost.macs_by_precision == {"fp32": first * 32 * 32 + last * 8 * 8, "w1a1": cost.binary_macs}


def test_mlperf_resnet8_in_factors() -> None:
    cost = count_baseline("mlperf-resnet8")
    at32 = 3 * 9 * 16 + 2 * 16 * 9 * 16
    at16 = 16 * 9 * 32 + 32 * 9 * 32 + 16 * 32
    at8 = 32 * 9 * 64 + 64 * 9 * 64 + 32 * 64
    biases = 3 * 16 + 3 * 32 + 3 * 64 + 10
    norms = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    assert cost.parameters == at32 + at16 + at8 + 64 * 10 + biases + norms
    # Keras counts the norms' running mean and variance too.
    assert cost.parameters + norms == 78_666
    assert cost.binary_parameters == 0
    assert cost.macs == at32 * 32 * 32 + at16 * 16 * 16 + at8 * 8 * 8 + 64 * 10
    assert cost.peak_activation_bytes == {"naive": 3 * 16 * 32 * 32 * 4, "in_place": 2 * 16 * 32 * 32 * 4}


def test_other_sizes() -> None:
    for name in baseline_names():
        cost = count_baseline(name, 64)
        assert cost.input_shape == (3, 64, 64)
        assert cost.layers[0].output_shape is not None
        assert cost.layers[0].output_shape[1:] == (64, 64)
        model = build_baseline(name, 16).eval()
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_unknown_names_and_sizes() -> None:
    with pytest.raises(SpecError, match="unknown baseline 'resnet8', .* did you mean 'mlperf-resnet8'"):
        build_baseline("resnet8")
    with pytest.raises(SpecError, match="input size is 7, expected at least 8 pixels"):
        count_baseline("xnor-nin", 7)


def test_real_layers_are_where_they_are_said_to_be() -> None:
    nin = build_baseline("xnor-nin")
    assert [name for name, m in nin.named_modules() if isinstance(m, nn.Conv2d)] == ["conv1", "conv9"]
    vgg = build_baseline("binarized-vgg")
    assert not any(isinstance(m, nn.Conv2d | nn.Linear) for m in vgg.modules())
    assert next(n for n, layer in binary_layers(vgg).items() if layer.input_quantizer is None) == "conv1"
