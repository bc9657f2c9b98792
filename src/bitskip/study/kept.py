"""Runs at the paper's own length and width, which take a GPU: their results travel with the package.

`kept.json` is written by `python tools/kept_results.py` from results files of `bitskip study --preset paper`,
so that a report on a small machine can show them beside its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from bitskip.errors import FileFormatError
from bitskip.results.study import Results

__all__ = ["KeptRun", "kept_run", "kept_runs", "summary_json"]


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


@cache
def kept_runs() -> tuple[KeptRun, ...]:
    """Return all kept runs.

    Raises:
        FileFormatError: if the package's file is damaged.
    """
    text = files("bitskip.study").joinpath("kept.json").read_text(encoding="utf-8")
    try:
        return tuple(KeptRun(**values) for values in json.loads(text)["runs"])
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(f"kept.json of the package is damaged ({error}); install it again") from None


def kept_run(model: str, estimator: str = "ste_sign") -> KeptRun | None:
    """Return the kept run of `model` with `estimator` and the lowest seed, or None."""
    found = [run for run in kept_runs() if (run.model, run.estimator) == (model, estimator)]
    return min(found, key=lambda run: run.seed, default=None)


def summary_json(studies: Iterable[Results]) -> str:
    """Return the text of `kept.json` for all full-width runs of `studies`."""
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
    return json.dumps({"runs": [asdict(run) for run in runs]}, indent=1) + "\n"
