"""The rows of a study, grouped as a report needs them: seeds of one model, treatments of the puzzle."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitskip.report.wording import per_cent
from bitskip.results.study import ResultRow, Results


@dataclass(frozen=True)
class Measured:
    """One number over several seeds."""

    values: tuple[float, ...]  # at least one

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1), or None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def per_cent(self) -> str:
        """Return `91.52`, or `91.52 ± 0.21` for several seeds."""
        text = per_cent(self.mean)
        return text if self.spread is None else f"{text} ± {per_cent(self.spread)}"


@dataclass(frozen=True)
class Treatment:
    """Runs of one model that share their gradient estimator and their coupled L2."""

    model: str
    estimator: str
    l2: float
    rows: tuple[ResultRow, ...]

    @property
    def accuracy(self) -> Measured:
        """Test accuracies, 0 to 1."""
        return Measured(tuple(row.test_accuracy for row in self.rows))

    @property
    def label(self) -> str:
        """What a legend calls it."""
        return f"{ESTIMATOR_NAMES.get(self.estimator, self.estimator)}, {l2_name(self.l2)}"

    @property
    def validation_accuracy(self) -> list[float]:
        """Mean validation accuracy after each epoch, 0 to 1."""
        return mean_curve([[record.accuracy for record in row.validation] for row in self.rows])

    @property
    def sign_flip_share(self) -> list[float]:
        """Mean share of 1-bit weights whose sign changed in each epoch, 0 to 1."""
        return mean_curve([list(row.sign_flip_share) for row in self.rows])


ESTIMATOR_NAMES = {"none": "no estimator", "ste_sign": "straight-through (ste_sign)"}


def l2_name(l2: float) -> str:
    """Return `no L2` or `L2 1e-4`."""
    if l2 == 0:
        return "no L2"
    mantissa, _, exponent = f"{l2:e}".partition("e")
    return f"L2 {float(mantissa):g}e{int(exponent)}" if l2 < 1e-2 else f"L2 {l2:g}"


def grid_rows(results: Results, model: str) -> tuple[ResultRow, ...]:
    """Return the runs of `model` that stand in the study's tables, by seed.

    Those are the runs at the study's own scale, estimator and recipe; runs with an L2 of their own
    are treatments of the puzzle.
    """
    study = results.study
    return tuple(
        row
        for row in results.of_model(model)
        if row.l2 is None
        and (row.recipe, row.epochs, row.width, row.estimator)
        == (study.recipe, study.epochs, study.width, study.estimator)
    )


def measured(results: Results, model: str) -> Measured | None:
    """Return the test accuracies of `model` in the study, or None where it was not run."""
    rows = grid_rows(results, model)
    return Measured(tuple(row.test_accuracy for row in rows)) if rows else None


def other_models(results: Results) -> tuple[str, ...]:
    """Return the models of the study that are none of the paper's nine, in the order they ran."""
    names = dict.fromkeys(row.model for row in results.rows if row.paper is None and row.l2 is None)
    return tuple(name for name in names if grid_rows(results, name))


def treatments(results: Results) -> tuple[Treatment, ...]:
    """Return the puzzle's treatments: by model, with an estimator first, without L2 first."""
    groups: dict[tuple[str, str, float], list[ResultRow]] = {}
    for row in results.rows:
        if row.l2 is not None:
            groups.setdefault((row.model, row.estimator, row.l2), []).append(row)
    order = sorted(groups, key=lambda key: (key[0], key[1] == "none", key[1], key[2]))
    return tuple(Treatment(*key, tuple(sorted(groups[key], key=lambda row: row.seed))) for key in order)


def mean_curve(curves: Iterable[Sequence[float]]) -> list[float]:
    """Return the mean over seeds at each epoch, as far as every curve reaches; NaN where any is NaN."""
    known = [curve for curve in curves if curve]
    length = min((len(curve) for curve in known), default=0)
    return [
        statistics.fmean(values) if all(map(math.isfinite, values)) else math.nan
        for values in ([curve[at] for curve in known] for at in range(length))
    ]
