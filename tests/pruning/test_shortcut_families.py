"""Every model family that the tool promises: what it finds there, and that removal equals closed gates."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from bitskip.errors import PruningError
from bitskip.nn.batch_norm import reestimate_batch_norm
from bitskip.pruning import Shortcut, ShortcutGates, find_shortcuts, plan_shortcuts, remove_shortcuts
from bitskip.pruning.coverage import prove_removal
from bitskip.pruning.find import analyse
from bitskip.sources.load import load_model

RESNETS = {
    # name: (blocks of each stage, whether the first stage has a projection)
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnext50_32x4d": ((3, 4, 6, 3), True),
    "wide_resnet50_2": ((3, 4, 6, 3), True),
}
LARGE = ("resnet101", "resnet152")


def _resnet_counts(name: str, projection: str = "projection") -> dict[str, int]:
    blocks, first = RESNETS[name]
    projections = len(blocks) - (0 if first else 1)
    return {"identity": sum(blocks) - projections, projection: projections}


# Blocks with stride 1 and equal channels, by the tables of the papers.
FAMILIES: dict[str, dict[str, int]] = {
    **{f"torchvision:{name}": _resnet_counts(name) for name in RESNETS if name not in LARGE},
    "torchvision:mobilenet_v2": {"identity": 1 + 2 + 3 + 2 + 2},
    "torchvision:mobilenet_v3_small": {"identity": 1 + 2 + 1 + 2},
    "torchvision:mobilenet_v3_large": {"identity": 1 + 1 + 2 + 3 + 1 + 2},
    "torchvision:efficientnet_b0": {"identity": 1 + 1 + 2 + 2 + 3},
    "torchvision:regnet_y_400mf": {"identity": 0 + 2 + 5 + 5, "projection": 4},
    "torchvision:convnext_tiny": {"identity": 3 + 3 + 9 + 3},
    "torchvision:swin_t": {"identity": 2 * (2 + 2 + 6 + 2)},
    "timm:resnet18": _resnet_counts("resnet18"),
    "timm:resnet18d": _resnet_counts("resnet18", "pooled_projection"),
    "timm:seresnet18": _resnet_counts("resnet18"),
    "timm:resnetv2_50": _resnet_counts("resnet50"),
    # style paper, standard, per_conv (two in each block), bottleneck
    "resnet14-full-all-x0.125": {"identity": 4, "projection": 2},
    "resnet14-hybrid-all-x0.125": {"identity": 4, "projection": 2},
    "resnet20": {"identity": 7, "projection": 2},
    "resnet14-w1a1-x0.125": {"identity": 4 * 2 + 2, "pooled_projection": 2},
    "resnet50-full-all-x0.125": _resnet_counts("resnet50"),
}


def _load(source: str, size: int = 64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    loaded = load_model(source, input_size=size if ":" in source else None)
    return loaded.model, loaded.example(2)


def _count(shortcuts: tuple[Shortcut, ...]) -> dict[str, int]:
    return dict(Counter(shortcut.kind for shortcut in shortcuts))


@pytest.mark.parametrize("source", FAMILIES)
def test_what_is_found_and_removed(source: str) -> None:
    model, example = _load(source)
    analysis = analyse(model, example)
    assert _count(analysis.shortcuts) == FAMILIES[source]
    assert len(analysis.by_id()) == len(analysis.shortcuts)
    proof = prove_removal(model, example)
    assert proof["removed"] <= 1e-5
    assert proof["open"] <= 1e-5
    assert proof["effect"] > 1e-3  # else equality would prove nothing

    before = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    pruned = remove_shortcuts(model, plan_shortcuts(model, analysis, "none", shorten=False))
    after = {name: tuple(value.shape) for name, value in pruned.state_dict().items()}
    assert after.items() <= before.items()
    layers = [layer for shortcut in analysis.shortcuts for layer in shortcut.projection]
    gone = {name for name in before if name.rpartition(".")[0] in layers}
    assert before.keys() - after.keys() == gone
    assert _parameters(model) - _parameters(pruned) == sum(s.parameters for s in analysis.shortcuts)
    assert find_shortcuts(pruned, example) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_what_is_found_and_removed_in_large_models(name: str) -> None:
    model, example = _load(f"torchvision:{name}")
    assert _count(find_shortcuts(model, example)) == _resnet_counts(name)
    assert prove_removal(model, example)["removed"] <= 1e-5


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18d", "timm:seresnet18"])
@pytest.mark.parametrize("keep", ["middle", "none"])
def test_removal_equals_a_model_whose_skips_yield_zero(source: str, keep: str) -> None:
    """The reference knows nothing of graphs: zeros stand where the projection stood."""
    model, example = _load(source)
    reestimate_batch_norm(model, [example])
    plan = plan_shortcuts(model, analyse(model, example), keep)
    pruned = remove_shortcuts(model, plan)
    for name in plan.closed:
        model.get_submodule(name).downsample = _Zero(model.get_submodule(name))
    with torch.no_grad():
        expected = model(example)
        torch.testing.assert_close(pruned(example), expected, atol=1e-5, rtol=1e-5)
    assert pruned(example).abs().max() > 0.01


class _Zero(nn.Module):
    """Zeros of the shape that the block's main path has."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        old = block.downsample
        self.old = old if isinstance(old, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return 0 * self.old(x)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "densenet121", "googlenet", "squeezenet1_1"])
def test_concatenations_are_no_shortcuts(name: str) -> None:
    model, example = _load(f"torchvision:{name}")
    assert find_shortcuts(model, example) == ()
    with pytest.raises(PruningError, match="has no shortcuts"):
        plan_shortcuts(model, analyse(model, example), "none")


def test_lateral_additions_of_a_feature_pyramid_are_none() -> None:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    model = resnet_fpn_backbone(backbone_name="resnet50", weights=None).eval()
    example = torch.randn(2, 3, 64, 64)
    found = find_shortcuts(model, example)
    assert _count(found) == _resnet_counts("resnet50")
    assert all(shortcut.id.startswith("body.") for shortcut in found)
    # Its batch norms are frozen: estimated, and still frozen afterwards.
    kinds = {type(module).__name__ for module in model.modules()}
    assert "FrozenBatchNorm2d" in kinds
    assert "BatchNorm2d" not in kinds
    before = model.body.layer4[2].bn3.running_var.clone()
    reestimate_batch_norm(model, [example])
    assert kinds == {type(module).__name__ for module in model.modules()}
    assert not torch.equal(before, model.body.layer4[2].bn3.running_var)
    plan = plan_shortcuts(model, analyse(model, example), "none")
    gates = ShortcutGates(model, plan)
    for name in plan.closed:
        gates.set(name, 0.0)
    pruned = remove_shortcuts(model, plan)
    with torch.no_grad():
        original, closed, removed = model(example), gates.model(example), pruned(example)
    assert list(removed) == list(original)  # the taps of the pyramid are still there
    for level, expected in closed.items():
        torch.testing.assert_close(removed[level], expected, atol=1e-5, rtol=1e-5)
        assert (removed[level] - original[level]).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_additions_of_quantisable_models() -> None:
    from torchvision.models import quantization

    torch.manual_seed(0)
    model = quantization.resnet18(weights=None, quantize=False).eval()
    example = torch.randn(2, 3, 64, 64)
    assert _count(find_shortcuts(model, example)) == _resnet_counts("resnet18")
    proof = prove_removal(model, example)
    assert proof["removed"] <= 1e-5
    assert proof["effect"] > 1e-3
