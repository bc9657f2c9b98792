"""The results file of a study: one row a run, and what it was run with.

`results.json` is all that passes from training to reporting. A study loads it, adds a row when a run ends
and saves it again, so that a killed study loses no finished run; reports are functions of it alone.
Accuracies are shares from 0 to 1, losses are mean cross entropy in nats, times are seconds. A loss that is
not finite is stored as null and read back as NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bitskip.errors import FileFormatError, nearest
from bitskip.files import read_json, write_text
from bitskip.study.paper import paper_row

__all__ = ["Counts", "DataSummary", "EpochRecord", "PaperFigures", "ResultRow", "Results", "StudyInfo"]

FORMAT_VERSION = 1
RECOVERY_FORMAT_VERSION = 3  # of `bitskip.study.recovery`

T = TypeVar("T")


@dataclass(frozen=True)
class DataSummary:
    """Which pictures a study trained, validated and tested on."""

    name: str  # e.g. cifar10 or mini
    train_images: int  # images trained on, validation images not among them
    test_images: int
    validation_images: int
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyInfo:
    """What holds for a whole study: its preset, scale, data, software and machine."""

    preset: str  # quick, paper or puzzle
    recipe: str
    width: float  # factor on every width, 1 is the paper's
    epochs: int
    estimator: str  # gradient estimator of 1-bit weights
    data: DataSummary
    versions: Mapping[str, str]  # package to version
    machine: Mapping[str, Any]  # e.g. cpu, cores, memory, system
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochRecord:
    """Mean loss and accuracy over one epoch, counted from 1."""

    epoch: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Counts:
    """What a network costs; MACs are for one image, weight bytes are those of the packed weights."""

    parameters: int
    binary_parameters: int
    effective_parameters: float
    macs: int
    binary_macs: int
    weight_bytes: int


@dataclass(frozen=True)
class PaperFigures:
    """What the paper printed for a model."""

    accuracy: float  # share, 0 to 1
    effective_parameters: float

    @classmethod
    def of(cls, model: str) -> PaperFigures | None:
        """Return the paper's figures for one of its nine variants, or None for any other network."""
        row = paper_row(model)
        return cls(row.accuracy, row.effective_parameters) if row else None


@dataclass(frozen=True)
class ResultRow:
    """One finished run."""

    model: str
    seed: int
    recipe: str
    epochs: int
    width: float
    estimator: str
    test_accuracy: float  # of the last epoch, on the whole test set
    test_loss: float
    validation: tuple[EpochRecord, ...]
    train: tuple[EpochRecord, ...]
    counts: Counts  # at the width that was trained
    full_width_counts: Counts  # at width 1
    seconds: float
    paper: PaperFigures | None
    extra: Mapping[str, Any] = field(default_factory=dict)  # puzzle: sign_flip_share, l2

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
    rows: tuple[ResultRow, ...] = ()

    def with_row(self, row: ResultRow) -> Results:
        """Return these results with `row` added, or put in place of the row with the same key."""
        kept = tuple(other for other in self.rows if other.key != row.key)
        return dataclasses.replace(self, rows=(*kept, row))

    def of_model(self, model: str) -> tuple[ResultRow, ...]:
        """Return the rows of one model, by seed."""
        return tuple(sorted((row for row in self.rows if row.model == model), key=lambda row: row.seed))

    def to_dict(self) -> dict[str, Any]:
        """Return the values of the JSON file."""
        return {
            "bitskip_results": FORMAT_VERSION,
            "study": _plain(self.study),
            "rows": [_plain(row) for row in self.rows],
        }

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
        top = _Reader(values, source)
        version = top.take("bitskip_results")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise FileFormatError(
                f'{source}: "bitskip_results" is {version!r}, expected {FORMAT_VERSION}; '
                "is this a results file of this version?"
            )
        study = _study(top.inner("study"))
        rows = tuple(top.inner_list("rows", _result_row))
        top.end()
        return cls(study, rows)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a results file.

        Raises:
            FileFormatError: if it cannot be read, is not JSON, or does not hold together.
        """
        return cls.from_dict(read_json(Path(path)), str(path))


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into JSON values, and what is not finite into None."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class _Reader:
    """One JSON object being read: every key is taken once, checked, and `end` refuses what is left."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise FileFormatError(f"{where}: expected a JSON object, got {_kind(values)}")
        self.where = where
        self._left: dict[str, Any] = dict(values)
        self._known: list[str] = []

    def take(self, key: str) -> Any:
        self._known.append(key)
        if key not in self._left:
            raise FileFormatError(f"{self.where}: key '{key}' is missing")
        return self._left.pop(key)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a non-empty string")
        return value

    def whole(self, key: str, least: int = 0) -> int:
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, least: float = 0.0, most: float = math.inf) -> float:
        value = self.take(key)
        bounds = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, value, f"a number {bounds}")
        if not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return value

    def loss(self, key: str) -> float:
        value = self.take(key)
        if value is None:
            return math.nan
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, value, "a number, or null where it was not finite")
        return float(value)

    def mapping(self, key: str, optional: bool = False) -> dict[str, Any]:
        self._known.append(key)
        if optional and key not in self._left:
            return {}
        value = self.take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a JSON object")
        return value

    def inner(self, key: str) -> _Reader:
        return _Reader(self.take(key), f"{self.where}: {key}")

    def inner_or_none(self, key: str) -> _Reader | None:
        value = self.take(key)
        return None if value is None else _Reader(value, f"{self.where}: {key}")

    def inner_list(self, key: str, build: Callable[[_Reader], T]) -> Iterable[T]:
        values = self.take(key)
        if not isinstance(values, list):
            raise self._wrong(key, values, "a list")
        for index, value in enumerate(values):
            yield build(_Reader(value, f"{self.where}: {key}[{index}]"))

    def end(self) -> None:
        for key in self._left:
            raise FileFormatError(f"{self.where}: unknown key '{key}'{nearest(key, self._known)}")

    def _wrong(self, key: str, value: object, expected: str) -> FileFormatError:
        shown = repr(value) if len(repr(value)) <= 60 else _kind(value)
        return FileFormatError(f"{self.where}: {key} is {shown}, expected {expected}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _study(read: _Reader) -> StudyInfo:
    data = read.inner("data")
    study = StudyInfo(
        preset=read.text("preset"),
        recipe=read.text("recipe"),
        width=_width(read),
        epochs=read.whole("epochs", 1),
        estimator=read.text("estimator"),
        data=DataSummary(
            name=data.text("name"),
            train_images=data.whole("train_images"),
            test_images=data.whole("test_images"),
            validation_images=data.whole("validation_images"),
            extra=data.mapping("extra", optional=True),
        ),
        versions={key: str(value) for key, value in read.mapping("versions").items()},
        machine=read.mapping("machine"),
        extra=read.mapping("extra", optional=True),
    )
    data.end()
    read.end()
    return study


def _width(read: _Reader) -> float:
    width = read.number("width")
    if width == 0:
        raise FileFormatError(f"{read.where}: width is 0, expected a factor above 0")
    return width


def _result_row(read: _Reader) -> ResultRow:
    paper = read.inner_or_none("paper")
    row = ResultRow(
        model=read.text("model"),
        seed=read.whole("seed"),
        recipe=read.text("recipe"),
        epochs=read.whole("epochs", 1),
        width=_width(read),
        estimator=read.text("estimator"),
        test_accuracy=read.number("test_accuracy", 0, 1),
        test_loss=read.loss("test_loss"),
        validation=tuple(read.inner_list("validation", _epoch)),
        train=tuple(read.inner_list("train", _epoch)),
        counts=_counts(read.inner("counts")),
        full_width_counts=_counts(read.inner("full_width_counts")),
        seconds=read.number("seconds"),
        paper=_paper(paper) if paper else None,
        extra=read.mapping("extra", optional=True),
    )
    read.end()
    _check_extra(row, read.where)
    return row


def _check_extra(row: ResultRow, where: str) -> None:
    flips = row.extra.get("sign_flip_share", [])
    if not isinstance(flips, list) or not all(_is_number(share) and 0 <= share <= 1 for share in flips):
        raise FileFormatError(
            f"{where}: extra: sign_flip_share must be a list of shares from 0 to 1, one an epoch"
        )
    l2 = row.extra.get("l2")
    if l2 is not None and not (_is_number(l2) and l2 >= 0):
        raise FileFormatError(f"{where}: extra: l2 is {l2!r}, expected a number of at least 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _epoch(read: _Reader) -> EpochRecord:
    record = EpochRecord(read.whole("epoch"), read.loss("loss"), read.number("accuracy", 0, 1))
    read.end()
    return record


def _counts(read: _Reader) -> Counts:
    counts = Counts(
        parameters=read.whole("parameters"),
        binary_parameters=read.whole("binary_parameters"),
        effective_parameters=read.number("effective_parameters"),
        macs=read.whole("macs"),
        binary_macs=read.whole("binary_macs"),
        weight_bytes=read.whole("weight_bytes"),
    )
    read.end()
    return counts


def _paper(read: _Reader) -> PaperFigures:
    figures = PaperFigures(read.number("accuracy", 0, 1), read.number("effective_parameters"))
    read.end()
    return figures
