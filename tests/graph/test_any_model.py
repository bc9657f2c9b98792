"""Whatever model somebody brings: counted rightly or as unknown, lowered rightly or refused, left alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bitskip.backends.reference import run_reference
from bitskip.errors import BitskipError, LoweringError
from bitskip.lower import lower
from bitskip.nn.count import count_module
from bitskip.pruning import analyse

# -- MACs over operators, modes and wrappers -----------------------------------------------------------------

Forward = Callable[[Tensor, Tensor], Tensor]
B, K, O = 18, 16, 8  # noqa: E741


def _int_mm(x: Tensor, w: Tensor) -> Tensor:
    return torch._int_mm(x.to(torch.int8), w.t().to(torch.int8).contiguous()).float()


def _int8pack(x: Tensor, w: Tensor) -> Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, w.to(torch.int8), torch.ones(O, device=x.device))


def _attention(x: Tensor, w: Tensor) -> Tensor:
    q = x.view(1, 1, B, K)
    return F.scaled_dot_product_attention(q, q, q)


def _picture(x: Tensor) -> Tensor:
    return x.reshape(1, 2, 12, 12)


OPERATORS: dict[str, tuple[Forward, int]] = {
    "linear": (F.linear, B * K * O),
    "matmul": (lambda x, w: x @ w.t(), B * K * O),
    "einsum": (lambda x, w: torch.einsum("bk,ok->bo", x, w), B * K * O),
    "addmm": (lambda x, w: torch.addmm(torch.zeros(O, device=x.device), x, w.t()), B * K * O),
    "_addmm_activation": (
        lambda x, w: torch.ops.aten._addmm_activation(torch.zeros(O, device=x.device), x, w.t()),
        B * K * O,
    ),
    "_int_mm": (_int_mm, B * K * O),
    "_weight_int8pack_mm": (_int8pack, B * K * O),
    "baddbmm": (
        lambda x, w: torch.baddbmm(torch.zeros(1, 1, O, device=x.device), x[None], w.t()[None]),
        B * K * O,
    ),
    "mv": (lambda x, w: torch.mv(x, w[0]), B * K),
    "conv2d": (lambda x, w: F.conv2d(_picture(x), w.view(O, 2, 2, 4)), O * 16 * 11 * 9),
    "grouped": (lambda x, w: F.conv2d(_picture(x), w.view(O, 1, 4, 4), groups=2), O * 16 * 9 * 9),
    "transposed": (lambda x, w: F.conv_transpose2d(_picture(x), w.view(2, O, 2, 4)), 2 * 144 * O * 8),
    "attention": (_attention, 2 * B * B * K),
    "elementwise": (lambda x, w: torch.relu(x + w[0]).mean(0), 0),
}


class Doing(nn.Module):
    """Does one operator with a weight of its own."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.weight, self.does = nn.Parameter(torch.randn(O, K)), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.does(x[0], self.weight)[None]


class Decorated(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class Partly(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, nn.Identity()

    def forward(self, x: Tensor) -> Any:
        with torch.inference_mode():
            y = self.inner(x)
        return self.after(y) * 1


class Compiled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = torch.compile(inner)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda model: model,
    "sequential": lambda model: nn.Sequential(model, nn.Identity()),
    "decorated": Decorated,
    "partly": Partly,
    "compiled": torch.compile,  # type: ignore[dict-item]
    "compiled inside": Compiled,
    "parallel": nn.DataParallel,
    "parallel and compiled": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "twice": lambda model: Decorated(nn.DataParallel(Partly(model))),
}
MODES = {
    "gradients": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_macs_are_the_same_in_every_mode_and_wrapper(name: str, wrapper: str) -> None:
    forward, macs = OPERATORS[name]
    plain = count_module(Doing(forward), (B, K))
    for mode in MODES.values():
        with mode():
            cost = count_module(WRAPPERS[wrapper](Doing(forward)), (B, K))
        assert (cost.macs, cost.parameters) == (macs, O * K), cost.notes
        if wrapper != "partly":
            assert cost.peak_activation_bytes == plain.peak_activation_bytes


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_row_is_unknown_in_every_mode(mode: str) -> None:
    unknown: list[Forward] = [
        lambda x, w: torch.fft.fft(F.linear(x, w)).real,
        lambda x, w: torch.cdist(x, w),
        lambda x, w: torch.linalg.solve(x[:K] + torch.eye(K, device=x.device), x[:K]),
        lambda x, w: torch.from_numpy(F.linear(x, w).detach().numpy() @ np.ones((O, 2), np.float32)),
        lambda x, w: torch.ones(2, 3),
    ]
    for forward in unknown:
        with MODES[mode]():
            cost = count_module(Doing(forward), (B, K))
        assert cost.macs is None
        assert any("MACs of" in note for note in cost.notes)


# -- the model is left as it was ---------------------------------------------------------------------------


class Habits(nn.Module):
    """Keeps what it computed, counts its calls, draws, and writes into what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.grid: Tensor | None = None
        self.last: dict[str, Any] = {}
        self.seen: list[Any] = []
        self.drawn = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.norm(self.conv(x))
        if self.grid is None or self.grid.shape[-1] != y.shape[-1]:
            self.grid = torch.linspace(0, 1, y.shape[-1], device=y.device)
        self.last["y"] = y
        self.seen.append(y)
        self.drawn = random.random() + float(np.random.rand()) + float(torch.rand(1))  # noqa: NPY002
        out: Tensor = self.head((y + self.grid).mean((2, 3)))
        return out


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def _habits(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = Habits()
    if kind == "parametrized":
        parametrize.register_parametrization(model.conv, "weight", Half())
    if kind == "locked":
        import threading

        model.lock = threading.Lock()  # type: ignore[assignment]
    if kind == "old weight norm":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model.conv)
    if kind == "hooked":
        model.conv.register_forward_hook(lambda module, inputs, output: output * 1)
    return model


ACTS: dict[str, Callable[[nn.Module], object]] = {
    "count": lambda model: count_module(model, (3, 8, 8)),
    "analyse": lambda model: analyse(model, torch.randn(1, 3, 8, 8, generator=torch.Generator())),
    "lower": lambda model: lower(model, input_shape=(3, 8, 8)),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ["plain", "parametrized", "locked", "old weight norm", "hooked"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(act: str, kind: str, mode: str, training: bool) -> None:
    model, twin = _habits(kind).train(training), _habits(kind).train(training)
    model.norm.eval()
    twin.norm.eval()
    before = [set(vars(module)) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    with MODES[mode]():
        grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        try:
            ACTS[act](model)
        except BitskipError:
            assert (act, kind) != ("count", "plain")
        assert grad == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert [set(vars(module)) for module in model.modules()] == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    assert (model.grid, model.last, model.seen, model.drawn) == (None, {}, [], 0.0)
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())
    for (name, value), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
        assert type(value) is type(other)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(model(x), twin(x))


STORE: dict[str, Any] = {}
GRID: Tensor | None = None


def _fresh(x: Tensor) -> Tensor:
    return torch.linspace(0, 1, x.shape[-1], device=x.device)


def _kept_as_default(x: Tensor, store: dict[str, Any] = {}) -> Tensor:  # noqa: B006  (as people write it)
    return store.setdefault("grid", _fresh(x)) if "grid" not in store else store["grid"]


class OutsideCache(nn.Module):
    """Keeps the grid of its first call where every model of its kind finds it."""

    shared: Tensor | None = None

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.conv, self.head = where, nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        global GRID
        y = self.conv(x)
        if self.where == "class":
            if OutsideCache.shared is None:
                OutsideCache.shared = _fresh(y)
            grid = OutsideCache.shared
        elif self.where == "global":
            GRID = _fresh(y) if GRID is None else GRID
            grid = GRID
        elif self.where == "global container":
            grid = STORE.setdefault("deep", {}).setdefault("grid", _fresh(y))
        else:
            grid = _kept_as_default(y)
        out: Tensor = self.head((y + grid).mean((2, 3)))
        return out


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("where", ["class", "global", "global container", "default argument"])
def test_caches_outside_the_model_keep_no_trace(act: str, where: str) -> None:
    global GRID
    OutsideCache.shared = GRID = None
    STORE.clear()
    model, x = OutsideCache(where).eval(), torch.randn(1, 3, 8, 8)
    with suppress(BitskipError):
        ACTS[act](model)
    expected = model.head((model.conv(x) + torch.linspace(0, 1, 8)).mean((2, 3)))
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x), expected)


def test_the_example_is_left_as_it_was() -> None:
    x = torch.randn(1, 3, 8, 8)
    kept = x.clone()
    analyse(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)), x)
    assert torch.equal(x, kept)


# -- steps in place, on names of one tensor ---------------------------------------------------------------


def _alias(x: Tensor, way: str) -> Tensor:
    return {
        "same": lambda: x,
        "to": lambda: x.to(torch.float32),
        "float": lambda: x.float(),
        "contiguous": lambda: x.contiguous(),
        "view": lambda: x.view(x.shape),
        "detach": lambda: x.detach(),
        "data": lambda: x.data,
        "slice": lambda: x[:],
        "identity": lambda: nn.Identity()(x),
        "clone": lambda: x.clone(),
        "dropout": lambda: F.dropout(x, 0.5, False),
        "type_as": lambda: x.type_as(x),
    }[way]()


class Aliased(nn.Module):
    """Changes one name of a tensor in place, and reads the other afterwards."""

    def __init__(self, way: str, change: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.way, self.change = way, change

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = _alias(x, self.way)
        if self.change == "+=":
            y += 1
        elif self.change == "*=":
            y *= 2
        elif self.change == "add_":
            y.add_(1)
        elif self.change == "relu by position":
            y = F.relu(y, True)
        elif self.change == "relu by name":
            y = F.relu(y, inplace=True)
        else:
            torch.relu_(y)
        out: Tensor = self.head((self.second(x) + y).mean((2, 3)))
        return out


WAYS = "same to float contiguous view detach data slice identity clone dropout type_as".split()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", ["+=", "*=", "add_", "relu by position", "relu by name", "relu_"])
def test_steps_in_place_are_lowered_rightly_or_refused(way: str, change: str) -> None:
    torch.manual_seed(0)
    model = Aliased(way, change).eval()
    try:
        program = lower(model, input_shape=(3, 6, 6))
    except LoweringError as error:
        if way == "same":
            raise
        assert "cannot be packed" in str(error)  # noqa: PT017 (it may be refused, by name)
        return
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(run_reference(program, images), expected, atol=1e-5)


def test_sizes_may_be_augmented() -> None:
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[0]
            n += 0
            out: Tensor = self.head(self.conv(x).mean((2, 3)).reshape(n, x.size(0) // n * 4))
            return out

    assert lower(Sizes().eval(), input_shape=(3, 6, 6)).classes == 3


DROPOUTS = [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", DROPOUTS)
def test_every_dropout_is_nothing(kind: type[nn.Module], inplace: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, kind(0.5, inplace=inplace), nn.Linear(4, 3)).eval()
    without = nn.Sequential(*copy.deepcopy(layers), copy.deepcopy(model[-1])).eval()
    ours, theirs = (lower(net, input_shape=(3, 9, 9), name="x") for net in (model, without))
    assert len(ours.ops) == len(theirs.ops)
    assert analyse(model, torch.randn(1, 3, 9, 9)).activations is not None


@pytest.mark.parametrize("wrapper", ["compiled", "parallel", "parallel and compiled", "compiled inside"])
def test_wrappers_are_opened(wrapper: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    program = lower(WRAPPERS[wrapper](net.eval()), input_shape=(3, 9, 9))
    assert len(program.ops) == len(lower(net, input_shape=(3, 9, 9)).ops)
    assert analyse(WRAPPERS[wrapper](net), torch.randn(1, 3, 9, 9)).activations is not None
