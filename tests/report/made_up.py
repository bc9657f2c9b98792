"""Made-up results for the report's tests: of the right shape, measured by nobody."""

from __future__ import annotations

import math

from bitskip.cost import cost_of
from bitskip.results.study import (
    Counts,
    DataSummary,
    EpochRecord,
    ResultRow,
    Results,
    StudyInfo,
)
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study.paper import paper_figures

CIFAR10 = DataSummary("CIFAR-10", 45_000, 10_000, 5_000)
MINI = DataSummary("bundled mini set (CIFAR-10 subset)", 900, 500, 100)


def study(
    preset: str = "quick", width: float = 0.25, epochs: int = 3, data: DataSummary = CIFAR10
) -> StudyInfo:
    return StudyInfo(
        preset=preset,
        recipe="paper",
        width=width,
        epochs=epochs,
        estimator="ste_sign",
        data=data,
        versions={"bitskip": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"},
        machine={"cpu": "Made-up Processor", "cores": 2, "system": "Linux"},
    )


def counts(model: str, width: float) -> Counts:
    cost = cost_of(named_spec(model).scaled(width)).to_dict()
    return Counts(**{key: cost[key] for key in Counts.__dataclass_fields__})


def row(
    model: str,
    accuracy: float,
    info: StudyInfo,
    seed: int = 0,
    estimator: str = "ste_sign",
    l2: float | None = None,
    flips: list[float] | None = None,
    nan_from: int | None = None,
) -> ResultRow:
    """Return a run whose accuracy rises to `accuracy`; its loss is NaN from epoch `nan_from` on."""
    records = []
    for epoch in range(1, info.epochs + 1):
        share = accuracy * (1 - 0.45 * math.exp(-4 * epoch / info.epochs))
        loss = 2.3 * (1 - share) + 0.05 * math.sin(3 * epoch + 7 * seed)
        bad = nan_from is not None and epoch >= nan_from
        records.append(EpochRecord(epoch, math.nan if bad else loss, share))
    extra: dict[str, object] = {"precision": "bf16-mixed"}
    if l2 is not None:
        extra["l2"] = l2
    if flips is not None:
        extra["sign_flip_share"] = flips
    return ResultRow(
        model=model,
        seed=seed,
        recipe=info.recipe,
        epochs=info.epochs,
        width=info.width,
        estimator=estimator,
        test_accuracy=accuracy,
        test_loss=math.nan if nan_from is not None else 2.3 * (1 - accuracy),
        validation=tuple(records),
        train=tuple(records),
        counts=counts(model, info.width),
        full_width_counts=counts(model, 1),
        seconds=75.0,
        paper=paper_figures(model),
        extra=extra,
    )


ACCURACIES = dict(
    zip(PAPER_VARIANTS, (0.6612, 0.6448, 0.6203, 0.6301, 0.6287, 0.6105, 0.5709, 0.5733, 0.5433), strict=True)
)


def quick(seeds: int = 1, data: DataSummary = CIFAR10) -> Results:
    info = study(data=data)
    rows = [
        row(model, accuracy + 0.011 * seed, info, seed)
        for seed in range(seeds)
        for model, accuracy in ACCURACIES.items()
    ]
    return Results(info, tuple(rows))


def two_of_nine(nan_from: int | None = None) -> Results:
    info = study("paper", width=1.0)
    return Results(
        info,
        (
            row("resnet14-hybrid-none", 0.7469, info),
            row("resnet14-full-all", 0.7812, info, nan_from=nan_from),
        ),
    )


def puzzle() -> Results:
    info = study("puzzle", epochs=5)
    model = "resnet14-binary-all"
    return Results(
        info,
        (
            row(model, 0.6312, info, l2=0.0, flips=[0.21, 0.12, 0.08, 0.05, 0.02]),
            row(model, 0.6187, info, l2=1e-4, flips=[0.24, 0.16, 0.12, 0.08, 0.03]),
            row(model, 0.4311, info, estimator="none", l2=0.0, flips=[0.0] * 5),
            row(model, 0.3902, info, estimator="none", l2=1e-4, flips=[0.61, 0.34, 0.05, 0.01, 0.0]),
        ),
    )
