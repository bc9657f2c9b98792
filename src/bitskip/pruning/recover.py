"""Training a network while its gates close: no trainer needed, resumable, with roll-back."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bitskip.errors import PruningError, RunError
from bitskip.files import write_bytes
from bitskip.nn import binary_layers
from bitskip.nn.batch_norm import inputs_of, reestimate_batch_norm
from bitskip.nn.narrow import onednn_where_safe
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import Plan, weights_digest
from bitskip.pruning.remove import settle
from bitskip.pruning.schedule import GateSchedule, RecoverySettings, decayed_groups, distillation_loss

STATE_FILE = "recovery.safetensors"
_ATOL = 1e-5


@dataclass(frozen=True)
class Recovery:
    """A pruned network that has been trained, and how that went."""

    model: nn.Module  # shortcuts removed, batch norm re-estimated, in evaluation mode
    plan: Plan  # what was carried out: gates that reopened are kept
    history: list[dict[str, Any]]  # an entry each epoch
    teacher_measure: float | None
    measure: float | None  # of `model`
    rolled_back: tuple[str, ...]


def recover(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Any],
    settings: RecoverySettings,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    teacher: nn.Module | None = None,
    order: Sequence[str] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    folder: Path | str | None = None,
    asked: Mapping[str, Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Recovery:
    """Close the plan's gates while training, then remove the shortcuts.

    Args:
        model: the trained network; left as it is.
        plan: of it.
        batches: (pictures, labels) with a length; `set_epoch(n)` is called where it exists.
        settings: the schedule.
        evaluate: returns the accuracy of a network (0..1) on validation data; called once an epoch.
        teacher: None for `model` itself; always in evaluation mode and without gradients.
        order: ids in the order in which their gates close; None for the input side first.
        optimizer: makes one for the gated network; None for SGD with Nesterov momentum. It lives through
            all stages. Each group's rate is taken as its peak and scaled by the schedule.
        folder: where the state is kept after each epoch; a state found there is resumed.
        asked: JSON values that say what else this recovery depends on, such as its data and seed; a state
            that was kept with others is not resumed.
        on_epoch: called after each epoch with its history entry: epoch, train_loss, train_accuracy, gates,
            learning_rate, seconds and, with `evaluate`, accuracy; `rolled_back` names a gate that reopened.

    Raises:
        PruningError: if the plan is for another model, the gates cannot close in time, `order` does not
            name exactly the plan's gates, or a budget is set without `evaluate`.
        RunError: if the folder holds the state of another recovery.
    """
    closing = tuple(plan.closed if order is None else order)
    if set(closing) != set(plan.closed):
        raise PruningError("order must name each shortcut once that the plan removes or shortens")
    settings.check(len(closing))
    if settings.max_accuracy_drop is not None and evaluate is None:
        raise PruningError("a limit on the accuracy drop needs `evaluate`, which measures the accuracy")
    guide = copy.deepcopy(model if teacher is None else teacher).eval().requires_grad_(False)
    schedule = GateSchedule(settings, closing)
    run = _Run(model, plan, settings, schedule, guide, evaluate, optimizer, dict(asked or {}))
    folder = None if folder is None else Path(folder)
    if folder is not None:
        run.resume(folder)
    while run.epoch < settings.epochs:
        with onednn_where_safe(run.student):
            entry = run.train_epoch(batches)
        run.history.append(entry)
        if folder is not None:
            run.save(folder)
        on_epoch(entry)
    return run.finish(batches)


class _Run:
    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        settings: RecoverySettings,
        schedule: GateSchedule,
        teacher: nn.Module,
        evaluate: Callable[[nn.Module], float] | None,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
        asked: dict[str, Any],
    ) -> None:
        self.original, self.plan, self.settings, self.schedule = model, plan, settings, schedule
        self.teacher, self.evaluate, self.asked = teacher, evaluate, asked
        self.gates = ShortcutGates(model, plan)
        self.student = self.gates.model
        self.student.requires_grad_(True)
        if make_optimizer is None:
            groups = decayed_groups(self.student.parameters(), settings.weight_decay)
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
            )
        else:
            self.optimizer = make_optimizer(self.student)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.binary = list(binary_layers(self.student).values())
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.snapshot: dict[str, Tensor] = {}
        self.teacher_measure = None if evaluate is None else evaluate(teacher)

    # -- an epoch ---------------------------------------------------------------------------------------

    def train_epoch(self, batches: Any) -> dict[str, Any]:
        started = time.monotonic()
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(self.epoch)
        if self.settings.max_accuracy_drop is not None and self.schedule.starting(self.epoch):
            self.snapshot = self._tensors()
        steps = len(batches)
        if steps == 0:
            raise PruningError("recovery needs at least one batch; got none")
        loss_sum, hits, count = 0.0, 0, 0
        self.student.train()
        for step, batch in enumerate(batches):
            done = self.epoch + step / steps
            self.gates.load_state(self.schedule.values(done))
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * self.schedule.rate_factor(done)
            loss, correct = self._step(inputs_of(batch), batch[1])
            loss_sum, hits, count = loss_sum + loss * len(batch[1]), hits + correct, count + len(batch[1])
        self.epoch += 1
        self.gates.load_state(self.schedule.values(self.epoch))
        self.student.eval()
        entry: dict[str, Any] = {
            "epoch": self.epoch,
            "train_loss": loss_sum / count,
            "train_accuracy": hits / count,
            "gates": self.gates.state(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.evaluate is not None:
            entry["accuracy"] = self.evaluate(self.student)
            self.student.eval()
            self._roll_back(entry)
        entry["seconds"] = time.monotonic() - started
        return entry

    def _step(self, pictures: Tensor, labels: Tensor) -> tuple[float, int]:
        mixed = self.settings.precision == "bf16-mixed"
        target = None
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=mixed):
            logits = self.student(pictures)
            if self.settings.mse_weight > 0:
                with torch.no_grad():
                    target = self.teacher(pictures)
        loss = distillation_loss(logits, labels, target, self.settings.ce_weight, self.settings.mse_weight)
        if not bool(torch.isfinite(loss.detach())):
            raise PruningError(
                f"the loss became {float(loss.detach())} in epoch {self.epoch + 1}; lower the learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for layer in self.binary:
            layer.clip_latent_()
        return float(loss.detach()), int((logits.argmax(1) == labels).sum())

    def _roll_back(self, entry: dict[str, Any]) -> None:
        """Reopen the gate whose turn just ended if the accuracy fell too far, with the weights of before."""
        name = self.schedule.judged_after(self.epoch - 1)
        limit = self.settings.max_accuracy_drop
        if name is None or limit is None or self.teacher_measure is None:
            return
        if entry["accuracy"] >= self.teacher_measure - limit:
            return
        self.schedule.kept.add(name)
        self._load_tensors(self.snapshot)
        self.gates.load_state(self.schedule.values(self.epoch))
        entry["rolled_back"] = name
        entry["gates"] = self.gates.state()

    # -- the end ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def finish(self, batches: Any) -> Recovery:
        self.student.eval()
        self.gates.load_state(self.schedule.values(self.settings.epochs))
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(self.settings.epochs)  # the same pictures for a resumed run
        if self.settings.reestimate_batches:
            reestimate_batch_norm(self.student, batches, self.settings.reestimate_batches)
        sample = inputs_of(next(iter(batches)))
        expected = self.student(sample)
        pruned = settle(self.original, self.gates).eval()
        difference = float((pruned(sample) - expected).abs().max())
        if not difference <= _ATOL * max(1.0, float(expected.abs().max())):
            raise AssertionError(f"removal changed the outputs by {difference}")
        return Recovery(
            model=pruned,
            plan=self.plan.with_kept(self.schedule.kept),
            history=self.history,
            teacher_measure=self.teacher_measure,
            measure=None if self.evaluate is None else self.evaluate(pruned),
            rolled_back=tuple(name for name in self.schedule.order if name in self.schedule.kept),
        )

    # -- state ------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """Return weights and the optimizer's state as named tensors."""
        found = {f"model.{name}": value.detach().clone() for name, value in self.student.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if value is not None:
                    found[f"optimizer.{index}.{key}"] = torch.as_tensor(value).detach().clone()
        return found

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.student.load_state_dict(
            {name[len("model.") :]: value for name, value in tensors.items() if name.startswith("model.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )

    def _asked(self) -> dict[str, Any]:
        return {
            "settings": dataclasses.asdict(self.settings),
            "order": list(self.schedule.order),
            "plan": [[entry.id, entry.action] for entry in self.plan.shortcuts],
            "weights": weights_digest(self.original),
            **self.asked,
        }

    def save(self, folder: Path) -> None:
        tensors = self._tensors() | {f"snapshot.{name}": value for name, value in self.snapshot.items()}
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        metadata = {
            "asked": json.dumps(self._asked()),
            "epoch": str(self.epoch),
            "kept": json.dumps(sorted(self.schedule.kept)),
            "history": json.dumps(self.history),
        }
        content = save({name: value.contiguous() for name, value in tensors.items()}, metadata)
        write_bytes(folder / STATE_FILE, content)

    def resume(self, folder: Path) -> None:
        from safetensors import safe_open

        path = folder / STATE_FILE
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as stream:
                metadata = stream.metadata() or {}
            tensors = load_file(path)
            asked = json.loads(metadata["asked"])
        except Exception as error:  # safetensors raises an error type of its own for a damaged file
            raise RunError(f"{path} cannot be read ({error}); delete it to start again") from None
        if asked != self._asked():
            raise RunError(
                f"{folder} holds the state of another recovery (other settings, plan, model or data); "
                "choose another folder or delete it"
            )
        self.epoch = int(metadata["epoch"])
        self.schedule.kept = set(json.loads(metadata["kept"]))
        self.history = json.loads(metadata["history"])
        torch.set_rng_state(tensors.pop("random"))
        on_gpu = tensors.pop("random.cuda", None)
        if on_gpu is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(on_gpu)
        self.snapshot = {k[len("snapshot.") :]: v for k, v in tensors.items() if k.startswith("snapshot.")}
        self._load_tensors({k: v for k, v in tensors.items() if not k.startswith("snapshot.")})
        self.gates.load_state(self.schedule.values(self.epoch))
