"""Counting torch modules: against fvcore, published figures, the specs' own cost, and arithmetic."""

from __future__ import annotations

import dataclasses
import random
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from bitskip.cost import Cost, cost_of
from bitskip.errors import SpecError
from bitskip.nn import BinaryConv2d, BinaryLinear, build
from bitskip.nn.count import count_module
from bitskip.sources.cost import cost_of_source
from bitskip.spec import NetworkSpec, named_models, named_spec

# -- torchvision ------------------------------------------------------------------------------------------


def count_torchvision(name: str, size: int | None = None) -> Cost:
    return cost_of_source(f"torchvision:{name}", input_size=size)


def _fvcore(name: str) -> int:
    """Count the MACs of convolutions and linear layers by fvcore, which traces the module with torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates torch.jit
        from fvcore.nn import FlopCountAnalysis

        model = models.get_model(name, weights=None).eval()
        counted = FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224))
        counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = counted.by_operator()
    return int(by_operator["conv"] + by_operator["linear"])


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0"])
def test_macs_agree_with_fvcore(name: str) -> None:
    assert count_torchvision(name).macs == _fvcore(name)


def test_attention_adds_its_two_products_to_fvcores_count() -> None:
    # fvcore leaves scaled_dot_product_attention out: queries x keys and weights x values, 12 layers.
    products = 12 * 2 * 197 * 197 * 768
    assert count_torchvision("vit_b_16").macs == _fvcore("vit_b_16") + products


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_b1", "vit_b_16"),
        *("swin_t", "regnet_y_400mf", "densenet121", "shufflenet_v2_x1_0", "convnext_tiny", "inception_v3"),
    ],
)
def test_counts_are_the_published_ones(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT.meta
    cost = count_torchvision(name)
    assert cost.parameters == published["num_params"]
    assert cost.macs is not None
    assert round(cost.macs / 1e9, 3) == pytest.approx(published["_ops"], abs=0.0011)
    assert None not in cost.peak_activation_bytes.values()


def test_resnet50_in_numbers() -> None:
    cost = count_torchvision("resnet50")
    assert cost.parameters == 25_557_032
    assert cost.macs == 4_089_184_256
    assert cost.peak_activation_bytes == {"naive": 9 * 64 * 56 * 56 * 4, "in_place": 8 * 64 * 56 * 56 * 4}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvisions_resnets_cost_what_their_specs_cost(name: str) -> None:
    ours, theirs = cost_of(named_spec(name)), count_torchvision(name)
    for key in ("parameters", "macs", "weight_bytes", "peak_activation_bytes"):
        assert getattr(ours, key) == getattr(theirs, key)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("resnet500", None, "unknown torchvision model 'resnet500'; did you mean 'resnet50'"),
        ("raft_small", None, "does not take one picture in real numbers"),
        ("resnet50", -3, "input size is -3"),
        ("vit_b_16", 100, "does not run on an input of 3x100x100: Wrong image height"),
    ],
)
def test_what_torchvision_cannot_count(name: str, size: int | None, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        count_torchvision(name, size)


# -- bitskip's own networks -------------------------------------------------------------------------------


def _assert_agrees(spec: NetworkSpec) -> None:
    ours = cost_of(spec)
    with torch.device("meta"):
        counted = count_module(build(spec), ours.input_shape, spec.name)
    expected, got = ours.to_dict(), counted.to_dict()
    rows = {layer["name"]: layer for layer in got.pop("layers")}
    scales = {}
    for layer in expected.pop("layers"):
        if layer["kind"] == "scale":  # a spec lists a learned scale apart, a module holds it in its layer
            scales[layer["name"].removesuffix(".scale")] = layer["parameters"]
        else:
            row = rows.pop(layer["name"])
            for key in ("kind", "precision", "input_bits", "output_shape", "macs", "binary_macs"):
                assert (layer["name"], row[key]) == (layer["name"], layer[key])
            assert row["parameters"] - layer["parameters"] in (0, layer["output_shape"][0])
    assert rows == {}
    assert got == expected


@pytest.mark.parametrize("name", [*named_models(), "resnet18-w1a1", "resnet50-binary-middle"])
def test_named_networks_cost_what_their_specs_say(name: str) -> None:
    _assert_agrees(named_spec(name))


@pytest.mark.parametrize("style", ["paper", "standard", "per_conv"])
@pytest.mark.parametrize("precision", ["fp32", "w1", "w1a1"])
@pytest.mark.parametrize("projection", ["conv", "pool_conv"])
@pytest.mark.parametrize("activation", ["relu", "rprelu"])
def test_every_kind_of_block_costs_what_its_spec_says(
    style: str, precision: str, projection: str, activation: str
) -> None:
    spec = NetworkSpec(
        "small", (4, 8), (2, 1), (precision, "w1"), (True, True), stem_width=4, input_size=9, style=style,
        projection=projection, activation=activation, before_binary="threshold", weight_scale="learned",
    )  # fmt: skip
    _assert_agrees(spec)
    _assert_agrees(dataclasses.replace(spec, before_binary="no_relu", shortcuts=(False, True)))


LAYERS = [f"stage{stage}.block{block}.{layer}" for stage in (1, 2) for block in (1, 2)
          for layer in ("conv1", "conv2")] + ["stage2.block1.shortcut.conv"]  # fmt: skip


@pytest.mark.parametrize("style", ["paper", "standard", "per_conv"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("seed", range(8))
def test_layers_of_any_precision_cost_what_their_spec_says(style: str, stem: str, seed: int) -> None:
    """fp32, int8, w1 and w1a1, mixed layer by layer."""
    rng = random.Random(seed)
    precisions = ("int8",) * 3 + ("fp32", "w1", "w1a1") * (seed > 0)
    spec = NetworkSpec(
        "mixed", (4, 8), (2, 2), ("int8", "int8"), (True, True), stem_width=4, input_size=16, style=style,
        stem=stem, stem_precision=rng.choice(("fp32", "int8")), head_precision=rng.choice(("fp32", "int8")),
        projection=rng.choice(("conv", "pool_conv")), before_binary="threshold",
        layer_precision={name: rng.choice(precisions) for name in LAYERS},
        block_shortcuts={"stage1.block2": rng.random() < 0.7},
    )  # fmt: skip
    _assert_agrees(spec)


def test_int8_layers_count_as_int8() -> None:
    spec = dataclasses.replace(
        named_spec("resnet14-full-all"), precision=("int8",) * 3, stem_precision="int8", head_precision="int8"
    )
    real, declared = (
        count_module(build(named_spec("resnet14-full-all")), (3, 32, 32)),
        count_module(build(spec), (3, 32, 32)),
    )
    weights = sum(layer.parameters or 0 for layer in real.layers if layer.kind in ("conv", "linear")) - 10
    assert declared.weight_bytes == (real.weight_bytes or 0) - 3 * weights
    assert declared.macs_by_precision == {"int8": real.macs}
    peaks = real.peak_activation_bytes["naive"], declared.peak_activation_bytes["naive"]
    assert peaks == (4 * (peaks[1] or 0), peaks[1])


# -- other modules, by arithmetic -------------------------------------------------------------------------


def _count(module: nn.Module, *shape: int) -> Cost:
    cost = count_module(module, shape)
    assert cost.peak_activation_bytes["naive"] is not None
    return cost


@pytest.mark.parametrize(
    ("layer", "shape", "parameters", "macs"),
    [
        (nn.Conv2d(8, 12, 3, padding=1), (8, 10, 10), 8 * 12 * 9 + 12, 8 * 12 * 9 * 100),
        (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 10, 10), 2 * 12 * 9 + 12, 2 * 12 * 9 * 100),
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), (8, 10, 10), 8 * 9, 8 * 9 * 8 * 8),
        (nn.Conv2d(3, 4, 3, dilation=2, bias=False), (3, 10, 10), 3 * 4 * 9, 3 * 4 * 9 * 6 * 6),
        (nn.Conv2d(3, 4, (3, 5), (2, 1), bias=False), (3, 9, 9), 3 * 4 * 15, 3 * 4 * 15 * 4 * 5),
        (nn.Conv1d(3, 4, 5, padding="same"), (3, 20), 3 * 4 * 5 + 4, 3 * 4 * 5 * 20),
        (nn.Conv3d(2, 3, 3, bias=False), (2, 5, 5, 5), 2 * 3 * 27, 2 * 3 * 27 * 27),
        (nn.ConvTranspose2d(6, 4, 2, 2), (6, 5, 5), 6 * 4 * 4 + 4, 6 * 4 * 4 * 5 * 5),
        (nn.ConvTranspose2d(6, 4, 2, 2, groups=2), (6, 5, 5), 3 * 4 * 4 + 4, 3 * 4 * 4 * 5 * 5),
        (nn.Linear(7, 5), (7,), 7 * 5 + 5, 7 * 5),
        (nn.Linear(7, 5), (3, 7), 7 * 5 + 5, 3 * 7 * 5),
        (nn.Bilinear(3, 3, 2), None, 0, 0),
        (nn.BatchNorm2d(6), (6, 4, 4), 2 * 6, 0),
        (nn.LayerNorm(6), (4, 6), 2 * 6, 0),
        (nn.PReLU(3), (3, 4, 4), 3, 0),
        (nn.MaxPool2d(2), (3, 4, 4), 0, 0),
    ],
)
def test_layers(layer: nn.Module, shape: tuple[int, ...] | None, parameters: int, macs: int) -> None:
    if shape is None:
        with pytest.raises(SpecError, match="Bilinear does not run on an input of 3"):
            count_module(layer, (3,))
        return
    cost = _count(layer, *shape)
    assert (cost.parameters, cost.macs, cost.notes) == (parameters, macs, ())


def test_attention() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    cost = _count(Attend(), 10, 16)
    assert cost.parameters == 4 * (16 * 16 + 16)
    assert {row.name: row.macs for row in cost.layers} == {
        "attention": 3 * 10 * 16 * 16 + 2 * 10 * 10 * 16,
        "attention.out_proj": 10 * 16 * 16,
    }


@pytest.mark.parametrize("quantizer", [None, "ste_sign"])
def test_1_bit_layers(quantizer: str | None) -> None:
    net = nn.Sequential(
        BinaryConv2d(6, 4, 3, 2, 1, input_quantizer=quantizer, weight_scale="learned"),
        nn.Flatten(),
        BinaryLinear(4 * 4 * 4, 10, bias=True, input_quantizer=quantizer),
    )
    cost = _count(net, 6, 8, 8)
    weights = 6 * 4 * 9 + 64 * 10
    macs = 6 * 4 * 9 * 16 + 64 * 10
    assert cost.binary_parameters == weights
    assert cost.parameters == weights + 4 + 10
    assert cost.effective_parameters == weights / 32 + 4 + 10
    assert (cost.macs, cost.binary_macs) == (macs, macs if quantizer else 0)
    assert cost.binary_weight_macs == macs
    assert [row.precision for row in cost.layers] == ["w1a1" if quantizer else "w1"] * 2
    # The picture and what stands between the layers, as bits where only 1-bit inputs read them.
    picture, middle = 6 * 8 * 8, 4 * 4 * 4
    bits = 8 if quantizer else 1
    assert cost.peak_activation_bytes["naive"] == 4 * (picture + middle) // (4 * bits if quantizer else 1)


def test_functional_calls_are_seen() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
            self.inner = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(F.conv2d(x, self.weight)).mean((2, 3))
            return F.linear(y, self.inner.weight) + (y @ y.T).sum()

    cost = _count(Functional(), 3, 6, 6)
    assert cost.parameters == 3 * 4 * 9 + 4 * 2 + 2
    assert {row.name: row.macs for row in cost.layers} == {"Functional": 3 * 4 * 9 * 16 + 4, "inner": 4 * 2}


def test_shared_weights_count_once_and_run_twice() -> None:
    first = nn.Linear(5, 5, bias=False)
    second = nn.Linear(5, 5, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, first)
    weight = first.weight
    cost = _count(model, 5)
    assert first.weight is second.weight is weight
    assert cost.parameters == 5 * 5
    assert cost.macs == 3 * 5 * 5
    assert [row.macs for row in cost.layers] == [2 * 5 * 5, 5 * 5]


def test_what_is_unknown_is_none_and_noted() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.linear(x)).real

    cost = count_module(Spectral(), (8,))
    assert cost.macs is None
    assert [layer.macs for layer in cost.layers if layer.macs is not None] == [8 * 8]
    assert cost.parameters == 8 * 8 + 8
    assert any("MACs of 'Spectral' are unknown" in note and "fft" in note for note in cost.notes)


def test_recurrent_layers_are_unknown_or_exact() -> None:
    cost = count_module(nn.LSTM(4, 6, batch_first=True), (5, 4))
    exact = 5 * 4 * (4 * 6 + 6 * 6)
    assert cost.parameters == 4 * (4 * 6 + 6 * 6 + 6 + 6)
    assert cost.macs == exact or (cost.macs is None and cost.notes)


def test_output_that_does_not_come_from_the_input_has_no_peak() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(1, 3)

    cost = count_module(Constant(), (3,))
    assert cost.peak_activation_bytes == {"naive": None, "in_place": None}
    assert "peak activations are unknown" in cost.notes[0]


def test_a_forward_that_looks_at_values_runs_on_the_real_device() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            return y if float(y.detach().sum()) > 1e9 else y * 2

    cost = _count(Branches(), 4)
    assert (cost.parameters, cost.macs) == (4 * 3 + 3, 4 * 3)
    with torch.device("meta"), pytest.raises(SpecError, match="Branches does not run on an input of 4"):
        count_module(Branches(), (4,))


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_module(model, (3, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_half_precision_counts_16_bits() -> None:
    cost = _count(nn.Conv2d(3, 4, 3, bias=False).bfloat16(), 3, 8, 8)
    assert cost.parameters_by_bits == {16: 3 * 4 * 9}
    assert cost.effective_parameters == 3 * 4 * 9 // 2
    assert cost.macs_by_precision == {"bf16": 3 * 4 * 9 * 36}
    assert cost.peak_activation_bytes["naive"] == 2 * (3 * 64 + 4 * 36)


def test_lazy_parameters_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.LazyLinear(3)
    with pytest.raises(SpecError, match="run it once before counting it"):
        count_module(lazy, (4,))


# -- peaks of small graphs --------------------------------------------------------------------------------


class _Residual(nn.Module):
    """Two convolutions around which the input, or a projection of it, is added."""

    def __init__(self, project: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.project = nn.Conv2d(4, 4, 1) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        y += self.project(x)
        return torch.relu_(y)


def test_residual_add_by_executor() -> None:
    unit = 4 * 8 * 8 * 4
    assert _count(_Residual(project=False), 4, 8, 8).peak_activation_bytes == {
        "naive": 3 * unit,
        "in_place": 2 * unit,
    }
    # The projection runs first, though the code calls it last: shortcut, input and conv1's result are alive.
    assert _count(_Residual(project=True), 4, 8, 8).peak_activation_bytes == {
        "naive": 3 * unit,
        "in_place": 3 * unit,
    }


def test_concatenation_copies_and_views_do_not() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.conv(x)], 1).flatten(1)

    unit = 2 * 4 * 4 * 4
    assert _count(Dense(), 2, 4, 4).peak_activation_bytes["naive"] == 4 * unit
    assert _count(nn.Flatten(), 2, 4, 4).peak_activation_bytes["naive"] == unit


def test_a_gate_reads_what_it_scales() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))

    unit, vector = 4 * 8 * 8 * 4, 4 * 4
    assert _count(Gate(), 4, 8, 8).peak_activation_bytes == {
        "naive": 2 * unit + vector,
        "in_place": unit + 2 * vector,
    }
