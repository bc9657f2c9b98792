"""Built networks: layers and counts as in their spec, and the paper's block as written."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from bitskip.nn import BinaryConv2d, build
from bitskip.nn.blocks import ResidualBlock
from bitskip.spec import NetworkSpec, named_models, named_spec


def _tiny(**changes: object) -> NetworkSpec:
    values: dict[str, object] = {
        "name": "tiny",
        "widths": (4, 8),
        "blocks": (1, 2),
        "precision": ("fp32", "fp32"),
        "shortcuts": (True, True),
        "stem_width": 4,
        "input_size": 8,
    }
    return NetworkSpec(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", named_models())
def test_parameters_and_names_are_the_specs(name: str) -> None:
    spec = named_spec(name)
    with torch.device("meta"):
        model = build(spec)
    assert sum(p.numel() for p in model.parameters()) == sum(x.parameters for x in spec.iter_layers())
    modules = dict(model.named_modules())
    for layer in spec.iter_layers():
        assert layer.name in modules


@pytest.mark.parametrize("style", ["paper", "standard", "per_conv"])
@pytest.mark.parametrize("precision", ["fp32", "w1", "w1a1"])
@pytest.mark.parametrize("before_binary", ["no_relu", "threshold"])
@pytest.mark.parametrize("projection", ["conv", "pool_conv"])
def test_every_style_trains(style: str, precision: str, before_binary: str, projection: str) -> None:
    spec = _tiny(style=style, precision=(precision, "w1"), before_binary=before_binary, projection=projection)
    torch.manual_seed(0)
    model = build(spec)
    logits = model(torch.randn(3, 3, 8, 8))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_paper_block_adds_after_both_relus() -> None:
    spec = _tiny(style="paper")
    block = build(spec).eval().get_submodule("stage2.block1")
    assert isinstance(block, ResidualBlock)
    assert isinstance(block.shortcut, nn.Module)
    x = torch.randn(2, 4, 8, 8)
    main = torch.relu(block.bn1(block.conv1(x)))  # type: ignore[operator]
    main = torch.relu(block.bn2(block.conv2(main)))  # type: ignore[operator]
    side = torch.relu(block.shortcut.bn(block.shortcut.conv(x)))  # type: ignore[operator]
    torch.testing.assert_close(block(x), main + side)


def test_without_shortcut_the_block_is_its_main_path() -> None:
    spec = _tiny(style="standard", block_shortcuts={"stage2.block2": False})
    block = build(spec).eval().get_submodule("stage2.block2")
    assert isinstance(block, ResidualBlock)
    assert block.shortcut is None
    x = torch.randn(2, 8, 4, 4)
    main = torch.relu(block.bn1(block.conv1(x)))  # type: ignore[operator]
    torch.testing.assert_close(block(x), torch.relu(block.bn2(block.conv2(main))))  # type: ignore[operator]


@pytest.mark.parametrize("before_binary", ["no_relu", "threshold"])
@pytest.mark.parametrize("style", ["paper", "standard", "per_conv"])
def test_signs_of_activations_are_never_constant(style: str, before_binary: str) -> None:
    spec = _tiny(style=style, precision=("w1a1", "w1a1"), before_binary=before_binary)
    torch.manual_seed(1)
    model = build(spec)
    seen: dict[str, float] = {}

    def watch(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            seen[name] = float((output > 0).float().mean())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            assert module.input_quantizer is not None
            module.input_quantizer.register_forward_hook(watch(name))  # type: ignore[arg-type]
    model(torch.randn(16, 3, 8, 8))
    assert seen
    assert all(0.05 < share < 0.95 for share in seen.values()), seen


def test_overrides_reach_the_layer() -> None:
    spec = _tiny(layer_precision={"stage1.block1.conv2": "w1"})
    model = build(spec)
    assert isinstance(model.get_submodule("stage1.block1.conv2"), BinaryConv2d)
    assert isinstance(model.get_submodule("stage1.block1.conv1"), nn.Conv2d)


def test_estimator_of_the_spec_is_the_layers() -> None:
    spec = dataclasses.replace(named_spec("resnet14-binary-all-x0.1"), weight_quantizer="none")
    layer = build(spec).get_submodule("stage1.block1.conv1")
    assert isinstance(layer, BinaryConv2d)
    assert layer.weight_quantizer.row.name == "none"
