"""What a study found, in a few sentences computed from its rows and from the runs that the package keeps."""

from __future__ import annotations

import math

from bitskip.report.runs import Measured, measured
from bitskip.report.tables import Column, TextTable
from bitskip.report.wording import NOT_RUN, count, listing, per_cent, points
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.kept import KeptRun, kept_run
from bitskip.study.packed import packed_results
from bitskip.study.paper import EPOCHS as PAPER_EPOCHS
from bitskip.study.paper import PRECISION_NAMES, PRECISION_POLICIES, paper_row
from bitskip.terminal import byte_size
from bitskip.zoo import card_of, zoo_names

_ZOO_RECIPE = "modern"


def findings(results: Results) -> list[str]:
    """Return sentences, the study's own first; none of them where nothing was run."""
    found = [_shortcuts(results), _precisions(results), _kept_shortcuts(), no_gradient_text()]
    return [text for text in (*found, _packed(results)) if text]


def _shortcuts(results: Results) -> str:
    ours, theirs = [], []
    for precision in PRECISION_POLICIES:
        names = [f"resnet14-{precision}-{policy}" for policy in ("none", "all")]
        without, whole = (measured(results, name) for name in names)
        rows = [paper_row(name) for name in names]
        if without and whole and rows[0] and rows[1]:
            ours.append(f"{points(without.mean - whole.mean)} points ({PRECISION_NAMES[precision]})")
            theirs.append(points(rows[0].accuracy - rows[1].accuracy))
    if not ours:
        return ""
    return (
        f"Removing every shortcut changed accuracy by {listing(ours)} in these runs; "
        f"by {listing(theirs)} in the paper."
    )


def _precisions(results: Results) -> str:
    """Compare the networks that keep all shortcuts, or those without any if the others were not run."""
    for policy, words in (("all", "With all shortcuts"), ("none", "Without shortcuts")):
        found: list[tuple[str, Measured, float]] = []
        for precision in PRECISION_POLICIES:
            name = f"resnet14-{precision}-{policy}"
            accuracy = measured(results, name)
            if accuracy:
                found.append((precision, accuracy, results.of_model(name)[0].counts.effective_parameters))
        if len(found) < 2 or found[0][0] != "full":
            continue
        smaller = [
            f"{PRECISION_NAMES[name]} {accuracy.per_cent()}% with {found[0][2] / size:.1f} times fewer "
            "effective parameters"
            for name, accuracy, size in found[1:]
        ]
        return f"{words}, full precision reached {found[0][1].per_cent()}%, {listing(smaller)}."
    return ""


def _error_of_difference(one: KeptRun, other: KeptRun) -> float:
    """Return the standard error of the difference of two accuracies, from sampling test pictures."""
    return math.sqrt(
        sum(run.test_accuracy * (1 - run.test_accuracy) / run.test_images for run in (one, other))
    )


def _kept_shortcuts() -> str:
    whole, without = kept_run("resnet14-full-all"), kept_run("resnet14-full-none")
    paper = [paper_row(name) for name in ("resnet14-full-all", "resnet14-full-none")]
    if not (whole and without and paper[0] and paper[1]):
        return ""
    difference = whole.test_accuracy - without.test_accuracy
    worth = (
        "nothing that can be measured"
        if abs(difference) < 2 * _error_of_difference(whole, without)
        else f"{points(difference)} points"
    )
    return (
        f"At the paper's own length ({whole.epochs} epochs, full width, one seed) shortcuts are worth "
        f"{worth} to full precision: {per_cent(whole.test_accuracy)}% with all of them, "
        f"{per_cent(without.test_accuracy)}% without; the paper prints {paper[0].printed_accuracy}% and "
        f"{paper[1].printed_accuracy}%."
    )


def no_gradient_text() -> str:
    """Return what the kept run without a gradient estimator says about the paper's Table 3."""
    run, paper = kept_run("resnet14-binary-all", "none"), paper_row("resnet14-binary-all")
    if not (run and paper):
        return ""
    trained = kept_run("resnet14-binary-all")
    beside = (
        f"; with one it reached {per_cent(trained.test_accuracy)}%"
        if trained
        else "; the same recipe with an estimator was not run at this length"
    )
    return (
        "At the paper's length and width a binary network whose signs get no gradient ends at "
        f"{per_cent(run.test_accuracy)}%, where the paper prints {paper.printed_accuracy}%{beside}. So a "
        "missing gradient estimator is the likely cause of the paper's low figures, not a proven one: the "
        "paper does not say how it took the gradient."
    )


def _tenths(share: float) -> str:
    return f"{100 * share:.1f}"


def _packed(results: Results) -> str:
    found = packed_results(results)
    if not found:
        return ""
    smallest, best = min(found, key=lambda one: one.file_bytes), max(found, key=lambda one: one.card_accuracy)
    seen = listing(
        f"{one.model} {per_cent(one.here.share)}% of {count(one.images)} test pictures "
        f"({per_cent(one.card_accuracy)}% of all on its card) in {byte_size(one.file_bytes)}"
        for one in dict.fromkeys((best, smallest))
    )
    return f"Trained longer and packed, read from the zoo and measured on this machine: {seen}."


def beside_table(results: Results) -> TextTable:
    """Return the nine variants: in the paper, in this study, at the paper's own length, packed in the zoo.

    Columns that would say nothing are left out.
    """
    study = results.study
    at_length = (study.width, study.epochs) == (1, PAPER_EPOCHS)
    here = {one.model: one for one in packed_results(results)}
    cards = {card.model: card for card in map(card_of, zoo_names()) if card.recipe == _ZOO_RECIPE}
    rows = []
    for name in PAPER_VARIANTS:
        paper, ours, kept = paper_row(name), measured(results, name), kept_run(name)
        card, tried = cards.get(name), here.get(name)
        low, high = tried.here.interval if tried else (0.0, 0.0)
        cells = [
            name,
            paper.printed_accuracy if paper else "",
            ours.per_cent() if ours else NOT_RUN,
            *([] if at_length else [per_cent(kept.test_accuracy) if kept else NOT_RUN]),
            per_cent(card.test_accuracy) if card else "",
            byte_size(card.file_bytes) if card else "",
        ]
        if here:
            cells.append(f"{_tenths(tried.here.share)} ({_tenths(low)} to {_tenths(high)})" if tried else "")
        rows.append(tuple(cells))
    scale = f"{study.epochs} epoch{'s' if study.epochs != 1 else ''}, width {study.width:g}"
    zoo = f"packed, recipe {_ZOO_RECIPE}"
    columns = [
        Column("model", text=True),
        Column("best epoch", "paper"),
        Column(scale, "this study"),
        *([] if at_length else [Column(f"{PAPER_EPOCHS} epochs, width 1", "kept runs")]),
        Column("all", zoo),
        Column("file", zoo),
        *([Column("here (95%)", zoo)] if here else []),
    ]
    notes = []
    if not at_length:
        notes.append(
            "Kept runs: the paper's recipe at its own length, one seed, last epoch; trained on a GPU, they "
            "travel with the package."
        )
    counts = sorted({one.images for one in here.values()})
    notes.append(
        f"Packed: the zoo's files, trained by the recipe {_ZOO_RECIPE}, on all test pictures"
        + (f"; here on {count(counts[0])} to {count(counts[-1])} of them, 95% interval." if counts else ".")
    )
    return TextTable(
        "The nine variants beside the paper, accuracy in %", tuple(columns), tuple(rows), tuple(notes)
    )
