"""Accuracy against size: ours beside the paper's nine networks and published ones, as a page and a plot.

A function of the zoo's cards and of results files; nothing is trained and torch is not needed.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from bitskip.cost import cost_of
from bitskip.errors import RunError
from bitskip.files import write_text
from bitskip.report.accuracy_chart import Point, draw_sizes
from bitskip.report.markdown import markdown_table
from bitskip.report.ours import Ours
from bitskip.report.style import svg_text
from bitskip.report.tables import Column, TextTable
from bitskip.report.wording import UNKNOWN, count, epochs, per_cent, points, relative
from bitskip.spec import SHORTCUT_POLICIES, named_spec
from bitskip.study.paper import TABLE3_NOTE, TABLES
from bitskip.study.references import BARS, REFERENCES, SIZES_NOTE, Bar

MET, MISSED, NOT_YET, TRAINED = "met", "missed", "not yet run", "trained"


# -- the bars ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A bar and what has been reached: the best recipe, treatment and length, as the mean over its seeds."""

    bar: Bar
    state: str  # met, missed, not yet run, or trained where there is no bar
    accuracy: float | None = None
    seeds: int = 0
    model: str = ""
    recipe: str = ""
    treatment: str = ""
    epochs: int = 0
    epochs_before: int = 0
    remark: str = ""


def judge(bar: Bar, ours: Iterable[Ours]) -> Verdict:
    """Compare a bar with the last-epoch accuracies on the whole test set, without augmentation.

    Epochs of the network that the weights come from count towards the most that a bar allows.

    Raises:
        RunError: if two runs that are said to be the same have different accuracies.
    """
    groups: dict[tuple[str, str, str, int, int], dict[int, float]] = {}
    remarks: dict[tuple[str, str, str, int, int], str] = {}
    for one in ours:
        if not one.on_whole_test_set:
            continue
        if bar.model is not None and one.model != bar.model:
            continue
        if bar.most_effective_parameters is not None and (
            one.effective_parameters > bar.most_effective_parameters
        ):
            continue
        if bar.most_epochs is not None and one.epochs + one.epochs_before > bar.most_epochs:
            continue
        # One run may have been packed more than once: by seed, so that it counts once.
        key = (one.model, one.recipe, one.treatment, one.epochs, one.epochs_before)
        if groups.setdefault(key, {}).setdefault(one.seed, one.trained_accuracy) != one.trained_accuracy:
            raise RunError(
                f"two results of {one.model} with recipe {one.recipe}"
                + (f" ({one.treatment})" if one.treatment else "")
                + f", {one.epochs} epochs and seed {one.seed} differ in accuracy; name only one of them"
            )
        remarks[key] = remarks.get(key) or one.remark
    if not groups:
        return Verdict(bar, NOT_YET)
    means = {key: statistics.fmean(seeds.values()) for key, seeds in groups.items()}
    best = max(means, key=lambda key: (means[key], key))
    state = TRAINED if bar.accuracy is None else MET if means[best] >= bar.accuracy else MISSED
    return Verdict(bar, state, means[best], len(groups[best]), *best, remark=remarks[best])


def _bars_table(verdicts: Sequence[Verdict], letters: Mapping[str, str]) -> TextTable:
    rows = []
    for verdict in verdicts:
        bar, reached = verdict.bar, verdict.accuracy
        rows.append(
            (
                bar.title + (f" ({verdict.model})" if reached is not None and bar.model is None else ""),
                "" if bar.accuracy is None else per_cent(bar.accuracy),
                "" if bar.most_epochs is None else str(bar.most_epochs),
                verdict.state,
                "" if reached is None else per_cent(reached),
                "" if reached is None or bar.accuracy is None else points(reached - bar.accuracy),
                "" if reached is None else _recipe(verdict.recipe, verdict.treatment, letters),
                "" if reached is None else epochs(verdict.epochs, verdict.epochs_before),
                "" if reached is None else str(verdict.seeds),
            )
        )
    return TextTable(
        "Bars",
        (
            Column("network", text=True),
            Column("bar, %"),
            Column("epochs at most"),
            Column("", text=True),
            Column("reached, %"),
            Column("difference, points"),
            Column("recipe", text=True),
            Column("epochs"),
            Column("seeds"),
        ),
        tuple(rows),
        (
            "Whole CIFAR-10 test set, last epoch of the trained network, no test-time augmentation. Where "
            "several recipes, treatments or lengths were run, the best of them, as the mean over its seeds. "
            "'2 after 10' epochs: two on weights that had been trained for ten; the most allowed is of both. "
            "What a letter behind the recipe stands for is in a table below.",
            *(f"{verdict.model}: {verdict.remark}." for verdict in verdicts if verdict.remark),
        ),
    )


def _shortcuts_table(verdicts: Sequence[Verdict], letters: Mapping[str, str]) -> TextTable:
    """Return what removing shortcuts costs: ours, and the paper's differences beside them."""
    of_model = {verdict.bar.model: verdict for verdict in verdicts}
    rows = []
    for table in TABLES:
        found = [of_model[row.model] for row in table.rows]
        reached = [verdict.accuracy for verdict in found]
        paper = [row.accuracy for row in table.rows]
        cells = [_reached(verdict, letters) for verdict in found]
        for at in (1, 2):
            less_all = None if (a := reached[0]) is None or (b := reached[at]) is None else b - a
            cells += ["" if less_all is None else points(less_all), points(paper[at] - paper[0])]
        rows.append((table.precision_policy, *cells))
    return TextTable(
        "What shortcuts are worth",
        (
            Column("precision", text=True),
            *(Column(f"{policy}, %") for policy in SHORTCUT_POLICIES),
            *(
                Column(f"{policy} less all, {whose}")
                for policy in SHORTCUT_POLICIES[1:]
                for whose in ("points", "the paper's")
            ),
        ),
        tuple(rows),
        (
            "The nine at full width, as in the table above; those with the same letter were trained alike. "
            "Between single seeds, differences of less than about half a point say nothing. Where the "
            "weights that a network started from are those of a network with all shortcuts, it did not have "
            "to do without them from the beginning, as the paper's networks had to.",
        ),
    )


def _reached(verdict: Verdict, letters: Mapping[str, str]) -> str:
    if verdict.accuracy is None:
        return ""
    letter = letters.get(verdict.treatment)
    return per_cent(verdict.accuracy) + (f" ({letter})" if letter else "")


# -- the other tables --------------------------------------------------------------------------------


def _ours_table(ours: Sequence[Ours], letters: Mapping[str, str]) -> TextTable:
    rows = [
        (
            one.name,
            per_cent(one.accuracy),
            _range(one.interval),
            "" if one.tta_accuracy is None else per_cent(one.tta_accuracy),
            "" if one.tta_interval is None else _range(one.tta_interval),
            per_cent(one.trained_accuracy),
            one.activations if one.file_bytes is not None else "not packed",
            count(one.effective_parameters),
            "" if one.file_bytes is None else count(one.file_bytes),
            _recipe(one.recipe, one.treatment, letters),
            epochs(one.epochs, one.epochs_before),
            str(one.seed),
            one.data,
        )
        for one in ours
    ]
    return TextTable(
        "Ours",
        (
            Column("network", text=True),
            Column("accuracy, %"),
            Column("95% interval"),
            Column("with TTA, %"),
            Column("95% interval of that"),
            Column("trained network, %"),
            Column("activations", text=True),
            Column("effective parameters"),
            Column("file, bytes"),
            Column("recipe", text=True),
            Column("epochs"),
            Column("seed"),
            Column("data", text=True),
        ),
        tuple(rows),
        (
            "Accuracy is the packed file's on the whole test set (the trained network's where it is not "
            "packed); 'trained network' is that of the last epoch before packing. TTA is test-time "
            "augmentation: the mean over a picture and its mirror image, where it was measured; it stands "
            "in no other table and not in the plot. Intervals are Wilson's, of the test pictures alone: "
            "another seed differs by more than they say.",
        ),
    )


def _letters(ours: Iterable[Ours]) -> dict[str, str]:
    """Return a letter for each treatment: a, b, ..., z, aa, ..."""
    known = dict.fromkeys(one.treatment for one in ours if one.treatment)
    return {treatment: ascii_lowercase[at % 26] * (1 + at // 26) for at, treatment in enumerate(known)}


def _recipe(recipe: str, treatment: str, letters: Mapping[str, str]) -> str:
    return f"{recipe} {letters[treatment]}" if treatment else recipe


def _treatments_table(letters: Mapping[str, str]) -> TextTable:
    return TextTable(
        "What the letters stand for",
        (Column("", text=True), Column("beside the recipe alone", text=True)),
        tuple((letter, treatment) for treatment, letter in letters.items()),
        (
            "'Teacher' is the network whose outputs were learned from, 'from' the one whose weights were "
            "started from; the rest are keys of the recipe set otherwise, as by `--set`. All this is of the "
            "last run alone: how the weights that it started from were trained, their own run says.",
        ),
    )


def _range(interval: tuple[float, float]) -> str:
    return f"{per_cent(interval[0])} to {per_cent(interval[1])}"


def _paper_table() -> TextTable:
    rows = []
    for table in TABLES:
        for row in table.rows:
            computed = cost_of(named_spec(row.model)).effective_parameters or 0
            rows.append(
                (
                    row.model,
                    row.printed_accuracy,
                    row.printed_effective_parameters,
                    count(computed),
                    relative(computed, row.effective_parameters),
                )
            )
    return TextTable(
        "The paper's nine",
        (
            Column("network", text=True),
            Column("accuracy, %"),
            Column("effective parameters, as printed"),
            Column("computed"),
            Column("computed less printed"),
        ),
        tuple(rows),
        ("The paper's accuracies are the best epoch of 100.", TABLE3_NOTE),
    )


def _references_table() -> TextTable:
    rows = []
    for reference in REFERENCES:
        spec = reference.spec()
        cost = None if spec is None else cost_of(spec)
        effective = reference.effective_parameters if cost is None else cost.effective_parameters
        rows.append(
            (
                reference.method,
                reference.network,
                reference.bits,
                reference.printed_accuracy,
                UNKNOWN if cost is None else count(cost.parameters),
                count(effective),
                count(reference.file_bytes if cost is None else cost.weight_bytes),
                "published" if reference.file_bytes is not None else "weights" if cost is not None else "",
                reference.source + (f" ({reference.remark})" if reference.remark else ""),
            )
        )
    return TextTable(
        "Published",
        (
            Column("method", text=True),
            Column("network", text=True),
            Column("precision", text=True),
            Column("accuracy, %"),
            Column("parameters"),
            Column("effective parameters"),
            Column("bytes"),
            Column("of", text=True),
            Column("source", text=True),
        ),
        tuple(rows),
        (SIZES_NOTE, f"'{UNKNOWN}': not published and not counted here; such a point is not in the plot."),
    )


# -- the page ----------------------------------------------------------------------------------------


def _chart_points(ours: Sequence[Ours]) -> list[Point]:
    found = [
        Point(
            _short(one.name),
            "ours",
            one.bits,
            100 * one.accuracy,
            one.effective_parameters,
            one.file_bytes,
        )
        for one in ours
        if one.on_whole_test_set
    ]
    for table in TABLES:
        for row in table.rows:
            cost = cost_of(named_spec(row.model))
            bits = "w1" if cost.binary_parameters else "fp32"
            label, accuracy = _short(row.model), round(100 * row.accuracy, 2)
            computed = cost.effective_parameters or 0
            # Printed figures are cut off after four digits: what is left of that is no difference.
            differs = abs(row.effective_parameters / computed - 1) > 1e-3
            printed = Point("" if differs else label, "paper", bits, accuracy, row.effective_parameters, None)
            where = computed if differs else None
            found += [printed, Point(label, "computed", bits, accuracy, where, cost.weight_bytes)]
    for reference in REFERENCES:
        spec = reference.spec()
        given = None if spec is None else cost_of(spec)
        effective = reference.effective_parameters if given is None else given.effective_parameters
        size = reference.file_bytes if given is None else given.weight_bytes
        kind = reference.network if spec is not None else "MLPerf Tiny"
        # Of each network at each precision the best and the worst are named; the table has them all.
        peers = [r.accuracy for r in REFERENCES if (r.network, r.bits) == (reference.network, reference.bits)]
        label = reference.method if reference.accuracy in (min(peers), max(peers)) else ""
        found.append(Point(label, kind, reference.bits, float(reference.printed_accuracy), effective, size))
    return [point for point in found if point.effective is not None or point.size is not None]


def _short(name: str) -> str:
    return name.removeprefix("resnet14-")


def accuracy_markdown(ours: Sequence[Ours], picture: str) -> str:
    """Return the page; `picture` is the plot's file name beside it."""
    verdicts = [judge(bar, ours) for bar in BARS]
    met = [verdict.state for verdict in verdicts if verdict.bar.accuracy is not None]
    left_out = [one.name for one in ours if not one.on_whole_test_set]
    parts = [
        "# Accuracy against size\n",
        "Generated by `bitskip zoo page`; figures of ours come from the zoo's cards and from results files "
        "that commands wrote. Ours are last-epoch figures on the whole test set, by which no epoch of a run "
        "was chosen (where a run was gone on from after its figure had been seen, a remark says so); the "
        "paper's, and several of the published ones, are the best epoch on the test set.\n",
        f"Bars: {met.count(MET)} met, {met.count(MISSED)} missed, {met.count(NOT_YET)} not yet run.\n",
        f"![Test accuracy against effective parameters and against bytes]({picture})\n",
        "The vertical axis is the logarithm of the error, so that equal steps halve it. Of the published "
        "figures of one network the best and the worst are named; the table below has them all. Bytes are "
        "those of the packed file for ours, as published for MLPerf Tiny, and of the weights alone for the "
        "others.\n",
    ]
    if left_out:
        parts.append("Not in the plot, since not of the whole of CIFAR-10: " + ", ".join(left_out) + ".\n")
    letters = _letters(ours)
    tables = (
        _bars_table(verdicts, letters),
        _shortcuts_table(verdicts, letters),
        _ours_table(ours, letters),
        *((_treatments_table(letters),) if letters else ()),
        _paper_table(),
        _references_table(),
    )
    return "\n".join(parts + [markdown_table(table) for table in tables])


def write_accuracy(ours: Sequence[Ours], page: Path) -> Path:
    """Write the page and, beside it under the same name, the plot as SVG; return the plot's path.

    Raises:
        RunError: if they cannot be written, or matplotlib is missing.
    """
    if page.suffix == ".svg":
        raise RunError(f"got {page} for the page, expected a name such as accuracy.md: the plot takes .svg")
    picture = page.with_suffix(".svg")
    write_text(picture, svg_text(draw_sizes(_chart_points(ours))))
    write_text(page, accuracy_markdown(ours, picture.name))
    return picture
