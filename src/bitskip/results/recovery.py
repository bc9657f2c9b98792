"""The results file of a recovery experiment; `bitskip.study.recovery` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitskip.results.codec import Amount, Count, Loss, Share, Text, decode

RECOVERY_FORMAT_VERSION = 3


@dataclass(frozen=True)
class RecoveryRow:
    """One arm for one target."""

    target: Text
    arm: Text
    test_accuracy: Share
    test_loss: Loss
    held_out_accuracy: Mapping[str, Share]  # after each step
    epochs: Count
    seconds: Amount
    history: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class GainRow:
    """What a target buys: `bitskip.pruning.report.Gain` as JSON."""

    name: Text
    unit: Text
    before: float | None
    after: float | None
    change: float | None
    remark: str


@dataclass(frozen=True)
class RecoveryResults:
    """The values of the file, but for its tag."""

    teacher: Text
    teacher_weights: Text
    data: Text
    train_images: Count
    settings: Mapping[str, Any]
    teacher_test_accuracy: Share
    held_out_images: Count
    test_images: Count
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: tuple[RecoveryRow, ...]
    gains: Mapping[str, tuple[GainRow, ...]]


def check_recovery(values: object, source: str) -> None:
    """Raise FileFormatError unless `values` are those of a recovery experiment's results file."""
    decode(RecoveryResults, values, source, ("bitskip_shortcut_recovery", RECOVERY_FORMAT_VERSION))
