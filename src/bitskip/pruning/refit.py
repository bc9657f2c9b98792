"""Recovery without training: let a block's last convolution imitate the sum that its shortcut made.

For a block y = main(x) + skip(x) whose skip goes, the last convolution's weights and its batch norm are
solved for so that main(x) is as close as possible to the teacher's y, on the student's own features:

    min_W  || X W - Y ||^2 + lambda || W - W0 ||^2,   (X'X + lambda I) W = X'Y + lambda W0

with X the patches that the convolution reads, Y the teacher's sum, W0 what stood there (ridge regression
towards the old weights; the intercept, which the batch norm holds, is free). A 1-bit convolution cannot take
real weights, so there only its batch norm is set, to the teacher's mean and deviation per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.nn.batch_norm import inputs_of, reestimate_batch_norm
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import Plan
from bitskip.pruning.remove import settle
from bitskip.pruning.shortcut import Analysis, Shortcut

_ROWS_A_BATCH = 8192  # patches taken of each batch: enough for 4,608 unknowns a filter within few batches
_CHUNK = 16  # pictures unfolded at once, which bounds memory


@dataclass(frozen=True)
class ZeroTraining:
    """A model pruned without training, and what each step gave.

    `measures` holds what `evaluate` returned: `teacher`, `closed` (all gates closed, nothing else done),
    `batch_norm` (and statistics re-estimated), `refit` (blocks refit, then statistics re-estimated).
    """

    model: nn.Module
    measures: dict[str, float]
    refit: dict[str, str]  # shortcut id to what was done: ridge, statistics, or why nothing


def prune_without_training(
    model: nn.Module,
    plan: Plan,
    analysis: Analysis,
    batches: Iterable[Any],
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    ridge: float = 1e-3,
    max_batches: int = 20,
) -> ZeroTraining:
    """Carry out a plan, refitting each block in the order they run, and re-estimate batch norm.

    Args:
        model: the trained network, left as it is; it is the teacher.
        plan: of it.
        analysis: of it.
        batches: pictures (labels are not used), iterated several times.
        evaluate: returns one figure of a network, such as its accuracy; None reports none.
        ridge: lambda as a share of the patches' mean square.
        max_batches: batches to fit and to re-estimate on.
    """
    measures: dict[str, float] = {}

    def note(name: str, network: nn.Module) -> None:
        if evaluate is not None:
            measures[name] = evaluate(network)

    teacher = ShortcutGates(model, plan)
    teacher.model.eval()
    student = ShortcutGates(model, plan)
    student.model.eval()
    note("teacher", teacher.model)
    if evaluate is not None:
        for name in plan.closed:
            student.set(name, 0.0)
        note("closed", student.model)
        reestimate_batch_norm(student.model, batches, max_batches)
        note("batch_norm", student.model)
        student = ShortcutGates(model, plan)
        student.model.eval()
    known = analysis.by_id()
    done: dict[str, str] = {}
    for name in plan.closed:
        student.set(name, 0.0)
        # Statistics of layers before this one changed with the blocks before it.
        reestimate_batch_norm(student.model, batches, max_batches)
        if name in plan.ids("shorten"):
            done[name] = "none: it is shortened, not removed"
            continue
        done[name] = refit_block(teacher, student, known[name], batches, ridge=ridge, max_batches=max_batches)
    reestimate_batch_norm(student.model, batches, max_batches)
    note("refit", student.model)
    return ZeroTraining(settle(model, student), measures, done)


@torch.no_grad()
def refit_block(
    teacher: ShortcutGates,
    student: ShortcutGates,
    shortcut: Shortcut,
    batches: Iterable[Any],
    *,
    ridge: float = 1e-3,
    max_batches: int = 20,
) -> str:
    """Refit one block of the student, whose gate is closed, to the teacher's sum; returns what was done.

    `ridge` (last convolution solved for), `statistics` (batch norm set only), or `none: <why>`.
    """
    if shortcut.last_conv is None:
        return "none: its main path does not end in a convolution with batch norm"
    conv: Any = student.model.get_submodule(shortcut.last_conv)
    norm: Any = None if shortcut.last_norm is None else student.model.get_submodule(shortcut.last_norm)
    if isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        _ridge(teacher, student, shortcut.id, conv, norm, batches, ridge, max_batches)
        return "ridge"
    if norm is None or getattr(norm, "weight", None) is None:
        return "none: its last convolution cannot be solved for and no batch norm follows it"
    _match_statistics(teacher, student, shortcut.id, norm, batches, max_batches)
    return "statistics"


class _Tap:
    """What a module read or wrote last; a copy, since an in-place activation may follow."""

    value: Tensor

    def read(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.value = args[0].clone()

    def write(self, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        self.value = out.clone()


@contextmanager
def _tapping(sources: list[tuple[nn.Module, str]]) -> Iterator[list[_Tap]]:
    taps, hooks = [], []
    for module, what in sources:
        tap = _Tap()
        taps.append(tap)
        hooks.append(
            module.register_forward_pre_hook(tap.read)
            if what == "input"
            else module.register_forward_hook(tap.write)
        )
    try:
        yield taps
    finally:
        for hook in hooks:
            hook.remove()


def _ridge(
    teacher: ShortcutGates,
    student: ShortcutGates,
    name: str,
    conv: nn.Conv2d,
    norm: Any,
    batches: Iterable[Any],
    ridge: float,
    max_batches: int,
) -> None:
    groups = conv.groups
    unknowns = conv.weight[0].numel()
    outputs = conv.out_channels // groups
    free = norm is not None or conv.bias is not None  # whether an intercept has a place to go
    size = unknowns + int(free)
    exact: Any = {"dtype": torch.float64, "device": conv.weight.device}
    gram = torch.zeros(groups, size, size, **exact)
    cross = torch.zeros(groups, size, outputs, **exact)
    generator = torch.Generator().manual_seed(0)
    with _tapping([(conv, "input"), (teacher.gate(name), "output")]) as (features, sums):
        for batch in islice(batches, max_batches):
            pictures = inputs_of(batch)
            student.model(pictures)
            teacher.model(pictures)
            for x, y in _rows(features.value, sums.value, conv, generator):
                patches = x.view(len(x), groups, unknowns).transpose(0, 1).double()  # (G, R, K)
                if free:
                    patches = F.pad(patches, (0, 1), value=1.0)
                wanted = y.view(len(y), groups, outputs).transpose(0, 1).double()  # (G, R, out / G)
                gram += patches.transpose(1, 2) @ patches
                cross += patches.transpose(1, 2) @ wanted
    old = _effective(conv, norm)  # (G, K [+ 1], out / G)
    old = old if free else old[:, :unknowns]
    strength = ridge * gram[:, :unknowns, :unknowns].diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    penalty = torch.diag_embed(strength.view(-1, 1).expand(-1, size).clone())
    if free:
        penalty[:, -1, -1] = strength * 1e-6
    solved = torch.linalg.solve(gram + penalty, cross + penalty @ old)
    weight = solved[:, :unknowns].transpose(1, 2).reshape(conv.weight.shape)
    intercept = (
        solved[:, -1].reshape(-1) if free else conv.weight.new_zeros(conv.out_channels, dtype=torch.float64)
    )
    conv.weight.copy_(weight)
    if norm is None:
        if conv.bias is not None:
            conv.bias.copy_(intercept)
        return
    if conv.bias is not None:
        conv.bias.zero_()
    _neutral_norm(student, conv, norm, intercept, batches, max_batches)


def _rows(
    features: Tensor, sums: Tensor, conv: nn.Conv2d, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield patches (rows, C k k) and the sums (rows, out) at the same random positions."""
    positions = sums.shape[2] * sums.shape[3]
    each = max(1, min(positions, -(-_ROWS_A_BATCH // len(features))))
    for start in range(0, len(features), _CHUNK):
        part = features[start : start + _CHUNK].float()
        padding: Any = conv.padding
        patches = F.unfold(part, conv.kernel_size, conv.dilation, padding, conv.stride)  # (B, K, L)
        chosen = torch.randperm(positions, generator=generator)[:each]
        wanted = sums[start : start + _CHUNK].float().flatten(2)  # (B, out, L)
        yield (
            patches[:, :, chosen].transpose(1, 2).flatten(0, 1),
            wanted[:, :, chosen].transpose(1, 2).flatten(0, 1),
        )


def _effective(conv: nn.Conv2d, norm: Any) -> Tensor:
    """Return weights and intercept of convolution and batch norm together, (G, K + 1, out / G), float64."""
    weight = conv.weight.detach().flatten(1).double()
    bias = (
        conv.weight.new_zeros(conv.out_channels, dtype=torch.float64)
        if conv.bias is None
        else conv.bias.detach().double()
    )
    if norm is not None:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().double()
        offset = 0 if norm.bias is None else norm.bias.detach().double()
        weight, bias = weight * scale.view(-1, 1), (bias - norm.running_mean.double()) * scale + offset
    both = torch.cat([weight, bias.view(-1, 1)], 1)  # (out, K + 1)
    return both.view(conv.groups, conv.out_channels // conv.groups, -1).transpose(1, 2)


def _neutral_norm(
    student: ShortcutGates, conv: nn.Conv2d, norm: Any, intercept: Tensor, batches: Iterable[Any], limit: int
) -> None:
    """Set the batch norm to y = x + intercept, with the true statistics of its input."""
    mean, variance = _channel_statistics([conv], student, batches, limit)[0]
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    if norm.weight is not None:
        norm.weight.copy_((variance + norm.eps).sqrt())
    if norm.bias is not None:
        norm.bias.copy_(mean + intercept)


def _channel_statistics(
    modules: list[nn.Module], gates: ShortcutGates, batches: Iterable[Any], limit: int
) -> list[tuple[Tensor, Tensor]]:
    """Return mean and variance per channel of what the modules write, float64."""
    sums: list[list[Any]] = [[0.0, 0.0] for _ in modules]
    count = [0] * len(modules)
    with _tapping([(module, "output") for module in modules]) as taps:
        for batch in islice(batches, limit):
            gates.model(inputs_of(batch))
            for at, tap in enumerate(taps):
                value = tap.value.double()
                sums[at][0] = sums[at][0] + value.sum((0, 2, 3))
                sums[at][1] = sums[at][1] + value.square().sum((0, 2, 3))
                count[at] += value.numel() // value.shape[1]
    found = []
    for (first, second), number in zip(sums, count, strict=True):
        mean = first / number
        found.append((mean, (second / number - mean.square()).clamp_min(0)))
    return found


def _match_statistics(
    teacher: ShortcutGates, student: ShortcutGates, name: str, norm: Any, batches: Iterable[Any], limit: int
) -> None:
    """Give what the batch norm writes the mean and deviation, per channel, of the teacher's sum."""
    if bool((norm.weight.abs() < 1e-6).any()):  # a zero-initialised last batch norm would stay dead
        norm.weight.masked_fill_(norm.weight.abs() < 1e-6, 1.0)
    (mean, variance), (wanted_mean, wanted_variance) = (
        _channel_statistics([norm], student, batches, limit)[0],
        _channel_statistics([teacher.gate(name)], teacher, batches, limit)[0],
    )
    factor = (wanted_variance / (variance + 1e-12)).sqrt()
    norm.bias.copy_((norm.bias.double() - mean) * factor + wanted_mean)
    norm.weight.mul_(factor)
