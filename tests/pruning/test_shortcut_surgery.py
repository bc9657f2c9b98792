"""Gates, shortening, plans and files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.backends.reference import run_reference
from bitskip.cost import cost_of
from bitskip.errors import FileFormatError, PruningError
from bitskip.lower import lower
from bitskip.nn import ResNet, binary_layers, build
from bitskip.pruning import (
    Analysis,
    Plan,
    Score,
    ShortcutGates,
    analyse,
    compare,
    load_pruned,
    plan_shortcuts,
    reestimate_batch_norm,
    remove_shortcuts,
    save_pruned,
)
from bitskip.pruning.report import latency
from bitskip.spec import NetworkSpec, named_spec


def _net(name: str = "resnet14-full-all-x0.0625") -> tuple[ResNet, Tensor, Analysis]:
    torch.manual_seed(0)
    spec = dataclasses.replace(named_spec(name), input_size=16)
    model, example = build(spec).eval(), torch.randn(4, 3, 16, 16)
    reestimate_batch_norm(model, [example])
    return model, example, analyse(model, example)


# -- gates --------------------------------------------------------------------------------------------


def test_a_gate_scales_its_skip() -> None:
    model, example, analysis = _net()
    gates = ShortcutGates(model, [analysis.by_id()["stage2.block1"]])
    block = model.stage2.block1
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(example)
        skip, whole = block.shortcut(seen[0]), block(seen[0])
        for value in (1.0, 0.25, 0.0):
            gates.set("stage2.block1", value)
            got = gates.model.stage2.block1(seen[0])
            torch.testing.assert_close(got, whole - (1 - value) * skip, atol=1e-5, rtol=1e-5)
    assert gates.state() == {"stage2.block1": 0.0}


def test_gates_leave_the_model_alone_and_share_its_names() -> None:
    model, example, analysis = _net()
    gates = ShortcutGates(model, analysis.shortcuts)
    assert gates.model.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(gates.model(example), model(example))
        next(gates.model.parameters()).add_(1)
        assert not torch.equal(next(gates.model.parameters()), next(model.parameters()))
    assert type(model.stage1.block1).__name__ == "ResidualBlock"


def test_gates_refuse_what_does_not_exist() -> None:
    model, _, analysis = _net()
    gates = ShortcutGates(model, analysis.shortcuts)
    with pytest.raises(PruningError, match="no gated shortcut 'stage1.block3'; did you mean"):
        gates.set("stage1.block3", 0)
    with pytest.raises(PruningError, match="cannot be set to 1.5"):
        gates.set("stage1.block1", 1.5)
    gates.set("stage1.block1", 0.5)
    with pytest.raises(PruningError, match="half open"):
        gates.remove()


def test_gradients_reach_through_half_open_gates() -> None:
    model, example, analysis = _net()
    gates = ShortcutGates(model, analysis.shortcuts)
    for name in gates.ids:
        gates.set(name, 0.5)
    gates.model.train()
    gates.model(example).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in gates.model.parameters())


class Dropping(nn.Module):
    """Asks in its own forward whether it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.conv(x), 0.5, training=self.training)


class Choosing(Dropping):
    """Does something else altogether in training."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + (y * torch.rand(()) if self.training else y)


def test_a_gated_block_still_knows_whether_it_trains() -> None:
    torch.manual_seed(0)
    model, example = nn.Sequential(Dropping()), torch.randn(2, 4, 5, 5)
    plan = plan_shortcuts(model, analyse(model, example), "none")
    pruned = remove_shortcuts(model, plan)
    assert pruned.training
    dropped = (pruned(example) == 0).float().mean()
    assert 0.3 < float(dropped) < 0.7
    pruned.eval()
    torch.testing.assert_close(pruned(example), model[0].conv(example))


def test_a_block_with_other_steps_in_training_is_refused() -> None:
    model, example = nn.Sequential(Choosing()), torch.randn(2, 4, 5, 5)
    with pytest.raises(PruningError, match="other steps in training than in evaluation"):
        ShortcutGates(model, analyse(model, example).shortcuts)


# -- shortening ---------------------------------------------------------------------------------------


def test_a_shortened_block_adds_around_each_convolution() -> None:
    """torchvision's basic block: the reference is written out."""
    from torchvision.models.resnet import resnet18

    torch.manual_seed(0)
    model, example = resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64)
    reestimate_batch_norm(model, [example])
    plan = plan_shortcuts(model, analyse(model, example), "none", shorten=True)
    assert set(plan.ids("shorten")) == {entry.id for entry in plan.shortcuts}
    short = remove_shortcuts(model, plan)
    assert short.state_dict().keys() == model.state_dict().keys()  # projections are used
    for block in ("layer1.1", "layer2.0"):
        old, new = model.get_submodule(block), short.get_submodule(block)
        x = torch.rand(2, old.conv1.in_channels, 8, 8)
        skip = x if old.downsample is None else old.downsample(x)
        hidden = F.relu(old.bn1(old.conv1(x)) + skip)
        expected = F.relu(old.bn2(old.conv2(hidden)) + hidden)
        torch.testing.assert_close(new(x), expected, atol=1e-5, rtol=1e-5)


def test_shortening_fades_over() -> None:
    model, example, analysis = _net()
    plan = plan_shortcuts(model, analysis, "none", shorten=True)
    gates = ShortcutGates(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(gates.model(example), model(example))
        for name in gates.ids:
            gates.set(name, 0.0)
        torch.testing.assert_close(remove_shortcuts(model, plan)(example), gates.model(example))


def test_per_conv_networks_are_what_shortening_gives() -> None:
    """bitskip's own style per_conv, built from a spec, has the sums that a shortened standard block has."""
    base = dataclasses.replace(named_spec("resnet20-x0.25"), input_size=16)
    torch.manual_seed(0)
    standard, example = build(base).eval(), torch.randn(2, 3, 16, 16)
    reestimate_batch_norm(standard, [example])
    per_conv = build(dataclasses.replace(base, style="per_conv")).eval()
    per_conv.load_state_dict(standard.state_dict())
    plan = plan_shortcuts(standard, analyse(standard, example), "none", shorten=True)
    with torch.no_grad():
        torch.testing.assert_close(
            remove_shortcuts(standard, plan)(example), per_conv(example), atol=1e-5, rtol=1e-5
        )


def test_bottlenecks_cannot_be_shortened() -> None:
    torch.manual_seed(0)
    model = build(dataclasses.replace(named_spec("resnet50-full-all-x0.0625"), input_size=32)).eval()
    analysis = analyse(model, torch.randn(1, 3, 32, 32))
    assert not any(shortcut.shortenable for shortcut in analysis.shortcuts)
    plan = plan_shortcuts(model, analysis, "none", shorten=True)
    assert set(plan.ids("remove")) == set(plan.closed)
    forced = dataclasses.replace(
        plan, shortcuts=tuple(dataclasses.replace(e, action="shorten") for e in plan.shortcuts)
    )
    with pytest.raises(PruningError, match="cannot be shortened"):
        remove_shortcuts(model, forced)


def test_around_one_bit_activations_the_default_is_to_shorten() -> None:
    spec = dataclasses.replace(
        named_spec("resnet20-w1a1-all-x0.25"), style="standard", projection="conv", input_size=16
    )
    model = build(spec).eval()
    analysis = analyse(model, torch.randn(2, 3, 16, 16))
    assert plan_shortcuts(model, analysis, "none").ids("remove") == ()
    assert plan_shortcuts(model, analysis, "none", shorten=False).ids("shorten") == ()
    per_conv, _, found = _net("resnet14-w1a1-x0.0625")
    assert "costs most accuracy" in plan_shortcuts(per_conv, found, "none").notes[0]


# -- bitskip's networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["middle", "none"])
@pytest.mark.parametrize("precision", ["full", "hybrid", "binary"])
def test_a_pruned_network_of_bitskip_is_one(precision: str, keep: str) -> None:
    model, example, analysis = _net(f"resnet14-{precision}-all-x0.0625")
    for layer in binary_layers(model).values():
        layer.standardise = True
    pruned = remove_shortcuts(model, plan_shortcuts(model, analysis, keep))
    assert isinstance(pruned, ResNet)
    wanted = dataclasses.replace(named_spec(f"resnet14-{precision}-{keep}-x0.0625"), input_size=16)
    for got, expected in zip(pruned.spec.iter_layers(), wanted.iter_layers(), strict=True):
        assert got == expected
    assert all(layer.standardise for layer in binary_layers(pruned).values())
    rebuilt = build(pruned.spec).eval()
    rebuilt.load_state_dict(pruned.state_dict())
    for layer in binary_layers(rebuilt).values():
        layer.standardise = True
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(example), pruned(example))


def test_a_network_that_equals_a_named_one_takes_its_name() -> None:
    model = build(named_spec("resnet14-hybrid-all-x0.0625"))
    analysis = analyse(model, torch.randn(2, 3, 32, 32))
    names = {}
    for keep in ("middle", "none"):
        pruned = remove_shortcuts(model, plan_shortcuts(model, analysis, keep))
        assert isinstance(pruned, ResNet)
        names[keep] = pruned.spec.name
    assert names == {keep: f"resnet14-hybrid-{keep}-x0.0625" for keep in names}
    one = remove_shortcuts(model, plan_shortcuts(model, analysis, ["stage1.block1"]))
    assert isinstance(one, ResNet)
    assert one.spec.name == "resnet14-hybrid-all-x0.0625-pruned"
    assert [block.name for block in one.spec.iter_blocks() if block.shortcut] == ["stage1.block1"]


# -- plans --------------------------------------------------------------------------------------------


def _scores(analysis: Analysis, kl: list[float], drops: list[float]) -> dict[str, Score]:
    return {
        shortcut.id: Score(shortcut.id, 0.0, 0.0, k, 0.0, -drop, 0.0)
        for shortcut, k, drop in zip(analysis.shortcuts, kl, drops, strict=True)
    }


def test_presets_are_the_papers() -> None:
    model, _, analysis = _net()
    ids = [s.id for s in analysis.shortcuts]
    assert plan_shortcuts(model, analysis, "all").closed == ()
    assert plan_shortcuts(model, analysis, "middle").closed == (*ids[:2], *ids[4:])
    assert plan_shortcuts(model, analysis).closed == plan_shortcuts(model, analysis, "middle").closed
    assert plan_shortcuts(model, analysis, "none").closed == tuple(ids)
    assert plan_shortcuts(model, analysis, [ids[0]]).ids("keep") == (ids[0],)


def test_a_number_keeps_those_that_matter_most() -> None:
    model, _, analysis = _net()
    scores = _scores(analysis, [5, 1, 4, 2, 3, 0], [0.0] * 6)
    plan = plan_shortcuts(model, analysis, 2, scores=scores)
    assert plan.ids("keep") == ("stage1.block1", "stage2.block1")
    with pytest.raises(PruningError, match="needs a score"):
        plan_shortcuts(model, analysis, 2)
    with pytest.raises(PruningError, match="keep is 7, but the model has 6"):
        plan_shortcuts(model, analysis, 7)


def test_greedy_takes_the_cheapest_bytes_within_the_budget() -> None:
    model, _, analysis = _net()
    # Per byte of the block's peak the order is block2, block1 of stage 1, then the others.
    scores = _scores(analysis, [2, 1, 9, 9, 9, 9], [0.01, 0.005, 0.5, 0.5, 0.5, 0.5])
    plan = plan_shortcuts(model, analysis, scores=scores, max_accuracy_drop=0.015)
    assert plan.closed == ("stage1.block1", "stage1.block2")
    plan = plan_shortcuts(model, analysis, scores=scores, max_accuracy_drop=0.012)
    assert plan.closed == ("stage1.block2",)
    with pytest.raises(PruningError, match="needs a score"):
        plan_shortcuts(model, analysis, max_accuracy_drop=0.1)


def test_a_target_peak_takes_only_what_stands_at_the_peak() -> None:
    model, _, analysis = _net()
    stage1 = 4 * 16 * 16 * 4  # bytes: channels, height, width, float32
    activations = analysis.activations
    assert activations is not None
    assert activations.peak().size == 3 * stage1
    plan = plan_shortcuts(model, analysis, target_peak=2 * stage1)
    assert plan.closed == ("stage1.block1", "stage1.block2")
    assert plan_shortcuts(model, analysis, target_peak=3 * stage1).closed == ()
    with pytest.raises(PruningError, match=f"to {2 * stage1} bytes at '.*', not to 100;"):
        plan_shortcuts(model, analysis, target_peak=100)
    with pytest.raises(PruningError, match="unknown executor"):
        plan_shortcuts(model, analysis, target_peak=1, executor="lazy")


def test_bad_choices_are_one_sentence() -> None:
    model, _, analysis = _net()
    with pytest.raises(PruningError, match=r"no shortcut 'stage1.blok1'; did you mean 'stage1.block1'\?"):
        plan_shortcuts(model, analysis, ["stage1.blok1"])
    with pytest.raises(PruningError, match="keep is 'most', expected all, middle, none"):
        plan_shortcuts(model, analysis, "most")
    with pytest.raises(PruningError, match="both what to keep and a budget"):
        plan_shortcuts(model, analysis, "none", target_peak=1)


def test_a_plan_is_json_and_knows_its_model(tmp_path: Path) -> None:
    model, _, analysis = _net()
    plan = plan_shortcuts(model, analysis, "middle", shorten=True)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    other = build(named_spec("resnet14-full-all-x0.125"))
    with pytest.raises(PruningError, match="made for another model"):
        remove_shortcuts(other, plan)
    values = json.loads((tmp_path / "plan.json").read_text())
    for change, message in (
        ({"bitskip_shortcut_plan": 2}, '"bitskip_shortcut_plan" is 2, expected 1'),
        ({"shortcuts": [{}]}, r"shortcuts\[0\]: key 'id' is missing; make a plan"),
        (
            {"shortcuts": [values["shortcuts"][0] | {"action": "burn"}]},
            "action is 'burn', expected one of remove, shorten, keep",
        ),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(values | change))
        with pytest.raises(FileFormatError, match=message):
            Plan.load(tmp_path / "bad.json")


def test_a_plan_whose_places_are_wrong_is_refused() -> None:
    model, _, analysis = _net()
    plan = plan_shortcuts(model, analysis, "none")
    first = plan.shortcuts[0]
    moved = dataclasses.replace(first, site=dataclasses.replace(first.site, ordinal=5))
    with pytest.raises(PruningError, match="not where the plan says"):
        remove_shortcuts(model, dataclasses.replace(plan, shortcuts=(moved,)))
    nowhere = dataclasses.replace(first, site=dataclasses.replace(first.site, block="a.b", owner="a.b"))
    with pytest.raises(PruningError, match="no module 'a.b'"):
        remove_shortcuts(model, dataclasses.replace(plan, shortcuts=(nowhere,)))


# -- files and other programs -------------------------------------------------------------------------


@pytest.mark.parametrize("shorten", [False, True])
def test_a_pruned_model_is_weights_and_a_plan(tmp_path: Path, shorten: bool) -> None:
    from torchvision.models.resnet import resnet18

    torch.manual_seed(0)
    model, example = resnet18(weights=None, num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    plan = plan_shortcuts(model, analyse(model, example), "middle", shorten=shorten)
    pruned = remove_shortcuts(model, plan)
    save_pruned(tmp_path, pruned, plan)
    torch.manual_seed(1)
    again = load_pruned(tmp_path, resnet18(weights=None, num_classes=3)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(example), pruned(example))
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_pruned(tmp_path, model)


@pytest.mark.filterwarnings("ignore")  # the exporter warns about itself
def test_a_pruned_model_exports_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    model, example = ResNet(BasicBlock, [1, 1, 1, 1]).eval(), torch.randn(4, 3, 64, 64)
    reestimate_batch_norm(model, [example])
    pruned = remove_shortcuts(model, plan_shortcuts(model, analyse(model, example), "middle"))
    path = tmp_path / "pruned.onnx"
    torch.onnx.export(pruned, (example,), str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    (got,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), pruned(example), atol=1e-5, rtol=1e-4)


def test_what_was_bought_is_said_plainly() -> None:
    from torchvision.models.resnet import resnet18

    torch.manual_seed(0)
    model, example = resnet18(weights=None).eval(), torch.randn(1, 3, 64, 64)
    pruned = remove_shortcuts(model, plan_shortcuts(model, analyse(model, example), "none"))
    gains = {gain.name: gain for gain in compare(model, pruned, example, timed=True, repeats=2)}
    assert (gains["shortcuts"].before, gains["shortcuts"].after) == (8, 0)
    projections = 64 * 128 + 2 * 128 + 128 * 256 + 2 * 256 + 256 * 512 + 2 * 512
    assert gains["parameters"].before - gains["parameters"].after == projections
    for executor in ("naive", "in_place"):  # bound by the stem
        assert gains[f"peak activations, {executor}"].change == 0
        assert gains[f"peak activations, {executor}"].remark == "no gain here: the peak stands at 'maxpool'"
    assert gains["activation traffic"].change < -0.1
    assert gains["time of a forward pass"].after > 0
    assert len(latency([pruned], example, repeats=1)) == 1


def test_statistics_are_means_over_batches() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(100)
    batches = [torch.randn(3, 2, 4, 4) + shift for shift in (0, 2)]
    model = nn.Sequential(nn.Dropout(0.9), norm).eval()
    assert reestimate_batch_norm(model, iter(batches)) == 2
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == 0.1
    assert not norm.training
    with pytest.raises(PruningError, match="at least one batch"):
        reestimate_batch_norm(model, [])
    with pytest.raises(PruningError, match="at least 2 examples"):
        reestimate_batch_norm(model, [torch.randn(1, 2, 1, 1)])


def test_a_spec_is_needed_for_nothing(tmp_path: Path) -> None:
    """Blocks with one of two shortcuts gone have no spec; they stay graph modules that work."""
    model, example, analysis = _net("resnet14-w1a1-x0.0625")
    keep = [s.id for s in analysis.shortcuts if s.id != "stage1.block1:2"]
    pruned = remove_shortcuts(model, plan_shortcuts(model, analysis, keep))
    assert type(pruned.stage1.block1).__name__ == "ResidualBlock"
    assert isinstance(pruned.stage1.block1, torch.fx.GraphModule)
    assert isinstance(pruned.spec, NetworkSpec)
    assert pruned(example).shape == (4, 10)


@pytest.mark.parametrize("precision", ["full", "hybrid", "binary"])
def test_pruned_networks_are_lowered_and_run(precision: str) -> None:
    """After removal the cost model, the packer and the reference runtime take the network as it is."""
    model, _, analysis = _net(f"resnet14-{precision}-all-x0.125")
    pruned = remove_shortcuts(model, plan_shortcuts(model, analysis, ["stage2.block1", "stage3.block2"]))
    assert isinstance(pruned, ResNet)
    assert sum(p.numel() for p in pruned.parameters()) == cost_of(pruned.spec).parameters
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    got = run_reference(lower(pruned), pictures)
    with torch.no_grad():
        expected = pruned(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
