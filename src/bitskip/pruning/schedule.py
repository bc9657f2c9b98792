"""When gates close, and what the student learns from meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitskip.errors import PruningError, check_one_of

SCHEDULES = ("one_shot", "gradual", "together")
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class RecoverySettings:
    """How a network gets its accuracy back. Times are epochs."""

    schedule: str = "gradual"  # one_shot: closed at once; gradual: one after another; together: all fade
    epochs: int = 20  # in all
    interval: float = 1  # gradual: from the start of one gate's fade to the next one's
    fade: float = 1.0  # how long a gate takes from 1 to 0, linearly
    learning_rate: float = 0.01  # until the last gate is closed; then linearly to 0
    momentum: float = 0.9  # Nesterov momentum of the default optimizer
    weight_decay: float = 5e-4  # of the default optimizer, on weights of two dimensions or more
    ce_weight: float = 0.65  # share of the labels' cross-entropy (Tailor, Weng et al. 2023)
    mse_weight: float = 0.35  # share of the squared distance to the teacher's logits; 0 for no teacher
    max_accuracy_drop: float | None = None  # gradual: a gate that drops further below the teacher reopens
    reestimate_batches: int = 100  # for batch norm at the end
    precision: str = "32-true"  # arithmetic of forward passes: 32-true, or bf16-mixed (autocast)

    def __post_init__(self) -> None:
        check_one_of(self.schedule, SCHEDULES, "unknown schedule", PruningError)
        check_one_of(self.precision, PRECISIONS, "unknown precision", PruningError)
        if self.epochs < 1:
            raise PruningError(f"epochs is {self.epochs}, expected at least 1")
        if self.learning_rate <= 0:
            raise PruningError(f"learning_rate is {self.learning_rate:g}, expected more than 0")
        for name in ("ce_weight", "mse_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise PruningError(f"{name} is {getattr(self, name):g}, expected a share, 0 to 1")
        if self.interval <= 0:
            raise PruningError(f"interval is {self.interval:g} epochs, expected more than 0")
        if self.fade < 0 or (self.schedule == "gradual" and self.fade > self.interval):
            raise PruningError(
                f"fade is {self.fade:g} epochs, expected 0 to {self.interval:g} (the interval between gates)"
            )
        if self.max_accuracy_drop is not None and self.schedule != "gradual":
            raise PruningError(
                f"a limit on the accuracy drop needs the gradual schedule, not '{self.schedule}': only there "
                "is it one gate that broke it"
            )
        if self.max_accuracy_drop is not None and self.interval != int(self.interval):
            raise PruningError(
                f"a limit on the accuracy drop is judged after whole epochs; interval is {self.interval:g}, "
                "expected a whole number"
            )

    def closed_after(self, gates: int) -> float:
        """Return the epochs after which the last of `gates` gates is closed."""
        match self.schedule:
            case "one_shot":
                return 0.0
            case "together":
                return self.fade
            case _:
                return max(0, gates - 1) * self.interval + self.fade if gates else 0.0

    def check(self, gates: int) -> None:
        """Raise PruningError if the gates cannot all close within the epochs."""
        needed = gates * self.interval if self.schedule == "gradual" else self.closed_after(gates)
        if needed > self.epochs + 1e-9:  # sixths of an epoch do not add up exactly
            raise PruningError(
                f"{gates} gates need {needed:g} epochs to close, but there are {self.epochs}; "
                "raise epochs, or lower interval or fade"
            )


@dataclass
class GateSchedule:
    """The value of every gate as a function of the epochs done, so that a resumed run goes on exactly."""

    settings: RecoverySettings
    order: tuple[str, ...]  # gates in the order they close
    kept: set[str] = field(default_factory=set)  # gates that reopened for good

    def values(self, epochs_done: float) -> dict[str, float]:
        """Return the gates' values after that many epochs (a fraction within an epoch)."""
        return {
            name: 1.0 if name in self.kept else self._value(at, epochs_done)
            for at, name in enumerate(self.order)
        }

    def _value(self, at: int, epochs_done: float) -> float:
        settings = self.settings
        if settings.schedule == "one_shot":
            return 0.0
        start = at * settings.interval if settings.schedule == "gradual" else 0
        if settings.fade == 0:
            return 1.0 if epochs_done < start else 0.0
        value = 1.0 - (epochs_done - start) / settings.fade
        return min(1.0, value) if value > 1e-6 else 0.0  # parts of an epoch do not add up exactly

    def starting(self, epoch: int) -> str | None:
        """Return the gate whose fade begins with this epoch (from 0), in the gradual schedule."""
        return self._turn(epoch)

    def judged_after(self, epoch: int) -> str | None:
        """Return the gate whose turn ends with this epoch (from 0), in the gradual schedule."""
        return self._turn(epoch + 1 - int(self.settings.interval))

    def _turn(self, epoch: int) -> str | None:
        interval = int(self.settings.interval)
        if self.settings.schedule != "gradual" or interval != self.settings.interval:
            return None  # turns do not end with epochs
        if epoch < 0 or epoch % interval:
            return None
        at = epoch // interval
        return self.order[at] if at < len(self.order) else None

    def rate_factor(self, epochs_done: float) -> float:
        """Return the learning rate as a share of its peak: 1 until all gates are closed, then to 0."""
        closed = self.settings.closed_after(len(self.order))
        if epochs_done <= closed or closed >= self.settings.epochs:
            return 1.0
        return (self.settings.epochs - epochs_done) / (self.settings.epochs - closed)


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    ce_weight: float = 0.65,
    mse_weight: float = 0.35,
) -> Tensor:
    """Return ce_weight * CE(logits, labels) + mse_weight * MSE(logits, teacher_logits), in float32.

    Weng et al. 2023, "Tailor" (arXiv 2301.07247), with its 0.65 and 0.35. Without a teacher: CE alone.

    Args:
        logits: (N, classes).
        labels: (N,), int64.
        teacher_logits: (N, classes), or None.
        ce_weight: share of the cross-entropy.
        mse_weight: share of the squared distance.
    """
    loss = F.cross_entropy(logits.float(), labels)
    if teacher_logits is None or mse_weight == 0:
        return loss
    return ce_weight * loss + mse_weight * F.mse_loss(logits.float(), teacher_logits.detach().float())


def decayed_groups(parameters: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups with decay on weights of two dimensions or more, and none elsewhere."""
    every: list[torch.nn.Parameter] = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
