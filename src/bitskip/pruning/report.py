"""What removing shortcuts bought: parameters, peak activation memory, traffic and, if asked for, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bitskip.memory import EXECUTORS
from bitskip.pruning.find import analyse
from bitskip.pruning.shortcut import Analysis


@dataclass(frozen=True)
class Gain:
    """One figure before and after. None is unknown."""

    name: str
    unit: str
    before: float | None
    after: float | None
    remark: str = ""

    @property
    def change(self) -> float | None:
        """Relative change, negative for less."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before - 1

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON-serialisable values."""
        return {
            "name": self.name, "unit": self.unit, "before": self.before, "after": self.after,
            "change": self.change, "remark": self.remark,
        }  # fmt: skip


def compare(
    before: nn.Module, after: nn.Module, example_input: Any, *, timed: bool = False, repeats: int = 20
) -> list[Gain]:
    """Return what changed from one model to the other, for one example.

    Peaks are those that `bitskip count` gives, of the two executors of `bitskip.memory`, an op being a layer
    with the pointwise steps after it. Inputs of 1-bit layers count as bits, all else in the arithmetic of the
    example. Where a peak does not move, the remark says at which op it stands.

    Args:
        before: a model.
        after: it without some shortcuts.
        example_input: as for `find_shortcuts`.
        timed: also measure the median time of a forward pass in torch, this batch, this machine.
        repeats: how many passes of each, taken in turn.
    """
    first, second = analyse(before, example_input), analyse(after, example_input)
    gains = [
        Gain("shortcuts", "count", len(first.shortcuts), len(second.shortcuts)),
        Gain("parameters", "count", _parameters(before), _parameters(after)),
    ]
    for executor in EXECUTORS:
        (old, _), (new, op) = _peak(first, executor), _peak(second, executor)
        remark = ""
        if old is None or new is None:
            remark = "unknown: the model cannot be traced as a whole"
        elif new == old:
            remark = f"no gain here: the peak stands at '{op}'"
        gains.append(Gain(f"peak activations, {executor}", "bytes", old, new, remark))
    gains.append(Gain("activation traffic", "bytes", _traffic(first), _traffic(second)))
    if timed:
        old_time, new_time = latency([before, after], example_input, repeats)
        gains.append(
            Gain("time of a forward pass", "seconds", old_time, new_time, "torch, median, this machine")
        )
    return gains


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _peak(analysis: Analysis, executor: str) -> tuple[int | None, str]:
    if analysis.activations is None:
        return None, ""
    peak = analysis.activations.peak((), executor)
    return peak.size, peak.op


def _traffic(analysis: Analysis) -> int | None:
    return None if analysis.activations is None else analysis.activations.traffic()


@torch.no_grad()
def latency(models: list[nn.Module], example_input: Any, repeats: int = 20, warmup: int = 3) -> list[float]:
    """Return the median seconds of a forward pass of each model, evaluation mode, passes taken in turn."""
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    calls = [lambda model=model: model(*inputs) for model in models]
    try:
        return take_turns(calls, repeats, warmup)
    finally:
        for model, training in zip(models, modes, strict=True):
            model.train(training)


def take_turns(calls: Sequence[Callable[[], object]], repeats: int, warmup: int = 3) -> list[float]:
    """Return the median seconds of each call; one after the other, so that all meet the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(warmup + repeats):
        for at, call in enumerate(calls):
            started = time.perf_counter()
            call()
            if round_number >= warmup:
                times[at].append(time.perf_counter() - started)
    return [statistics.median(values) for values in times]
