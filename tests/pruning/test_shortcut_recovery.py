"""Scores, refit, schedules and training while gates close."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.errors import FileFormatError, PruningError, RunError
from bitskip.nn import build
from bitskip.pruning import (
    Analysis,
    GateSchedule,
    Plan,
    Recovery,
    RecoverySettings,
    ShortcutGates,
    analyse,
    distillation_loss,
    load_scores,
    plan_shortcuts,
    prune_without_training,
    recover,
    reestimate_batch_norm,
    remove_shortcuts,
    score_shortcuts,
    settle,
)
from bitskip.pruning.refit import refit_block
from bitskip.pruning.score import student_t
from bitskip.spec import named_spec

CLASSES = 3


class Blobs:
    """Pictures of three classes: noise plus a bright corner, in a fixed order an epoch."""

    def __init__(self, count: int = 4, batch: int = 16, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.batches = []
        for _ in range(count):
            labels = torch.randint(CLASSES, (batch,), generator=generator)
            pictures = torch.randn(batch, 3, 8, 8, generator=generator)
            for at, label in enumerate(labels.tolist()):
                pictures[at, label, :4, 4:] += 1.5
            self.batches.append((pictures, labels))
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def _accuracy(model: nn.Module) -> float:
    model.eval()
    hits = [model(x).argmax(1) == y for x, y in Blobs(4, seed=9)]
    return float(torch.cat(hits).float().mean())


@pytest.fixture(scope="module")
def taught() -> tuple[nn.Module, Analysis]:
    """A small network that knows the blobs."""
    torch.manual_seed(0)
    spec = dataclasses.replace(
        named_spec("resnet14-full-all-x0.125"), blocks=(1, 1, 1), input_size=8, classes=CLASSES
    )
    model = build(spec)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for pictures, labels in Blobs(8):
            optimizer.zero_grad()
            F.cross_entropy(model(pictures), labels).backward()
            optimizer.step()
    model.eval()
    assert _accuracy(model) > 0.8
    return model, analyse(model, torch.randn(2, 3, 8, 8))


# -- scores -------------------------------------------------------------------------------------------


def test_scores_are_what_closing_one_gate_changes(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = score_shortcuts(model, analysis.shortcuts, Blobs(3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    name = analysis.shortcuts[1].id
    gates = ShortcutGates(model, analysis.shortcuts)
    gates.model.eval()
    outputs = []
    for value in (1.0, 0.0):
        gates.set(name, value)
        reestimate_batch_norm(gates.model, Blobs(3))
        with torch.no_grad():
            outputs.append([gates.model(x) for x, _ in Blobs(3)])
    labels = [y for _, y in Blobs(3)]
    losses = [
        float(F.cross_entropy(new, y) - F.cross_entropy(old, y))
        for old, new, y in zip(*outputs, labels, strict=True)
    ]
    mean = sum(losses) / 3
    deviation = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / 2)
    assert scores[name].loss_change == pytest.approx(mean, abs=1e-5)
    assert scores[name].loss_ci == pytest.approx(4.303 * deviation / math.sqrt(3), rel=1e-3)
    divergences = [
        float((old.softmax(1) * (old.log_softmax(1) - new.log_softmax(1))).sum(1).mean())
        for old, new in zip(*outputs, strict=True)
    ]
    assert scores[name].kl == pytest.approx(sum(divergences) / 3, rel=1e-3)
    assert scores[name].kl > 0.001


def test_scores_of_one_batch_have_no_interval(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    (score,) = score_shortcuts(model, analysis.shortcuts[:1], Blobs(1)).values()
    assert score.loss_ci is None
    assert student_t(1) == 12.706
    assert student_t(60) == pytest.approx(2.000, abs=0.003)


def test_scoring_goes_on_where_it_stopped(taught: tuple[nn.Module, Analysis], tmp_path: Path) -> None:
    model, analysis = taught
    cache = tmp_path / "scores.json"

    class Stop(Exception):
        pass

    def stop(done: int, total: int, name: str) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        score_shortcuts(model, analysis.shortcuts, Blobs(2), cache=cache, progress=stop)
    values = json.loads(cache.read_text())
    assert len(values["scores"]) == 2
    values["scores"][0]["kl"] = 123.0  # to see that it is taken over
    cache.write_text(json.dumps(values))
    seen: list[tuple[int, str]] = []

    def note(done: int, total: int, name: str) -> None:
        seen.append((done, name))

    scores = score_shortcuts(model, analysis.shortcuts, Blobs(2), cache=cache, progress=note)
    assert scores[analysis.shortcuts[0].id].kl == 123.0
    assert [done for done, _ in seen] == [0, 1, 2, 3]
    assert load_scores(cache, model) == scores
    # Other weights: nothing is taken over.
    changed = build(model.spec)  # type: ignore[arg-type]
    fresh = score_shortcuts(changed, analysis.shortcuts, Blobs(2), cache=cache)
    assert fresh[analysis.shortcuts[0].id].kl != 123.0
    with pytest.raises(PruningError, match="scores of another model"):
        load_scores(cache, nn.Linear(2, 2))
    cache.write_text("{}")
    with pytest.raises(FileFormatError, match="no file of shortcut scores"):
        load_scores(cache, model)


def test_scoring_needs_something_to_score(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    with pytest.raises(PruningError, match="no shortcuts to score"):
        score_shortcuts(model, [], Blobs(1))
    with pytest.raises(PruningError, match="at least one batch"):
        score_shortcuts(model, analysis.shortcuts, [])


# -- refit --------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """x + BN(conv(x)): one convolution can do the sum exactly."""

    def __init__(self, groups: int = 1, bias: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm(self.conv(x))
        return out


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("groups", "bias", "norm"), [(1, False, True), (4, True, True), (2, True, False)])
def test_refit_finds_the_convolution_that_does_the_sum(
    groups: int, bias: bool, norm: bool, relu: bool
) -> None:
    torch.manual_seed(0)
    after = nn.ReLU(inplace=True) if relu else nn.Identity()  # in place on the very sum to imitate
    model = nn.Sequential(Linear(groups, bias, norm), after).eval()
    batches = [torch.randn(8, 4, 6, 6) for _ in range(3)]
    reestimate_batch_norm(model, batches)
    analysis = analyse(model, batches[0])
    plan = plan_shortcuts(model, analysis, "none")
    done = prune_without_training(model, plan, analysis, batches, ridge=1e-9)
    assert done.refit == {"0": "ridge"}
    other = torch.randn(8, 4, 6, 6)
    with torch.no_grad():
        wanted, plain, refit = model(other), remove_shortcuts(model, plan)(other), done.model(other)
    assert (refit - wanted).abs().max() < 0.02  # statistics are those of few batches
    assert (plain - wanted).abs().max() > 0.5


def test_statistics_are_matched_where_weights_are_one_bit() -> None:
    torch.manual_seed(0)
    spec = dataclasses.replace(named_spec("resnet14-binary-all-x0.125"), input_size=8, style="standard")
    model, batches = build(spec).eval(), [torch.randn(16, 3, 8, 8) for _ in range(3)]
    reestimate_batch_norm(model, batches)
    analysis = analyse(model, batches[0])
    shortcut = analysis.shortcuts[0]
    teacher, student = ShortcutGates(model, analysis.shortcuts), ShortcutGates(model, analysis.shortcuts)
    student.set(shortcut.id, 0.0)
    assert refit_block(teacher, student, shortcut, batches) == "statistics"
    sums: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for key, gates in (("teacher", teacher), ("student", student)):
        gates.gate(shortcut.id).register_forward_hook(
            lambda m, a, out, key=key: sums[key].append(out.clone())
        )
        with torch.no_grad():
            for batch in batches:
                gates.model(batch)
    wanted, got = torch.cat(sums["teacher"]), torch.cat(sums["student"])
    torch.testing.assert_close(got.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(got.std((0, 2, 3)), wanted.std((0, 2, 3)), atol=1e-3, rtol=1e-3)


def test_recovery_without_training_says_what_each_step_gave(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")

    def distance(network: nn.Module) -> float:
        """Mean squared distance to the teacher's logits."""
        network.eval()
        with torch.no_grad():
            return float(torch.stack([F.mse_loss(network(x), model(x)) for x, _ in Blobs(8, seed=5)]).mean())

    done = prune_without_training(model, plan, analysis, Blobs(8), distance)
    assert set(done.refit.values()) == {"ridge"}
    assert done.measures["teacher"] == 0
    assert done.measures["refit"] < 0.7 * min(done.measures["batch_norm"], done.measures["closed"])
    assert done.measures["refit"] == pytest.approx(distance(done.model), rel=1e-4)


def test_refit_says_why_it_does_nothing() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(Linear())
    block[0].norm = nn.Sequential(nn.BatchNorm2d(4), nn.Sigmoid())
    batches = [torch.randn(8, 4, 6, 6)]
    analysis = analyse(block, batches[0])
    plan = plan_shortcuts(block, analysis, "none")
    assert prune_without_training(block, plan, analysis, batches).refit["0"].startswith("none: its main path")


# -- schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "epochs_done", "expected"),
    [
        (RecoverySettings("one_shot", epochs=4), 0.0, [0, 0, 0]),
        (RecoverySettings("together", epochs=4, fade=2), 0.5, [0.75, 0.75, 0.75]),
        (RecoverySettings("together", epochs=4, fade=2), 3.0, [0, 0, 0]),
        (RecoverySettings("gradual", epochs=9, interval=2, fade=1), 0.25, [0.75, 1, 1]),
        (RecoverySettings("gradual", epochs=9, interval=2, fade=1), 2.5, [0, 0.5, 1]),
        (RecoverySettings("gradual", epochs=9, interval=2, fade=0), 2.0, [0, 0, 1]),
        (RecoverySettings("gradual", epochs=9, interval=2, fade=1), 5.0, [0, 0, 0]),
        (RecoverySettings("gradual", epochs=3, interval=0.5, fade=0.5), 0.75, [0, 0.5, 1]),
    ],
)
def test_gate_values(settings: RecoverySettings, epochs_done: float, expected: list[float]) -> None:
    schedule = GateSchedule(settings, ("a", "b", "c"))
    assert list(schedule.values(epochs_done).values()) == pytest.approx(expected)
    schedule.kept.add("b")
    assert schedule.values(epochs_done)["b"] == 1.0


@pytest.mark.parametrize(("gates", "epochs"), [(6, 5), (6, 10), (3, 10), (7, 20)])
def test_fades_that_fill_all_epochs_end_closed(gates: int, epochs: int) -> None:
    names = tuple(f"gate{number}" for number in range(gates))
    settings = RecoverySettings("gradual", epochs=epochs, interval=epochs / gates, fade=epochs / gates)
    settings.check(gates)
    assert set(GateSchedule(settings, names).values(epochs).values()) == {0.0}


def test_the_rate_falls_once_all_gates_are_closed() -> None:
    schedule = GateSchedule(RecoverySettings("gradual", epochs=10, interval=2, fade=1), ("a", "b"))
    assert [schedule.rate_factor(t) for t in (0, 3)] == [1, 1]
    assert schedule.rate_factor(6.5) == pytest.approx(0.5)
    assert schedule.rate_factor(10) == 0
    assert [schedule.judged_after(epoch) for epoch in range(5)] == [None, "a", None, "b", None]
    assert [schedule.starting(epoch) for epoch in range(5)] == ["a", None, "b", None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "slowly"}, "unknown schedule 'slowly', expected one of one_shot, gradual, together"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"interval": 0}, "interval is 0 epochs, expected more than 0"),
        ({"fade": 2.0}, "fade is 2 epochs, expected 0 to 1"),
        ({"interval": 1.5, "max_accuracy_drop": 0.1}, "interval is 1.5, expected a whole number"),
        ({"schedule": "together", "max_accuracy_drop": 0.1}, "needs the gradual schedule, not 'together'"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        RecoverySettings(**change)


def test_the_loss_is_the_published_mixture() -> None:
    logits, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    labels = torch.tensor([0])
    entropy = math.log(1 + math.exp(-2.0))
    assert float(distillation_loss(logits, labels, other)) == pytest.approx(0.65 * entropy + 0.35 * 1.0)
    assert float(distillation_loss(logits, labels, None)) == pytest.approx(entropy)


# -- training -----------------------------------------------------------------------------------------


def _recover(
    taught: tuple[nn.Module, Analysis], settings: RecoverySettings, **options: Any
) -> tuple[Plan, Recovery]:
    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")
    torch.manual_seed(1)
    return plan, recover(model, plan, Blobs(6), settings, evaluate=_accuracy, **options)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual", "together"])
def test_a_network_learns_to_do_without(taught: tuple[nn.Module, Analysis], schedule: str) -> None:
    model, _ = taught
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan, result = _recover(taught, RecoverySettings(schedule, epochs=6, learning_rate=0.02))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert analyse(result.model, torch.randn(2, 3, 8, 8)).shortcuts == ()
    assert result.plan == plan
    assert not result.model.training
    closed = remove_shortcuts(model, plan)
    assert result.measure == _accuracy(result.model)
    assert result.measure > _accuracy(closed) + 0.1
    assert [entry["epoch"] for entry in result.history] == list(range(1, 7))
    assert result.history[-1]["gates"] == dict.fromkeys(plan.closed, 0.0)
    first = result.history[0]["gates"]
    assert sum(first.values()) == {"one_shot": 0, "gradual": len(plan.closed) - 1, "together": 0}[schedule]


class _Stop(Exception):
    """Stands for whatever ends a process between two epochs."""


def test_a_resumed_recovery_ends_as_an_unbroken_one(
    taught: tuple[nn.Module, Analysis], tmp_path: Path
) -> None:
    settings = RecoverySettings("gradual", epochs=4, learning_rate=0.02)

    def stop(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 2:
            raise _Stop

    with pytest.raises(_Stop):
        _recover(taught, settings, folder=tmp_path, on_epoch=stop)
    _, resumed = _recover(taught, settings, folder=tmp_path)
    _, unbroken = _recover(taught, settings)
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3, 4]
    for name, value in unbroken.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
    with pytest.raises(RunError, match="state of another recovery"):
        _recover(taught, dataclasses.replace(settings, epochs=5), folder=tmp_path)
    with pytest.raises(RunError, match="state of another recovery"):
        _recover(taught, settings, folder=tmp_path, asked={"seed": 2})


def test_a_gate_that_breaks_the_budget_reopens(taught: tuple[nn.Module, Analysis], tmp_path: Path) -> None:
    """Evaluation is told to find the second gate's closing costly; the weights of before come back."""
    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")
    second = plan.closed[1]
    weights: list[Tensor] = []
    calls: list[float] = []

    def judge(network: nn.Module) -> float:
        calls.append(0.9 if len(calls) != 2 else 0.5)  # teacher, first gate, second gate, ...
        weights.append(next(network.parameters()).detach().clone())
        return calls[-1]

    settings = RecoverySettings("gradual", epochs=4, learning_rate=0.02, max_accuracy_drop=0.1)
    states: list[dict[str, float]] = []
    result = recover(
        model, plan, Blobs(2), settings, evaluate=judge, folder=tmp_path,
        on_epoch=lambda entry: states.append(entry["gates"]),
    )  # fmt: skip
    assert result.rolled_back == (second,)
    assert result.history[1]["rolled_back"] == second
    assert states[1][second] == 1.0
    assert result.plan.ids("keep") == (second,)
    assert [s.id for s in analyse(result.model, torch.randn(2, 3, 8, 8)).shortcuts] == [second]
    assert not torch.equal(weights[2], weights[1])  # it had trained on


def test_what_recovery_refuses(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")
    with pytest.raises(PruningError, match="3 gates need 3 epochs to close, but there are 2"):
        recover(model, plan, Blobs(1), RecoverySettings("gradual", epochs=2))
    with pytest.raises(PruningError, match="order must name each shortcut once"):
        recover(model, plan, Blobs(1), RecoverySettings("one_shot", epochs=1), order=["x"])
    with pytest.raises(PruningError, match="needs `evaluate`"):
        recover(model, plan, Blobs(1), RecoverySettings(epochs=4, max_accuracy_drop=0.1))
    with pytest.raises(PruningError, match="mse_weight is 1.5, expected a share"):
        RecoverySettings(mse_weight=1.5)
    with pytest.raises(PruningError, match="learning_rate is -1, expected more than 0"):
        RecoverySettings(learning_rate=-1.0)
    with pytest.raises(PruningError, match="the loss became"):
        recover(model, plan, Blobs(2), RecoverySettings("one_shot", epochs=9, learning_rate=1e30))


def test_the_teacher_is_frozen_and_in_evaluation_mode(taught: tuple[nn.Module, Analysis]) -> None:
    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")
    modes: list[tuple[bool, bool]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            modes.append((self.training, any(p.requires_grad for p in self.parameters())))
            out: Tensor = self.inner(x)
            return out

    recover(model, plan, Blobs(2), RecoverySettings("one_shot", epochs=1), teacher=Watched().train())
    assert modes == [(False, False)] * 2


# -- Lightning ----------------------------------------------------------------------------------------


def test_the_lightning_callback_closes_gates_and_resumes(
    taught: tuple[nn.Module, Analysis], tmp_path: Path
) -> None:
    import warnings

    import lightning as L

    from bitskip.pruning.lightning import ShortcutRecovery

    model, analysis = taught
    plan = plan_shortcuts(model, analysis, "none")

    class Student(L.LightningModule):  # type: ignore[misc]
        def __init__(self, gates: ShortcutGates) -> None:
            super().__init__()
            self.network, self.gates, self.seen = gates.model, gates, []

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            self.seen.append(round(sum(self.gates.state().values()), 3))
            return distillation_loss(self.network(batch[0]), batch[1], model(batch[0]))

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            # The second gate is made to look costly.
            low = self.current_epoch == 1
            self.log("val_accuracy", torch.tensor(0.2 if low else 0.9))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)

        def on_train_epoch_start(self) -> None:
            (optimizer,) = self.trainer.optimizers
            self.momenta = [s["momentum_buffer"].clone() for s in optimizer.state.values()]

    settings = RecoverySettings("gradual", epochs=3, max_accuracy_drop=0.1)

    def fit(
        gates: ShortcutGates, epochs: int, checkpoint: Path | None
    ) -> tuple[Student, ShortcutRecovery, Any]:
        callback = ShortcutRecovery(gates, plan, settings, monitor="val_accuracy", reference=0.9)
        student = Student(gates)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = L.Trainer(
                max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                callbacks=[callback], default_root_dir=tmp_path,
            )  # fmt: skip
            trainer.fit(student, Blobs(2), Blobs(1), ckpt_path=checkpoint, weights_only=True)
        return student, callback, trainer

    gates = ShortcutGates(model, plan)
    student, callback, trainer = fit(gates, 2, None)
    assert student.seen == [3.0, 2.5, 2.0, 1.5]
    assert callback.rolled_back == (plan.closed[1],)
    momenta = [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
    assert momenta
    assert all(torch.equal(a, b) for a, b in zip(momenta, student.momenta, strict=True))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    gates = ShortcutGates(model, plan)
    student, callback, _ = fit(gates, 3, tmp_path / "last.ckpt")
    assert student.seen == [2.0, 1.5]
    assert gates.state() == {plan.closed[0]: 0.0, plan.closed[1]: 1.0, plan.closed[2]: 0.0}
    pruned = settle(model, gates)
    assert [s.id for s in analyse(pruned, torch.randn(2, 3, 8, 8)).shortcuts] == [plan.closed[1]]
    with pytest.raises(PruningError, match="needs `monitor` and `reference`"):
        ShortcutRecovery(ShortcutGates(model, plan), plan, settings)
