"""Runs at the paper's own length and width, which take a GPU: their results travel with the package.

`kept.json` is written by `python tools/kept_results.py` from results files of `bitskip study --preset paper`
and from runs of baselines, so that a report on a small machine can show them beside its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bitskip.errors import FileFormatError
from bitskip.results.study import Results

_OF_A_RUN = ("model", "seed", "test_accuracy", "epochs", "recipe", "test_images")


@dataclass(frozen=True)
class KeptRun:
    """One finished run, at its last epoch."""

    model: str
    seed: int
    estimator: str  # gradient estimator of 1-bit weights
    test_accuracy: float  # share of the whole test set
    epochs: int
    recipe: str
    test_images: int


def kept_runs() -> tuple[KeptRun, ...]:
    """Return all kept runs at the paper's length.

    Raises:
        FileFormatError: if the package's file is damaged.
    """
    return _kept("runs")


def kept_baseline(name: str) -> KeptRun | None:
    """Return the kept run of a baseline (`baseline:NAME`), whatever its length, or None."""
    return next((run for run in _kept("baselines") if run.model == name), None)


@cache
def _kept(part: str) -> tuple[KeptRun, ...]:
    text = files("bitskip.study").joinpath("kept.json").read_text(encoding="utf-8")
    try:
        return tuple(KeptRun(**values) for values in json.loads(text)[part])
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(f"kept.json of the package is damaged ({error}); install it again") from None


def kept_run(model: str, estimator: str = "ste_sign") -> KeptRun | None:
    """Return the kept run of `model` with `estimator` and the lowest seed, or None."""
    found = [run for run in kept_runs() if (run.model, run.estimator) == (model, estimator)]
    return min(found, key=lambda run: run.seed, default=None)


def summary_json(studies: Iterable[Results], baselines: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return the text of `kept.json` for all full-width runs of `studies`, and for runs of baselines.

    Args:
        studies: results files.
        baselines: the values of `result.json` of each run.
    """
    runs = [
        KeptRun(
            row.model,
            row.seed,
            row.estimator,
            row.test_accuracy,
            row.epochs,
            row.recipe,
            results.study.data.test_images,
        )
        for results in studies
        for row in results.rows
        if row.width == 1
    ]
    runs.sort(key=lambda run: (run.model, run.estimator, run.seed))
    others = [
        KeptRun(**{"estimator": "ste_sign"} | {key: one[key] for key in _OF_A_RUN})
        for one in sorted(baselines, key=lambda one: str(one["model"]))
    ]
    values = {"runs": [asdict(run) for run in runs], "baselines": [asdict(run) for run in others]}
    return json.dumps(values, indent=1) + "\n"
