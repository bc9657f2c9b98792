"""The results file of a study: one row a run, and what it was run with.

`results.json` is all that passes from training to reporting. A study loads it, adds a row when a run ends
and saves it again, so that a killed study loses no finished run; reports are functions of it alone.
Accuracies are shares from 0 to 1, losses are mean cross entropy in nats, times are seconds. A loss that is
not finite is stored as null and read back as NaN.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bitskip.files import read_json, write_text
from bitskip.results.codec import Amount, Count, Factor, Loss, Positive, Share, Text, decode, plain

FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class DataSummary:
    """Which pictures a study trained, validated and tested on."""

    name: Text  # e.g. cifar10 or mini
    train_images: Count  # images trained on, validation images not among them
    test_images: Count
    validation_images: Count
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyInfo:
    """What holds for a whole study: its preset, scale, data, software and machine."""

    preset: Text  # quick, paper or puzzle
    recipe: Text
    width: Factor  # factor on every width, 1 is the paper's
    epochs: Positive
    estimator: Text  # gradient estimator of 1-bit weights
    data: DataSummary
    versions: Mapping[str, str]  # package to version
    machine: Mapping[str, Any]  # e.g. cpu, cores, memory, system
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochRecord:
    """Mean loss and accuracy over one epoch, counted from 1."""

    epoch: Count
    loss: Loss
    accuracy: Share


@dataclass(frozen=True)
class Counts:
    """What a network costs; MACs are for one image, weight bytes are those of the packed weights."""

    parameters: Count
    binary_parameters: Count
    effective_parameters: Amount
    macs: Count
    binary_macs: Count
    weight_bytes: Count


@dataclass(frozen=True)
class PaperFigures:
    """What the paper printed for a model."""

    accuracy: Share  # share, 0 to 1
    effective_parameters: Amount


@dataclass(frozen=True)
class ResultRow:
    """One finished run."""

    model: Text
    seed: Count
    recipe: Text
    epochs: Positive
    width: Factor
    estimator: Text
    test_accuracy: Share  # of the last epoch, on the whole test set
    test_loss: Loss
    validation: tuple[EpochRecord, ...]
    train: tuple[EpochRecord, ...]
    counts: Counts  # at the width that was trained
    full_width_counts: Counts  # at width 1
    seconds: Amount
    paper: PaperFigures | None
    extra: Mapping[str, Any] = field(default_factory=dict)  # puzzle: sign_flip_share, l2

    def __post_init__(self) -> None:
        flips = self.extra.get("sign_flip_share", [])
        if not isinstance(flips, list | tuple) or not all(_is_share(share) for share in flips):
            raise ValueError("extra: sign_flip_share must be a list of shares from 0 to 1, one an epoch")
        l2 = self.extra.get("l2")
        if l2 is not None and not (_is_number(l2) and l2 >= 0):
            raise ValueError(f"extra: l2 is {l2!r}, expected a number of at least 0")

    @property
    def key(self) -> tuple[str, int, str, int, float, str, float | None]:
        """What makes a run itself: two rows with one key are the same run."""
        l2 = self.l2
        return self.model, self.seed, self.recipe, self.epochs, self.width, self.estimator, l2

    @property
    def sign_flip_share(self) -> tuple[float, ...]:
        """Share of 1-bit weights whose sign changed in each epoch; empty where it was not logged."""
        return tuple(self.extra.get("sign_flip_share", ()))

    @property
    def l2(self) -> float | None:
        """Coupled L2 factor of the run, or None where the row does not state one."""
        value = self.extra.get("l2")
        return None if value is None else float(value)


@dataclass(frozen=True)
class Results:
    """A study and its finished runs, in the order they finished."""

    study: StudyInfo
    rows: tuple[ResultRow, ...]

    def with_row(self, row: ResultRow) -> Results:
        """Return these results with `row` added, or put in place of the row with the same key."""
        kept = tuple(other for other in self.rows if other.key != row.key)
        return dataclasses.replace(self, rows=(*kept, row))

    def with_extra(self, name: str, values: Iterable[Any]) -> Results:
        """Return these results with values (dataclasses) beside the rows, under a name; see `extra_of`."""
        extra = {**self.study.extra, name: [dataclasses.asdict(value) for value in values]}
        return dataclasses.replace(self, study=dataclasses.replace(self.study, extra=extra))

    def extra_of(self, name: str, kind: Callable[..., T]) -> tuple[T, ...]:
        """Return what `with_extra` added under `name`, each as a `kind`; empty if it added nothing."""
        return tuple(kind(**values) for values in self.study.extra.get(name, []))

    def of_model(self, model: str) -> tuple[ResultRow, ...]:
        """Return the rows of one model, by seed."""
        return tuple(sorted((row for row in self.rows if row.model == model), key=lambda row: row.seed))

    def to_dict(self) -> dict[str, Any]:
        """Return the values of the JSON file."""
        return {"bitskip_results": FORMAT_VERSION, **plain(self)}

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the results file whole or not at all, and return its path.

        Raises:
            RunError: if it cannot be written.
        """
        write_text(Path(path), self.to_json())
        return Path(path)

    @classmethod
    def from_dict(cls, values: object, source: str = "results") -> Results:
        """Build results from the values of `to_dict`.

        Raises:
            FileFormatError: for another format version, a missing or unknown key, or a value out of range.
        """
        return decode(cls, values, source, ("bitskip_results", FORMAT_VERSION))

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a results file.

        Raises:
            FileFormatError: if it cannot be read, is not JSON, or does not hold together.
        """
        return cls.from_dict(read_json(Path(path)), str(path))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
