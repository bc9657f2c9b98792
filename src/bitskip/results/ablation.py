"""The results file of an ablation: what each part of a recipe buys. `bitskip.study.ablation` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitskip.results.codec import Amount, Count, Factor, Positive, Share, Text, decode

ABLATION_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ArmRow:
    """All runs of one arm on one model."""

    model: Text
    arm: Text
    what: Text  # how it differs from the whole recipe
    changes: Mapping[str, Any]
    accuracies: Mapping[str, Share]  # of the test set, by seed
    n: Count
    mean: Share
    standard_deviation: Amount | None
    difference: float | None  # to the whole recipe, mean over the seeds that both have
    interval_95: tuple[float, float] | None
    seconds: Amount
    arithmetic: tuple[str, ...]


@dataclass(frozen=True)
class AblationResults:
    """The values of the file, but for its tag."""

    recipe: Text
    width: Factor
    epochs: Positive
    changes: Mapping[str, Any]
    teacher: str | None
    teacher_weights: str | None
    data: Text
    train_images: Count
    held_out_images: Count
    test_images: Count
    runs_done: Count
    runs: Count
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: tuple[ArmRow, ...]


def check_ablation(values: object, source: str) -> None:
    """Raise FileFormatError unless `values` are those of an ablation's results file."""
    decode(AblationResults, values, source, ("bitskip_ablation", ABLATION_FORMAT_VERSION))
