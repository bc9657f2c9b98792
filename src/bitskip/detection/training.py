"""Training a detector, its backbone first as a classifier, and again while shortcuts close."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.detection.composites import Composites, Target
from bitskip.detection.state import EVERY, TrainingState
from bitskip.errors import RunError
from bitskip.nn import binary_layers
from bitskip.pruning import Plan, ShortcutGates, settle
from bitskip.pruning.plan import weights_digest

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class DetectorTraining:
    """How long and how fast. The rate rises over `warmup` and falls to 0 along a cosine."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3  # peak, of AdamW
    weight_decay: float = 1e-3  # on weights of two dimensions or more
    warmup: float = 0.05  # share of the training
    seconds: float | None = None  # stop here at the latest, with the schedule brought to its end by then
    mixed: bool = False  # forward passes in bfloat16
    teacher_weight: float = 1.0  # of the distance to a teacher's maps, where there is a teacher
    fade: float = 0.3  # share of the training over which closing gates close
    clip: float = 5.0  # largest norm of the gradient

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise RunError(f"steps is {self.steps} and batch_size {self.batch_size}, expected at least 1")
        if not 0 < self.fade <= 1 or not 0 <= self.warmup < 1:
            raise RunError(f"fade is {self.fade} and warmup {self.warmup}, expected shares, 0 to 1")

    def rate(self, progress: float) -> float:
        """Return the factor on the peak rate at a share of the training, 0..1."""
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


def train_backbone(
    classifier: nn.Module,
    data: Composites,
    settings: DetectorTraining,
    side: int = 96,
    report: Report = lambda entry: None,
    state: Path | None = None,
) -> None:
    """Train a classifier of single objects, in place; see `bitskip.detection.networks.classifier_of`.

    Pictures are normalised with ImageNet's figures, as torchvision's detectors do.

    Args:
        classifier: on the data's device.
        data: whose `crops` it is trained on.
        settings: how long.
        side: height = width of the pictures, in pixels.
        report: called every 50 steps with step, loss, accuracy and seconds; first where a state stopped.
        state: file that keeps the state each minute and at the end; a state found there is taken up.

    Raises:
        RunError: if the loss is not finite, or the state is damaged or of another training.
    """
    mean = torch.tensor((0.485, 0.456, 0.406), device=data.device).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225), device=data.device).view(1, 3, 1, 1)

    def loss_of(step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, labels = data.crops(step, settings.batch_size, side)
        pictures = ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)
        logits = classifier(pictures).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        return loss, {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    classifier.train()
    _loop(classifier, loss_of, settings, data.device, report, state)
    classifier.eval()


def train_detector(
    detector: nn.Module,
    data: Composites,
    settings: DetectorTraining,
    *,
    teacher: nn.Module | None = None,
    gates: ShortcutGates | None = None,
    closing: Sequence[str] = (),
    report: Report = lambda entry: None,
    state: Path | None = None,
) -> None:
    """Train a detector with its own loss, in place.

    Args:
        detector: of torchvision's kinds, on the data's device.
        data: endless pictures with boxes.
        settings: how long.
        teacher: a detector with maps of the same shapes, whose maps are followed too; never changed.
        gates: of `detector`.
        closing: which of them close, one after another over the first `fade` of the training.
        report: called every 50 steps with step, loss, its parts and seconds.
        state: file that keeps the state each minute and at the end; a state found there is taken up.

    Raises:
        RunError: if the loss is not finite, or the state is damaged or of another training.
    """
    maps: dict[str, Any] = {}
    hook = None
    if teacher is not None:
        teacher.eval().requires_grad_(False)
        hook = detector.get_submodule("backbone").register_forward_hook(
            lambda module, inputs, output: maps.update(inputs=inputs[0], output=output)
        )

    def loss_of(step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if gates is not None:
            gates.load_state(_values(closing, progress / settings.fade))
        pictures, targets = data.batch(step, settings.batch_size)
        parts = detector(list(pictures), _own(targets))
        if teacher is not None and settings.teacher_weight > 0:
            parts["teacher"] = settings.teacher_weight * _distance(teacher, maps)
        loss = torch.stack([part.float() for part in parts.values()]).sum()
        return loss, {name: part.detach() for name, part in parts.items()}

    detector.train()
    try:
        _loop(detector, loss_of, settings, data.device, report, state)
    finally:
        if hook is not None:
            hook.remove()
    if gates is not None:
        gates.load_state(_values(closing, 1.0))
    detector.eval()


def recover_detector(
    detector: nn.Module,
    plan: Plan,
    data: Composites,
    settings: DetectorTraining,
    *,
    teacher: nn.Module | None = None,
    report: Report = lambda entry: None,
    state: Path | None = None,
) -> nn.Module:
    """Close the plan's gates while the detector trains with its own loss, and return it without them.

    Args:
        detector: trained; left as it is.
        plan: of it.
        data: pictures with boxes.
        settings: how long.
        teacher: whose maps are followed; None for the detector as it is.
        report: as for `train_detector`.
        state: as for `train_detector`.

    Raises:
        PruningError: if the plan is for another model.
        RunError: as for `train_detector`.
    """
    teacher = copy.deepcopy(detector) if teacher is None else teacher
    gates = ShortcutGates(detector, plan)
    train_detector(
        gates.model,
        data,
        settings,
        teacher=teacher,
        gates=gates,
        closing=plan.closed,
        report=report,
        state=state,
    )
    return settle(detector, gates).eval()


# -- the pieces -----------------------------------------------------------------------------------------


def _loop(
    model: nn.Module,
    loss_of: Callable[[int, float], tuple[Tensor, dict[str, Tensor]]],
    settings: DetectorTraining,
    device: torch.device,
    report: Report,
    path: Path | None,
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        fused=device.type == "cuda",
    )
    binary = list(binary_layers(model).values())
    kept = None if path is None else TrainingState(path, _asked(model, settings))
    first, spent, entry = (0, 0.0, dict[str, float]()) if kept is None else kept.load(model, optimizer)
    if entry:
        report(entry)  # where it stopped: all there is to say of a training that was over
    started = saved = time.monotonic() - spent
    done = first
    for step, progress in _progress(settings, first, started):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(progress)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed):
            loss, parts = loss_of(step, progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        if bool(torch.isfinite(norm)):  # a batch that overflows is left out
            optimizer.step()
            for layer in binary:
                layer.clip_latent_()
        if step % 50 == 0 or step == settings.steps - 1:
            values = {name: float(part) for name, part in parts.items()}
            entry = {"step": step, "loss": float(loss.detach()), "seconds": time.monotonic() - started}
            entry |= values
            report(entry)
            if not math.isfinite(float(loss.detach())):
                raise RunError(
                    f"the loss became {float(loss.detach())} in step {step}; lower the learning rate"
                )
        done = step + 1
        if kept is not None and time.monotonic() - saved > EVERY:
            saved = time.monotonic()
            kept.save(model, optimizer, done, saved - started, entry)
    if kept is not None and done > first:
        kept.save(model, optimizer, done, time.monotonic() - started, entry)


def _asked(model: nn.Module, settings: DetectorTraining) -> dict[str, Any]:
    """Return what a kept state must have been started with."""
    return {"settings": asdict(settings), "weights": weights_digest(model)}


def _progress(settings: DetectorTraining, first: int, started: float) -> Iterator[tuple[int, float]]:
    """Yield steps and the share of the training done, by steps or by time, whichever is further."""
    for step in range(first, settings.steps):
        progress = step / settings.steps
        if settings.seconds is not None:
            progress = max(progress, (time.monotonic() - started) / settings.seconds)
            if progress >= 1:
                return
        yield step, progress


def _values(names: Sequence[str], share: float) -> dict[str, float]:
    """Return gate values when a share of the fade has passed: each closes in its turn, input side first."""
    count = max(len(names), 1)
    return {name: 1.0 - min(max(share * count - at, 0.0), 1.0) for at, name in enumerate(names)}


def _own(targets: list[Target]) -> list[Target]:
    return [{"boxes": target["boxes"], "labels": target["labels"]} for target in targets]


def _distance(teacher: nn.Module, maps: dict[str, Any]) -> Tensor:
    """Return the mean squared distance of the maps to the teacher's, relative to the teacher's variance."""
    with torch.no_grad():
        wanted = teacher.get_submodule("backbone")(maps["inputs"])
    distances = [
        F.mse_loss(maps["output"][name].float(), value.float()) / value.float().var().clamp_min(1e-6)
        for name, value in wanted.items()
    ]
    return torch.stack(distances).mean()
