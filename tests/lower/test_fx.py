"""Any module that torch.fx can trace: torch evaluation and the packed program agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import modules
import numpy as np
import pytest
import timm
import torch
from networks import MEAN, STD, normalised, pictures, pictures_of, random_network, randomised, torch_logits
from torch import nn
from torchvision.models import resnet, vgg11_bn

import bitskip.lower.build
from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.nn import BinaryConv2d, build
from bitskip.nn.baselines import build_baseline
from bitskip.program import Affine, AvgPool, Conv2d, GlobalAvgPool, Program, ThresholdEpilogue
from bitskip.pruning import analyse, plan_shortcuts, remove_shortcuts
from bitskip.runtime import Model, run_reference
from bitskip.spec import NetworkSpec

SMALL = {"widths": (8, 12), "blocks": (1, 1), "shortcuts": (True, True), "stem_width": 8, "input_size": 12}
REACT = {"style": "per_conv", "activation": "rprelu", "before_binary": "threshold", "projection": "pool_conv"}
OWN = {
    "w1 paper": {"precision": ("w1", "fp32")},
    "w1a1 paper": {"precision": ("w1a1", "w1a1"), "before_binary": "threshold", "weight_scale": "channel"},
    "w1a1 per_conv": {"precision": ("w1a1", "w1a1"), **REACT},
    "w1a1 plain": {"precision": ("w1a1", "w1a1"), "shortcuts": (False, False), "pad_value": 1},
    "int8 standard": {"precision": ("int8", "w1"), "style": "standard", "stem": "imagenet", "input_size": 32},
}


def own(**changes: object) -> NetworkSpec:
    return NetworkSpec(name="own", classes=5, **(SMALL | changes))  # type: ignore[arg-type]


def random_module(make: Callable[[], nn.Module], side: int) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    return randomised(model, lambda step: normalised(pictures_of((8, side, side, 3), 100 + step)))


@pytest.mark.parametrize("name", OWN)
def test_both_front_ends_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own(**OWN[name])
    model = random_network(spec)
    options: dict[str, object] = {}
    if name.startswith(("int8", "w1 ")):
        options = {"activations": "int8", "dense": "int8", "calibration": pictures(4, spec)}
    along_spec = lower(model, MEAN, STD, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(bitskip.lower.build, "follows_its_spec", lambda model: False)
    traced = lower(model, MEAN, STD, name="own", **options)  # type: ignore[arg-type]
    assert along_spec.spec is not None
    assert traced.spec is None
    assert dataclasses.replace(traced, spec=along_spec.spec).to_bytes() == along_spec.to_bytes()


def half_resnet(block: type[nn.Module], **options: int) -> nn.Module:
    """torchvision's network without its two largest stages."""
    model = resnet.ResNet(block, [2, 1, 1, 1], **options)  # type: ignore[arg-type]
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128 * block.expansion, 5)
    return model


LIBRARY: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "basic blocks": (lambda: half_resnet(resnet.BasicBlock), 37),
    "bottlenecks": (lambda: half_resnet(resnet.Bottleneck, width_per_group=32), 32),
    "mlperf-resnet8": (lambda: build_baseline("mlperf-resnet8"), 16),
    "binarized-vgg": (lambda: build_baseline("binarized-vgg", 8), 8),
    "xnor-nin": (lambda: build_baseline("xnor-nin"), 8),
    "timm": (lambda: timm.create_model("resnet10t", num_classes=5, channels=(8, 16, 16, 24)), 40),
}
USERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "pre-activation": (modules.PreActivation, 12),
    "additions": (modules.Additions, 9),
    "functional": (modules.Functional, 10),
    "in-place functions": (modules.InPlaceFunctions, 9),
    "after a global pool": (modules.conv_after_global_pool, 8),
    "flat": (modules.flat_classifier, 11),
    "pools": (modules.Pools, 12),
    "signs": (modules.Signs, 12),
}


@pytest.mark.parametrize("name", [*LIBRARY, *USERS])
def test_fp32_agrees_with_torch(name: str) -> None:
    make, side = (LIBRARY | USERS)[name]
    model = random_module(make, side)
    images = pictures_of((6, side, side, 3))
    program = Program.from_bytes(lower(model, MEAN, STD, input_shape=(3, side, side)).to_bytes())
    expected = torch_logits(model, images)
    assert program.name == type(model).__name__
    assert expected.std() > 0.01, "the logits must differ for this to mean anything"
    bound = 1e-4 * np.abs(expected).max()
    runs = [Model(program).predict(images)] + ([run_reference(program, images)] if name in USERS else [])
    for got in runs:
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    "name", ["mlperf-resnet8", "pre-activation", "additions", "flat", "pools", "after a global pool"]
)
def test_int8_is_close(name: str) -> None:
    make, side = (LIBRARY | USERS)[name]
    model = random_module(make, side)
    images = pictures_of((12, side, side, 3))
    program = lower(
        model,
        MEAN,
        STD,
        input_shape=(3, side, side),
        activations="int8",
        dense="int8",
        calibration=pictures_of((16, side, side, 3), 7),
    )
    expected, got = torch_logits(model, images), Model(program).predict(images)
    assert np.abs(got - expected).mean() < 0.1 * expected.std()
    assert {op.weight_dtype for op in program.ops if isinstance(op, Conv2d)} == {"i8"}


def test_whole_networks_become_fused_convolutions() -> None:
    """20 convolutions, a linear layer, a max pool, a global pool and the picture: nothing stands alone."""
    program = lower(resnet.resnet18(num_classes=5), input_shape=(3, 32, 32), name="resnet18")
    kinds = [op.kind for op in program.ops]
    assert sorted(set(kinds)) == ["conv2d", "global_avg_pool", "max_pool", "quantize_input"]
    assert len(kinds) == 20 + 1 + 3
    assert program.name == "resnet18"


def test_vgg_packs_where_its_adaptive_pool_has_whole_windows() -> None:
    """At 224 pixels the pool of 7x7 to 7x7 is none, and the first linear layer is a 7x7 convolution."""
    with torch.device("meta"):
        model = vgg11_bn(num_classes=5)
    model.classifier[0] = nn.Linear(512 * 7 * 7, 4)
    model.classifier[3] = nn.Linear(4, 4)
    model.classifier[6] = nn.Linear(4, 5)
    model.features = nn.Sequential(nn.Conv2d(3, 512, 1, stride=32), *([nn.Identity()] * 28))
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.05)
    images = pictures_of((2, 224, 224, 3))
    program = lower(model, MEAN, STD, input_shape=(3, 224, 224))
    kernels = [op.kernel for op in program.ops if isinstance(op, Conv2d)]
    assert kernels == [(1, 1), (7, 7), (1, 1), (1, 1)]
    expected = torch_logits(model.eval(), images)
    np.testing.assert_allclose(Model(program).predict(images), expected, atol=1e-4 * np.abs(expected).max())


def test_1_bit_layers_are_found_and_stay_1_bit() -> None:
    program = lower(random_module(modules.Signs, 12), MEAN, STD, input_shape=(3, 12, 12))
    convs = {op.name: op for op in program.ops if isinstance(op, Conv2d)}
    reads = {name: (program.tensors[op.input].dtype, op.weight_dtype) for name, op in convs.items()}
    signs = ("bits", "w1")
    assert reads == {
        "stem": ("f32", "f32"), "conv1": signs, "conv2": signs, "conv3": ("f32", "w1"),
        "fc1": signs, "fc2": signs,
    }  # fmt: skip
    # fc1's bias and batch norm and fc2's sign are one comparison; shifts before signs are thresholds.
    assert isinstance(convs["fc1"].epilogue, ThresholdEpilogue)
    assert not any(isinstance(op, Affine) for op in program.ops)


def test_pools_keep_their_settings() -> None:
    program = lower(random_module(modules.Pools, 12), MEAN, STD, input_shape=(3, 12, 12))
    pools = {op.name: op for op in program.ops if isinstance(op, AvgPool)}
    assert {name: op.count_padding for name, op in pools.items()} == {
        "counted": True, "inside": False, "cut": False,
    }  # fmt: skip
    whole = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AvgPool2d(4), nn.Flatten())
    program = lower(whole, input_shape=(3, 6, 6))
    assert isinstance(program.ops[-1], GlobalAvgPool)


@pytest.mark.parametrize(
    ("changes", "style"), [({}, "shorten"), (REACT, "half"), ({"precision": ("int8", "w1")}, "int8")]
)
def test_rewired_networks_of_bitskip(changes: dict[str, object], style: str) -> None:
    """Shortened shortcuts, one of a block's two removed, and layers that the spec declares int8."""
    model = random_network(own(**({"precision": ("w1", "fp32"), "blocks": (2, 1)} | changes)))
    shape = (2, 3, 12, 12)
    plan = plan_shortcuts(model, analyse(model, torch.randn(shape)), keep="none")
    if style == "half":
        plan = plan.with_kept([entry.id for entry in plan.shortcuts if entry.id.endswith(":2")])
    else:
        entries = (dataclasses.replace(e, action="shorten" if e.units else "remove") for e in plan.shortcuts)
        plan = dataclasses.replace(plan, shortcuts=tuple(entries))
    pruned = remove_shortcuts(model, plan).eval()
    images = pictures_of((8, 12, 12, 3))
    options = {"activations": "int8", "calibration": images} if style == "int8" else {}
    program = lower(pruned, MEAN, STD, **options)  # type: ignore[arg-type]
    assert (program.name, program.spec) == ("own-pruned", None)
    expected, got = torch_logits(pruned, images), Model(program).predict(images)
    assert np.abs(expected - torch_logits(model, images)).max() > 0.05
    if style == "int8":
        dtypes = {op.name: op.weight_dtype for op in program.ops if isinstance(op, Conv2d)}
        assert dtypes["stage1.block1.conv1"] == "i8"
        assert dtypes["stem.conv"] == "f32"
        assert np.abs(got - expected).mean() < 0.1 * expected.std()
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_lowering_leaves_any_module_as_it_was() -> None:
    """torch.fx keeps constants on the module, and a layer of it may be in another mode."""
    model = random_module(modules.Pools, 12).train()
    model.counted.eval()
    before, state = set(vars(model)), {name: value.clone() for name, value in model.state_dict().items()}
    lower(model, MEAN, STD, input_shape=(3, 12, 12))
    assert set(vars(model)) == before
    assert [model.training, model.counted.training, model.stem.training] == [True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_changed_network_of_bitskip_is_packed_as_it_is() -> None:
    """Not as its spec says it was."""
    model = build(own(precision=("fp32", "fp32"))).eval()
    model.stage2.block1.shortcut = None
    model.stem.activation = nn.PReLU(8, init=-0.5)
    images = pictures_of((4, 12, 12, 3))
    program = lower(model, MEAN, STD)
    assert program.spec is None
    expected = torch_logits(model, images)
    np.testing.assert_allclose(Model(program).predict(images), expected, atol=1e-4 * np.abs(expected).max())


class _Alias(nn.Module):
    """A second name is given to a tensor before a layer changes it in place."""

    def __init__(self, name: nn.Module) -> None:
        super().__init__()
        self.stem, self.name, self.act = nn.Conv2d(3, 4, 1), name, nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        again = self.name(x)
        return (self.act(x) + again).mean((2, 3))


def test_an_in_place_step_reaches_the_tensors_other_names() -> None:
    model, images = random_module(lambda: _Alias(nn.Identity()), 6), pictures_of((4, 6, 6, 3))
    program = lower(model, MEAN, STD, input_shape=(3, 6, 6))
    expected = torch_logits(model, images)
    np.testing.assert_allclose(Model(program).predict(images), expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(LoweringError, match=r"'act' changes in place what 'name' shares with it"):
        lower(_Alias(nn.Dropout()), MEAN, STD, input_shape=(3, 6, 6))


@pytest.mark.parametrize("change", ["stride", "pool", "hook"])
def test_layers_set_otherwise_than_the_spec_says_are_seen(change: str) -> None:
    imagenet = {"stem": "imagenet", "input_size": 32} if change == "pool" else {}
    model = build(own(precision=("fp32", "fp32"), **imagenet)).eval()
    if change == "hook":
        model.stage1.register_forward_hook(lambda module, inputs, result: 2 * result)
        with pytest.raises(LoweringError, match="'stage1' .* has forward hooks"):
            lower(model, MEAN, STD)
        return
    if change == "stride":
        model.stem.conv.stride = (2, 2)
    else:
        model.stem.pool = nn.MaxPool2d(2)
    side = 32 if imagenet else 12
    images = pictures_of((4, side, side, 3))
    expected = torch_logits(model, images)
    got = Model(lower(model, MEAN, STD)).predict(images)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_1_bit_layers_need_neither_scale_nor_batch_norm_before_int8() -> None:
    def make() -> nn.Module:
        signs = BinaryConv2d(4, 4, 1, input_quantizer="ste_sign")
        convs = nn.Conv2d(3, 4, 1), signs, BinaryConv2d(4, 4, 1)
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model, images = random_module(make, 6), pictures_of((8, 6, 6, 3))
    program = lower(model, MEAN, STD, input_shape=(3, 6, 6), activations="int8", calibration=images)
    expected = torch_logits(model, images)
    np.testing.assert_allclose(Model(program).predict(images), expected, atol=0.1 * np.abs(expected).max())


def test_a_network_in_another_arithmetic_packs_as_in_float32() -> None:
    model = random_network(own(**OWN["w1a1 plain"]))
    images = pictures_of((8, 12, 12, 3))
    expected = Model(lower(model, MEAN, STD)).predict(images)
    got = Model(lower(model.double(), MEAN, STD)).predict(images)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
