"""A Lightning callback that closes gates while a LightningModule of the user's own trains.

    gates = ShortcutGates(model, plan)
    module = MyModule(gates.model)          # its loss may use bitskip.pruning.distillation_loss
    trainer = L.Trainer(callbacks=[ShortcutRecovery(gates, plan, settings, monitor="val_accuracy")], ...)
    trainer.fit(module)
    pruned = settle(model, gates)

With DistributedDataParallel pass `find_unused_parameters=True`: a closed gate's projection gets no gradient.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from bitskip.errors import PruningError
from bitskip.nn.torchvision_ops import ensure_torchvision_ops
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import Plan
from bitskip.pruning.schedule import GateSchedule, RecoverySettings

ensure_torchvision_ops()
import lightning as L  # noqa: E402  (Lightning imports torchvision)


class ShortcutRecovery(L.Callback):  # type: ignore[misc]  # Lightning is untyped here
    """Sets the gates before each step; its state goes into Lightning's checkpoints.

    Args:
        gates: of the network that the LightningModule trains.
        plan: which gates close.
        settings: the schedule; its epochs must be the trainer's. Rates and losses are the module's own.
        monitor: name of the logged accuracy that the limit `max_accuracy_drop` judges.
        reference: the teacher's accuracy, which the limit is taken from.
    """

    def __init__(
        self,
        gates: ShortcutGates,
        plan: Plan,
        settings: RecoverySettings,
        monitor: str | None = None,
        reference: float | None = None,
    ) -> None:
        settings.check(len(plan.closed))
        if settings.max_accuracy_drop is not None and (monitor is None or reference is None):
            raise PruningError("a limit on the accuracy drop needs `monitor` and `reference`")
        self.gates, self.settings, self.monitor, self.reference = gates, settings, monitor, reference
        self.schedule = GateSchedule(settings, plan.closed)
        self._snapshot: dict[str, Tensor] = {}
        self._optimizers: list[dict[str, Any]] = []  # their states beside the snapshot: momenta go back too

    @property
    def rolled_back(self) -> tuple[str, ...]:
        """The shortcuts whose gates reopened."""
        return tuple(name for name in self.schedule.order if name in self.schedule.kept)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Keep the weights of before a gate's turn, in case it must be taken back."""
        if self.settings.max_accuracy_drop is not None and self.schedule.starting(trainer.current_epoch):
            state = self.gates.model.state_dict()
            self._snapshot = {name: value.detach().clone() for name, value in state.items()}
            self._optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the gates for this step."""
        done = trainer.current_epoch + batch_idx / max(1, trainer.num_training_batches)
        self.gates.load_state(self.schedule.values(done))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Judge with the gates as they stand at the epoch's end."""
        if not trainer.sanity_checking:
            self.gates.load_state(self.schedule.values(trainer.current_epoch + 1))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Settle the gates of this epoch, and reopen the one that broke the limit."""
        epoch = trainer.current_epoch
        name, limit = self.schedule.judged_after(epoch), self.settings.max_accuracy_drop
        if name is not None and limit is not None and self.reference is not None:
            measured = trainer.callback_metrics.get(self.monitor)
            if measured is None:
                raise PruningError(
                    f"'{self.monitor}' was not logged; log it or name another metric as monitor"
                )
            if float(measured) < self.reference - limit:
                self.schedule.kept.add(name)
                self.gates.model.load_state_dict(self._snapshot)
                # A checkpoint of before optimizers were kept has none of their states.
                for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=False):
                    rates = [group["lr"] for group in optimizer.param_groups]
                    optimizer.load_state_dict(copy.deepcopy(state))
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate  # the schedule does not go back
        self.gates.load_state(self.schedule.values(epoch + 1))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "kept": sorted(self.schedule.kept), "gates": self.gates.state(), "snapshot": self._snapshot,
            "optimizers": self._optimizers,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.schedule.kept = set(state_dict["kept"])
        self._snapshot = dict(state_dict["snapshot"])
        self._optimizers = list(state_dict.get("optimizers", []))
        self.gates.load_state(state_dict["gates"])
