"""Finding by structure, in modules written by hand: every way to write an addition, and what is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.activations import peak_activation_bytes
from bitskip.errors import PruningError
from bitskip.nn import build
from bitskip.pruning import analyse, find_shortcuts, plan_shortcuts, remove_shortcuts
from bitskip.pruning.coverage import prove_removal
from bitskip.spec import named_spec

EXAMPLE = (2, 8, 6, 6)


def _conv(cin: int = 8, cout: int = 8, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout))


def _method(main: Tensor, skip: Tensor) -> Tensor:
    return main.add(skip)


def _in_place(main: Tensor, skip: Tensor) -> Tensor:
    main.add_(skip)  # the result is not used by name
    return main


def _augmented(main: Tensor, skip: Tensor) -> Tensor:
    main += skip
    return main


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda main, skip: main + skip,
    "+ swapped": lambda main, skip: skip + main,
    "+=": _augmented,
    "torch.add": torch.add,
    "add": _method,
    "add_": _in_place,
}


class Block(nn.Module):
    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], skip: nn.Module | None = None) -> None:
        super().__init__()
        self.main, self.add = _conv(), add
        self.skip = skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.add(self.main(x), self.skip(x)))


class Net(nn.Module):
    """A stem and one block, so that the fork is no input of the network."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = _conv(), block, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(F.relu(self.stem(x))).mean((2, 3)))
        return out


def _net(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Net(block).eval()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_an_addition(way: str) -> None:
    net = _net(Block(WAYS[way]))
    example = torch.randn(EXAMPLE)
    (shortcut,) = find_shortcuts(net, example)
    assert (shortcut.id, shortcut.kind, shortcut.shape) == ("block", "identity", (8, 6, 6))
    assert shortcut.bytes == 8 * 6 * 6 * 4
    proof = prove_removal(net, example)
    assert max(proof["removed"], proof["open"]) <= 1e-6
    assert proof["effect"] > 1e-3
    pruned = remove_shortcuts(net, plan_shortcuts(net, analyse(net, example), "none"))
    with torch.no_grad():
        features = F.relu(net.stem(example))
        expected = net.head(F.relu(net.block.main(features)).mean((2, 3)))
        torch.testing.assert_close(pruned(example), expected)


@pytest.mark.parametrize(
    ("skip", "kind", "parameters"),
    [
        (nn.Identity(), "identity", 0),
        (nn.Dropout(0.5), "identity", 0),
        (_conv(kernel=1), "projection", 8 * 8 + 2 * 8),
        (nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(kernel=1)), "pooled_projection", 8 * 8 + 2 * 8),
    ],
)
def test_kinds(skip: nn.Module, kind: str, parameters: int) -> None:
    (shortcut,) = find_shortcuts(_net(Block(torch.add, skip)), torch.randn(EXAMPLE))
    assert (shortcut.kind, shortcut.parameters) == (kind, parameters)


class Padded(nn.Module):
    """He et al. 2016, option A: every second pixel, and channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.out = _conv(8, 16, stride=2), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        out: Tensor = self.out(self.main(x) + skip)
        return out


class PreActivation(nn.Module):
    """The projection forks off after the norm, the identity before it."""

    def __init__(self, projected: bool) -> None:
        super().__init__()
        self.norm, self.main = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.projection = nn.Conv2d(8, 8, 1) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(x))
        skip = x if self.projection is None else self.projection(y)
        return skip + self.main(y)


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (Padded(), "projection"),
        (PreActivation(False), "identity"),
        (PreActivation(True), "projection"),
    ],
)
def test_other_shortcuts(block: nn.Module, kind: str) -> None:
    net, example = _net(block), torch.randn(EXAMPLE)
    assert [s.kind for s in find_shortcuts(net, example)] == [kind]
    assert prove_removal(net, example)["removed"] <= 1e-6


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.out = _conv(), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.cat([self.main(x), x], 1))
        return out


class TopDown(nn.Module):
    """An hourglass: what returns from below is upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.lateral = _conv(stride=2), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(self.down(x), scale_factor=2.0)
        return self.lateral(x) + up


class Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.position = _conv(), nn.Parameter(torch.ones(2, 8, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.position


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _conv(), _conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Scaled(nn.Module):
    """x + a x has a main path that mixes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(x)


@pytest.mark.parametrize("block", [Gate, Concatenation, TopDown, Bias, TwoBranches, Scaled])
def test_what_is_no_shortcut(block: type[nn.Module]) -> None:
    assert find_shortcuts(_net(block()), torch.randn(EXAMPLE)) == ()


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _conv(), _conv()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x)


def test_several_shortcuts_in_one_block_have_numbers() -> None:
    net, example = _net(Several()), torch.randn(EXAMPLE)
    assert [s.id for s in find_shortcuts(net, example)] == ["block:1", "block:2"]
    pruned = remove_shortcuts(net, plan_shortcuts(net, analyse(net, example), ["block:2"]))
    with torch.no_grad():
        y = net.block.first(F.relu(net.stem(example)))
        expected = net.head((y + net.block.second(y)).mean((2, 3)))
        torch.testing.assert_close(pruned(example), expected)


def test_a_shortcut_in_the_model_itself() -> None:
    torch.manual_seed(0)
    net, example = Block(torch.add).eval(), torch.randn(EXAMPLE)
    assert [s.id for s in find_shortcuts(net, example)] == ["model"]
    pruned = remove_shortcuts(net, plan_shortcuts(net, analyse(net, example), "none"))
    torch.testing.assert_close(pruned(example), F.relu(net.main(example)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block(torch.add)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.block(x))
        return out


def test_a_block_called_twice_is_one_shortcut() -> None:
    torch.manual_seed(0)
    net, example = Twice().eval(), torch.randn(EXAMPLE)
    assert [s.id for s in find_shortcuts(net, example)] == ["block"]
    assert prove_removal(net, example)["removed"] <= 1e-6


class Optional(nn.Module):
    """Its block is given an argument that has a default."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = _conv()

        def forward(self, x: Tensor, bias: Tensor | None = None, scale: float = 2.0) -> Tensor:
            y = self.main(x) if bias is None else self.main(x) + bias
            return x + y * scale

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias = Optional.Inner(), nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x, bias=self.bias)
        return out


def test_optional_arguments_are_given_as_before() -> None:
    net, example = _net(Optional()), torch.randn(EXAMPLE)
    (shortcut,) = find_shortcuts(net, example)
    assert (shortcut.id, shortcut.site.given) == ("block.inner", ("bias",))
    pruned = remove_shortcuts(net, plan_shortcuts(net, analyse(net, example), "none"))
    with torch.no_grad():
        y = 2 * (net.block.inner.main(F.relu(net.stem(example))) + 1)
        torch.testing.assert_close(pruned(example), net.head(y.mean((2, 3))))


class Branching(Net):
    """Its forward asks for a value, which torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        if float(y.sum()) > -1:
            y = self.block(y)
        out: Tensor = self.head(y.mean((2, 3)))
        return out


def test_where_the_model_cannot_be_traced_its_modules_are() -> None:
    torch.manual_seed(0)
    net, example = Branching(Block(torch.add)).eval(), torch.randn(EXAMPLE)
    analysis = analyse(net, example)
    assert [s.id for s in analysis.shortcuts] == ["block"]
    assert analysis.shortcuts[0].peak_bytes is None
    assert analysis.activations is None
    assert "cannot trace Branching as a whole" in analysis.notes[0]
    assert prove_removal(net, example)["removed"] <= 1e-6
    with pytest.raises(PruningError, match="target peak needs the whole model's graph"):
        plan_shortcuts(net, analysis, target_peak=1)


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if float(x.sum()) > 0 else x


def test_an_untraceable_model_is_one_sentence() -> None:
    with pytest.raises(PruningError, match="can trace neither Opaque nor a module in it"):
        find_shortcuts(Opaque(), torch.randn(EXAMPLE))
    with pytest.raises(PruningError, match="does not run on the example input"):
        find_shortcuts(_net(Block(torch.add)), "no tensor")


def test_analysis_leaves_modes_and_weights_alone() -> None:
    net = _net(Block(torch.add)).train()
    net.stem.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    analyse(net, torch.randn(EXAMPLE))
    assert net.training
    assert not net.stem[1].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "name", [f"resnet14-full-{policy}" for policy in ("all", "middle", "none")] + ["resnet20", "resnet50"]
)
def test_peaks_are_those_of_the_cost_model(name: str) -> None:
    spec = named_spec(name)
    activations = analyse(build(spec), torch.randn(1, 3, spec.input_size, spec.input_size)).activations
    assert activations is not None
    peaks = {executor: activations.peak((), executor).size for executor in ("naive", "in_place")}
    assert peaks == peak_activation_bytes(spec)


def test_bytes_that_shortcuts_cost() -> None:
    """ResNet14 at 32 px: 4 bytes an element, stage 1 has 64 x 32 x 32 of them."""
    analysis = analyse(build(named_spec("resnet14-full-all")), torch.randn(2, 3, 32, 32))
    known, activations = analysis.by_id(), analysis.activations
    assert activations is not None
    stage1, stage2 = 64 * 32 * 32 * 4, 128 * 16 * 16 * 4
    assert known["stage1.block2"].peak_bytes == stage1
    assert known["stage1.block2"].traffic_bytes == stage1  # read once more
    # The projection reads the block's input, writes its output, and that is read for the sum.
    assert known["stage2.block1"].traffic_bytes == stage1 + 2 * stage2
    assert [s.stage for s in analysis.shortcuts] == [1, 1, 2, 2, 3, 3]
    # Research: 196,608 elements with shortcuts, 131,072 once the first stage has none.
    assert activations.peak().size == 4 * 196_608
    assert activations.peak(["stage1.block1", "stage1.block2"]).size == 4 * 131_072
    assert activations.peak(list(known)).size == 4 * 131_072
