"""What the runs of the puzzle say about the paper's 48%, in plain words computed from the rows.

The paper's fully binary networks reach 44 to 49%, where 1-bit weights trained with a straight-through
estimator reach far more. Two suspects: sign without any gradient estimator, and coupled L2, which walks
latent weights that get no gradient through zero.
"""

from __future__ import annotations

from bitskip.report.findings import no_gradient_text
from bitskip.report.runs import Treatment, l2_name, treatments
from bitskip.report.wording import listing, per_cent
from bitskip.results.study import Results
from bitskip.study.paper import paper_row

# An accuracy this near to the paper's counts as like it, and one this far above the other as unlike it.
_NEAR = 0.10


def puzzle_text(results: Results) -> list[str]:
    """Return a few sentences, a paragraph each; none where the study has no treatments."""
    paragraphs = []
    all_treatments = treatments(results)
    for model in dict.fromkeys(treatment.model for treatment in all_treatments):
        paragraphs += _of_model(
            results, model, [treatment for treatment in all_treatments if treatment.model == model]
        )
    if all_treatments:
        paragraphs.append(no_gradient_text())
    return paragraphs


def _of_model(results: Results, model: str, found: list[Treatment]) -> list[str]:
    without = [treatment for treatment in found if treatment.estimator == "none"]
    with_estimator = [treatment for treatment in found if treatment.estimator != "none"]
    paragraphs = []
    seen = [
        f"{words} it reached {_accuracies(group)}"
        for words, group in (
            ("with a gradient estimator", with_estimator),
            ("without one", without),
        )
        if group
    ]
    paper = paper_row(model)
    printed = f" The paper prints {paper.printed_accuracy}% after 100 epochs." if paper else ""
    paragraphs.append(
        f"Seen with {model}, after {results.study.epochs} epochs: {listing(seen)}.{printed} "
        f"{_flips(without, with_estimator)}".strip()
    )
    if without and with_estimator and paper:
        paragraphs.append(_verdict(without, with_estimator, paper.accuracy))
    elif paper:
        missing = "with" if without else "without"
        paragraphs.append(f"No run {missing} an estimator is among the results, so nothing follows yet.")
    return paragraphs


def _accuracies(group: list[Treatment]) -> str:
    return listing(f"{treatment.accuracy.per_cent()}% ({l2_name(treatment.l2)})" for treatment in group)


def _flips(without: list[Treatment], with_estimator: list[Treatment]) -> str:
    sentences = []
    for treatment in without:
        flips = treatment.sign_flip_share
        if not flips:
            continue
        if treatment.l2 == 0 and max(flips) == 0:
            sentences.append(
                "Without estimator and L2 no sign ever flipped: the 1-bit weights stayed as they were drawn, "
                "and only the first convolution, the batch norms and the classifier learned."
            )
        else:
            peak = flips.index(max(flips)) + 1
            sentences.append(
                f"Without estimator, {l2_name(treatment.l2)}: {per_cent(max(flips))}% of the signs flipped "
                f"in epoch {peak}, {per_cent(flips[-1])}% in the last, though no gradient reaches them."
            )
    known = [treatment.sign_flip_share for treatment in with_estimator if treatment.sign_flip_share]
    if known:
        first = listing(f"{per_cent(flips[0])}%" for flips in known)
        last = listing(f"{per_cent(flips[-1])}%" for flips in known)
        sentences.append(
            f"With an estimator {first} of the signs flipped in the first epoch and {last} in the last."
        )
    return " ".join(sentences)


def _verdict(without: list[Treatment], with_estimator: list[Treatment], paper: float) -> str:
    best_without = max(treatment.accuracy.mean for treatment in without)
    worst_with = min(treatment.accuracy.mean for treatment in with_estimator)
    caveat = "Our runs differ from the paper's in scale, and the paper does not say how it took the gradient."
    nearest = min(abs(treatment.accuracy.mean - paper) for treatment in without)
    if worst_with - best_without < _NEAR:
        return (
            "With and without an estimator the accuracies lie less than "
            f"{100 * _NEAR:.0f} points apart, so these runs do not show that a missing estimator explains "
            f"the paper's figure. {caveat}"
        )
    if nearest > _NEAR:
        return (
            "An estimator makes the difference, but no run without one comes within "
            f"{100 * _NEAR:.0f} points of the paper's figure, so these runs alone leave its cause open. "
            f"{caveat}"
        )
    return (
        "The paper's figure lies where a network without a gradient estimator ends, and well below one "
        f"with it. A sign without estimator is the likely cause of the paper's low figure, not a proven "
        f"one. {caveat}"
    )
