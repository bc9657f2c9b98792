"""One table of the nine variants and the networks that the paper compares with."""

from __future__ import annotations

from bitskip.cost import cost_of
from bitskip.report.tables import Column, TextTable
from bitskip.report.wording import NOT_RUN, count, per_cent
from bitskip.results.study import Results
from bitskip.spec import named_spec
from bitskip.study.baselines import BaselineResult, baseline_results
from bitskip.study.kept import kept_baseline
from bitskip.study.packed import packed_results
from bitskip.terminal import byte_size


def baselines_table(results: Results) -> TextTable | None:
    """Return accuracy, size, MACs and time of each packed network; None if no baseline was measured."""
    measured = baseline_results(results)
    if not measured:
        return None
    rows: list[tuple[str, ...]] = []
    for one in packed_results(results):
        cost = cost_of(named_spec(one.model))
        rows.append(
            (
                one.model,
                per_cent(one.card_accuracy),
                "the zoo's card",
                byte_size(one.file_bytes),
                count(cost.effective_parameters),
                count(cost.macs),
                f"{one.milliseconds:.2f}",
            )
        )
    rows += [_row(one) for one in measured]
    return TextTable(
        "The nine variants and the networks that the paper compares with",
        (
            Column("network", text=True),
            Column("accuracy, %"),
            Column("of", text=True),
            Column("packed file"),
            Column("effective parameters"),
            Column("MACs"),
            Column("ms a picture"),
        ),
        tuple(rows),
        (
            "All packed with int8 activations and timed in one run on this machine, one thread, the median "
            "of single pictures, while other cores may still have trained. Baselines that were not run have "
            "their size and time from untrained weights, which change neither; their published accuracies "
            "stand where they say so. "
            "`bitskip train baseline:NAME` trains one.",
        ),
    )


def _row(one: BaselineResult) -> tuple[str, ...]:
    run, printed = kept_baseline(one.name), one.published
    accuracy, source = NOT_RUN, ""
    if run is not None:
        accuracy = per_cent(run.test_accuracy)
        source = f"{run.epochs} epoch{'s' if run.epochs != 1 else ''} of recipe {run.recipe}"
    if printed is not None:
        shown = f"published: {printed.printed_accuracy} ({printed.source})"
        if printed.remark.startswith("a target"):
            shown = f"target: {printed.printed_accuracy} ({printed.source})"
        source = f"{source}; {shown}" if source else shown
    return (
        one.name,
        accuracy,
        source,
        byte_size(one.file_bytes),
        count(one.effective_parameters),
        count(one.macs),
        f"{one.milliseconds:.2f}",
    )
