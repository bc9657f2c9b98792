"""What `train` takes: the networks whose shape a run can tell again, bitskip's own and the baselines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bitskip.errors import FileFormatError, RunError
from bitskip.nn.baselines import Baseline
from bitskip.sources.grammar import Kind, parse, spec_of
from bitskip.spec import NetworkSpec


def trainable(text: str, classes: int | None = None, input_size: int | None = None) -> NetworkSpec | Baseline:
    """Return the shape of the network that `text` names.

    Args:
        text: a named model, a spec's file, a run, `zoo:NAME` or `baseline:NAME`.
        classes: outputs; None for the network's own.
        input_size: height = width in pixels; None for the network's own.

    Raises:
        SpecError: for an unknown name, or a network that has neither a spec nor is a baseline.
        RunError: if the folder holds no run.
    """
    word = parse(text)
    found: Baseline | None = None
    if word.kind is Kind.BASELINE:
        found = Baseline(word.name)
    elif word.kind is Kind.RUN and word.path is not None:
        found = _baseline_of_run(word.path)
    if found is None:
        return spec_of(word, classes, input_size)
    return dataclasses.replace(
        found,
        classes=found.classes if classes is None else classes,
        input_size=found.input_size if input_size is None else input_size,
    )


def _baseline_of_run(path: Path) -> Baseline | None:
    from bitskip.training.folder import weights_metadata

    try:
        metadata = weights_metadata(path)
    except (RunError, FileFormatError):  # not finished, or damaged: what reads its spec says so
        return None
    return Baseline.from_json(metadata["baseline"], str(path)) if "baseline" in metadata else None
