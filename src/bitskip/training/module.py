"""The training step: one LightningModule for every recipe.

Everything that changes during training (rates, estimator shape, frozen signs, picture size) is a function
of progress = steps done / steps in all, so a resumed run continues exactly where it was.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.data.batches import Augmentation, Batches, Normalisation
from bitskip.nn import SignQuantizer, binary_layers, set_progress
from bitskip.nn.batch_norm import reestimate_batch_norm
from bitskip.nn.torchvision_ops import ensure_torchvision_ops
from bitskip.training.captured import CapturedStep, tensor_rates
from bitskip.training.guard import check_finite, check_latent_gradients, check_weights
from bitskip.training.optim import make_optimizers, real_weights, schedule_factor
from bitskip.training.recipes import Recipe

ensure_torchvision_ops()
import lightning as L  # noqa: E402  (Lightning imports torchvision)

_VALIDATION_BATCHES = 20  # at most, from which statistics are estimated before each validation
_HISTOGRAMS = 20  # of latent weights in a run, about
_CAPTURED_ARITHMETIC = {"bf16-mixed": torch.bfloat16, "32-true": None}  # Lightning's words; the others scale


class Splits:
    """The training and validation pictures of a run, as arrays."""

    def __init__(
        self, train: tuple[Any, Any], validation: tuple[Any, Any], normalisation: Normalisation
    ) -> None:
        self.train, self.validation, self.normalisation = train, validation, normalisation


class Classifier(L.LightningModule):  # type: ignore[misc]  # Lightning is untyped here
    """Trains `model` by `recipe` on `splits`.

    `history` holds one dict an epoch: epoch, train_loss, train_accuracy, validation_loss,
    validation_accuracy, learning_rate, seconds and, with 1-bit layers, sign_flip_share (the share of
    1-bit weights whose sign at the epoch's end differs from that at its start).

    Args:
        model: the network, trained in place.
        recipe: settled for this model.
        splits: the pictures.
        seed: of order and augmentation.
        teacher: network to distil from, its outputs (views, N, classes) for the training pictures and
            their mirror images, or None.
        on_epoch: called after each epoch, by the first process, with its history entry.
        compiled: run the training step's forward and backward through torch.compile.
        captured: on one GPU, run the whole training step as a CUDA graph.
        session: what the arithmetic of this session is; kept in checkpoints beside that of earlier ones.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        splits: Splits,
        seed: int = 0,
        teacher: nn.Module | Tensor | None = None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
        compiled: bool = False,
        captured: bool = True,
        session: Callable[[], dict[str, str]] = dict,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.recipe, self.splits, self.seed = model, recipe, splits, seed
        self.average = copy.deepcopy(model).requires_grad_(False) if recipe.ema else None
        # In tuples: neither the teacher nor a second handle on the network is part of this module's state.
        self._teacher = (teacher,)
        self._network = (torch.compile(model, dynamic=False) if compiled else model,)
        self.history: list[dict[str, Any]] = []
        self.on_epoch = on_epoch
        self.session = session
        self.earlier_sessions: list[dict[str, str]] = []
        self._layers = binary_layers(model)
        for network in (model, self.average):
            for layer in binary_layers(network).values() if network is not None else ():
                layer.standardise = recipe.latent.standardise
        self._signs: dict[str, Tensor] = {}
        self._sums = torch.zeros(3)  # loss, correct, count
        self._bad = torch.full((1,), -1)  # the first step whose loss was not finite
        self._wants_capture = captured
        self._captured: CapturedStep | None = None
        self._checked_stage: Any = None
        self.checkpoint = Path()  # the last good one, for messages
        self._epoch_started = 0.0
        self._batches: Batches | None = None
        self._plain: Batches | None = None  # for statistics before a validation
        self.estimated_from = 0  # batches that batch norm's statistics are of, if no step was made since

    @property
    def delivered(self) -> nn.Module:
        """The network that is evaluated and saved: the averaged one if the recipe averages."""
        return self.model if self.average is None else self.average

    # -- data -----------------------------------------------------------------------------------------

    def train_dataloader(self) -> Batches | _Numbers:
        """Return the augmented training batches of this process."""
        how = self.recipe.augmentation
        self._batches = Batches(
            *self.splits.train,
            self.splits.normalisation,
            self.recipe.batch_size,
            Augmentation(how.crop, how.padding, how.flip, how.cutout, how.jpeg),
            seed=self.seed,
            device=self.device,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        self._batches.sizes = lambda index: self.recipe.picture_size(self._progress(index))
        if isinstance(self._teacher[0], Tensor):
            self._batches.targets = self._teacher[0].to(self.device)
        return _Numbers(self._batches) if self._captures() else self._batches

    def _captures(self) -> bool:
        """Whether the whole step runs as a CUDA graph: on one GPU, without what must decide on the host."""
        return (
            self._wants_capture
            and self.device.type == "cuda"
            and self.trainer.world_size == 1
            and str(self.trainer.precision) in _CAPTURED_ARITHMETIC
            and not (self._layers and self.recipe.latent.optimizer == "bop")
        )

    def val_dataloader(self) -> Batches | list[Any]:
        """Return the validation batches of this process, or none."""
        if len(self.splits.validation[0]) == 0:
            return []
        return Batches(
            *self.splits.validation,
            self.splits.normalisation,
            self.recipe.batch_size if self.device.type == "cpu" else 4 * self.recipe.batch_size,
            device=self.device,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    # -- training -------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the recipe's optimizers."""
        return make_optimizers(self.model, self.recipe)

    def on_train_start(self) -> None:
        """Prepare the step as a CUDA graph, where that can be done."""
        if not self._captures() or self._batches is None:
            return
        self._autocast = _CAPTURED_ARITHMETIC[str(self.trainer.precision)]
        optimizers = [getattr(wrapped, "optimizer", wrapped) for wrapped in self._optimizers()]
        tensor_rates(optimizers, self.device)
        steps = self.recipe.epochs * len(self._batches)
        networks = [self.model] if self.average is None else [self.model, self.average]
        self._captured = CapturedStep(
            self._batches,
            self._compute_captured,
            optimizers,
            lambda: [value for network in networks for value in (*network.parameters(), *network.buffers())],
            [schedule_factor(self.recipe, step / steps) for step in range(steps)],
            [1 - self._decay(step) for step in range(steps)],
            lambda: check_latent_gradients(self._layers),
        )

    def _optimizers(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _progress(self, batch_index: int) -> float:
        steps = len(self._batches or [])
        done = int(self.current_epoch) * steps + batch_index
        return done / (self.recipe.epochs * steps)

    def on_train_epoch_start(self) -> None:
        """Note the time and the signs, and begin the epoch's own random numbers."""
        self._epoch_started = time.monotonic()
        # Dropout's coins: of the epoch, so that a resumed run draws what an unbroken one would have drawn.
        torch.manual_seed(_mixed(self.seed, self.current_epoch, self.trainer.global_rank))
        self._sums = torch.zeros(3, device=self.device)
        self._bad = torch.full((1,), -1, device=self.device)
        self._signs = {name: layer.latent().detach() >= 0 for name, layer in self._layers.items()}
        if self._batches is not None:  # its generator has not begun: Lightning only calls iter() before this
            self._batches.set_epoch(self.current_epoch)
        teacher = self._teacher[0]
        if isinstance(teacher, nn.Module):
            teacher.to(self.device).eval()
        if self._captured is not None:
            self._captured.begin_epoch(self.current_epoch)

    def training_step(self, batch: tuple[Tensor, ...] | int, batch_index: int) -> None:
        """Do one step of every optimizer."""
        self.estimated_from = 0
        progress = self._progress(batch_index)
        stage = self._set_stage(progress)
        if self._captured is not None:
            self._captured.batches.size = self.recipe.picture_size(progress)  # which a capture reads
            self._captured.run(stage)
            return
        assert not isinstance(batch, int)
        set_progress(self.model, progress)
        factor = schedule_factor(self.recipe, progress)
        optimizers = self._optimizers()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        loss, correct = self._step(batch, optimizers, self.manual_backward)
        step = round(progress * self.recipe.epochs * len(self._batches or []))
        self._update_average(1 - self._decay(step))
        if stage != self._checked_stage:
            check_latent_gradients(self._layers)
            self._checked_stage = stage
        count = len(batch[1])
        with torch.no_grad():
            self._sums += torch.stack([loss * count, correct, torch.tensor(count).to(correct)])
            self._bad = torch.where((self._bad < 0) & ~torch.isfinite(loss), step, self._bad)
        if self.device.type == "cpu" or batch_index % 50 == 0:
            self._check_finite()
        if batch_index % 20 == 0:
            self.log("accuracy", self._sums[1] / self._sums[2], prog_bar=True)

    def _step(
        self, batch: tuple[Tensor, ...], optimizers: list[Any], backward: Callable[[Tensor], Any]
    ) -> tuple[Tensor, Tensor]:
        """Forward, backward, step and clip; return the loss and how many answers were right, both ()."""
        pictures, labels = batch[:2]
        logits = self._network[0](pictures)
        loss = self._loss(logits, labels, self._taught(*batch))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        backward(loss)
        for layer in self._layers.values():
            if layer.frozen:  # no step, whatever else reaches the latent weights: a scale, L1, momentum
                layer.weight.grad = None
        for optimizer in optimizers:
            optimizer.step()
        for layer in self._layers.values():
            layer.clip_latent_(self.recipe.latent.clip)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _compute_captured(
        self, batch: tuple[Tensor, ...], share: Tensor, progress: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """Do a step without waiting for the device; see `CapturedStep`."""
        with torch.no_grad():
            for module in self.model.modules():
                if isinstance(module, SignQuantizer):
                    module.progress.copy_(progress)
        optimizers = self._captured.optimizers if self._captured is not None else []
        # Without its cache of cast weights, which a graph would take for constants.
        enabled = self._autocast is not None
        with torch.autocast("cuda", self._autocast or torch.bfloat16, enabled=enabled, cache_enabled=False):
            loss, correct = self._step(batch, list(optimizers), torch.Tensor.backward)
        self._update_average(share)
        return loss, correct, len(batch[1])

    def _check_finite(self) -> None:
        bad = self._bad if self._captured is None else self._captured.bad
        check_finite(int(bad), len(self._batches or []), self.checkpoint)

    def _set_stage(self, progress: float) -> tuple[Any, ...]:
        """Set what holds for a while, and return it: picture size, frozen signs, real weights."""
        frozen = progress >= 1 - self.recipe.latent.freeze and self.recipe.latent.freeze > 0
        real = progress < self.recipe.real_weights
        for layer in self._layers.values():
            layer.frozen, layer.real_weights = frozen, real
        size = self.recipe.picture_size(progress)
        return (size, frozen, real) if self._layers else (size,)

    @torch.no_grad()
    def _taught(self, pictures: Tensor, labels: Tensor, outputs: Tensor | None = None) -> Tensor | None:
        """Return the teacher's logits, if there is one: those that came with the batch, or by asking it."""
        teacher = self._teacher[0]
        return teacher(pictures).float() if isinstance(teacher, nn.Module) else outputs

    def _loss(self, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        how = self.recipe.distillation
        if taught is not None and how.weight > 0:
            target = F.log_softmax(taught / how.temperature, 1)
            student = F.log_softmax(logits / how.temperature, 1)
            soft = F.kl_div(student, target, reduction="batchmean", log_target=True) * how.temperature**2
            loss = (1 - how.weight) * loss + how.weight * soft
        if self.recipe.l1:
            weights = [*real_weights(self.model), *(layer.weight for layer in self._layers.values())]
            loss = loss + self.recipe.l1 * torch.stack([w.abs().sum() for w in weights]).sum()
        return loss

    def _decay(self, step: int) -> float:
        """Return the average's decay: in the first steps small, so that the random start is forgotten."""
        return min(self.recipe.ema, (1 + step) / (10 + step))

    @torch.no_grad()
    def _update_average(self, share: Tensor | float) -> None:
        """Move the averaged weights on by `share` of the way to the present ones."""
        if self.average is None:
            return
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        means = [mean for mean, _ in pairs if mean.is_floating_point()]
        values = [value for mean, value in pairs if mean.is_floating_point()]
        if isinstance(share, Tensor):
            steps = torch._foreach_sub(values, means)
            torch._foreach_mul_(steps, share)
            torch._foreach_add_(means, steps)
        else:
            torch._foreach_lerp_(means, values, share)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def on_train_epoch_end(self) -> None:
        """Add the training figures to the epoch's history entry (validation has run by now)."""
        self._check_finite()
        check_weights(self.model, self.current_epoch + 1, self.checkpoint)
        if self._captured is not None:
            self._sums = self._captured.sums.clone()
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        validation = self.history.pop() if self.history and "train_loss" not in self.history[-1] else {}
        entry = {
            "epoch": self.current_epoch + 1,
            "train_loss": sums[0] / sums[2],
            "train_accuracy": sums[1] / sums[2],
            **validation,
            "learning_rate": float(self._optimizers()[0].param_groups[0]["lr"]),
            "seconds": time.monotonic() - self._epoch_started,
        }
        if self._signs:
            changed = [
                ((layer.latent().detach() >= 0) != self._signs[name]).sum()
                for name, layer in self._layers.items()
            ]
            flipped = int(torch.stack(changed).sum())
            entry["sign_flip_share"] = flipped / sum(s.numel() for s in self._signs.values())
        self.history.append(entry)
        for key in ("train_loss", "train_accuracy", "sign_flip_share"):
            if key in entry:
                self.log(key, entry[key])
        if self.trainer.is_global_zero:
            if self.current_epoch % max(1, self.recipe.epochs // _HISTOGRAMS) == 0:
                self._draw_latents()
            self.on_epoch(entry)

    def _draw_latents(self) -> None:
        """Give TensorBoard a histogram of each 1-bit layer's latent weights; those near 0 flip."""
        from lightning.pytorch.loggers import TensorBoardLogger

        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, layer in self._layers.items():
                    values = layer.weight.detach().float()
                    logger.experiment.add_histogram(f"latent/{name}", values, self.current_epoch)

    # -- validation -----------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start counting, with batch norm's statistics as fresh as they will be when the network is tested.

        After few steps, or after steps that flipped signs, the running ones are those of another network.
        """
        self._validation = torch.zeros(3, device=self.device)
        count = min(self.recipe.reestimate_batches, _VALIDATION_BATCHES)
        if count:
            if self._plain is None:
                self._plain = plain_batches(self.splits, self.recipe, self.seed, self.device)
            found = reestimate_batch_norm(self.delivered, self._plain, count)
            real = any(layer.real_weights for layer in binary_layers(self.delivered).values())
            self.estimated_from = 0 if real else found

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Add up loss and hits of one batch."""
        pictures, labels = batch
        logits = self.delivered(pictures).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        hits = (logits.argmax(1) == labels).sum()
        self._validation += torch.stack([loss, hits, torch.tensor(len(labels)).to(hits)])

    def on_validation_epoch_end(self) -> None:
        """Put the validation figures where `on_train_epoch_end` finds them."""
        if self.trainer.sanity_checking:
            return
        sums = self.trainer.strategy.reduce(self._validation, reduce_op="sum")
        figures = {
            "validation_loss": float(sums[0] / sums[2]),
            "validation_accuracy": float(sums[1] / sums[2]),
        }
        self.history.append(figures)
        for key, value in figures.items():
            self.log(key, value, prog_bar=key == "validation_accuracy")

    # -- checkpoints ----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history
        checkpoint["sessions"] = [*self.earlier_sessions, self.session()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = list(checkpoint["history"])
        self.earlier_sessions = list(checkpoint.get("sessions", []))


def plain_batches(splits: Splits, recipe: Recipe, seed: int, device: torch.device) -> Batches:
    """Return training batches to estimate batch norm's statistics from: nothing is blanked out."""
    how = recipe.augmentation
    return Batches(
        *splits.train,
        splits.normalisation,
        recipe.batch_size,
        Augmentation(how.crop, how.padding, how.flip, 0, how.jpeg),
        seed=seed + 1,
        device=device,
    )


class _Numbers:
    """The numbers of an epoch's steps, for a training whose batches are made inside the step."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.batches)))


def _mixed(*numbers: int) -> int:
    """Return one seed that depends on all of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
