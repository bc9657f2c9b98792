"""The report's tables as text cells, to be set as Markdown, HTML or on the terminal.

Every number comes from the results or is counted from the spec; what the paper printed stands as printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitskip.cost import Cost, cost_of
from bitskip.report.claims import judge
from bitskip.report.runs import (
    ESTIMATOR_NAMES,
    grid_rows,
    l2_name,
    measured,
    other_models,
    treatments,
)
from bitskip.report.wording import (
    NOT_RUN,
    UNKNOWN,
    count,
    duration,
    loss,
    per_cent,
    points,
    relative,
)
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study.paper import TABLES, PaperRow, PaperTable, paper_row
from bitskip.terminal import byte_size

EVERY_DIGIT = "every digit"


@dataclass(frozen=True)
class Column:
    """A column; columns that share a group stand under one heading."""

    heading: str
    group: str = ""
    text: bool = False  # flush left

    @property
    def full_heading(self) -> str:
        """The heading where groups cannot be shown."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class TextTable:
    """A title, columns and rows of cells."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


_ACCURACY = "accuracy, %"
_EFFECTIVE = "effective parameters"


def paper_tables(results: Results, printed_names: bool = True) -> list[TextTable]:
    """Return the paper's tables 1 to 3 with its figures, ours and the difference."""
    return [paper_table(results, table, printed_names) for table in TABLES]


def paper_table(results: Results, table: PaperTable, printed_names: bool = True) -> TextTable:
    """Return one of the paper's tables with its figures, ours and the difference.

    Effective parameters are counted at full width, as in the paper, and at the trained width where
    that differs.
    """
    width = results.study.width
    columns = [
        Column("model", text=True),
        *([Column("in the paper", text=True)] if printed_names else []),
        Column("paper", _ACCURACY),
        Column("ours", _ACCURACY),
        Column("difference", _ACCURACY),
        Column("paper", _EFFECTIVE),
        Column("counted", _EFFECTIVE),
        Column("difference", _EFFECTIVE),
        *([Column(f"at width {width:g}", _EFFECTIVE)] if width != 1 else []),
    ]
    rows = []
    for row in table.rows:
        ours = measured(results, row.model)
        spec = named_spec(row.model)
        counted = _effective(cost_of(spec))
        rows.append(
            (
                row.model,
                *([row.printed_name] if printed_names else []),
                row.printed_accuracy,
                NOT_RUN if ours is None else ours.per_cent(),
                "" if ours is None else points(ours.mean - row.accuracy),
                row.printed_effective_parameters,
                count(counted),
                _difference(row, counted),
                *([count(_effective(cost_of(spec.scaled(width))))] if width != 1 else []),
            )
        )
    return TextTable(f"Table {table.number}: {table.caption}", tuple(columns), tuple(rows))


def agrees_to_every_digit(row: PaperRow, counted: float) -> bool:
    """Whether `counted`, cut off after the paper's digits, is the paper's figure."""
    mantissa, _, exponent = row.printed_effective_parameters.partition("×10^")
    digits = len(mantissa.partition(".")[2])
    unit: float = 10.0 ** (int(exponent) - digits)
    return bool(counted // unit == float(mantissa.replace(".", "")))


def _difference(row: PaperRow, counted: float) -> str:
    if agrees_to_every_digit(row, counted):
        return EVERY_DIGIT
    return relative(counted, row.effective_parameters)


def _effective(cost: Cost) -> float:
    effective = cost.effective_parameters
    assert effective is not None  # every layer of a spec is counted
    return effective


def table3_check() -> TextTable:
    """Return the effective parameters of Table 3: printed, by the paper's definition, and Table 2's / 32."""
    hybrid, binary = TABLES[1].rows, TABLES[2].rows
    rows = []
    for row, above in zip(binary, hybrid, strict=True):
        cost = cost_of(named_spec(row.model))
        assert cost.parameters is not None
        assert cost.binary_parameters is not None
        real = cost.parameters - cost.binary_parameters
        rows.append(
            (
                row.model,
                row.printed_effective_parameters,
                count(real),
                count(cost.binary_parameters),
                count(_effective(cost)),
                count(round(above.effective_parameters / 32)),
            )
        )
    return TextTable(
        "Effective parameters of Table 3",
        (
            Column("model", text=True),
            Column("paper"),
            Column("32-bit", "by the definition"),
            Column("1-bit", "by the definition"),
            Column("effective", "by the definition"),
            Column("Table 2's figure / 32"),
        ),
        tuple(rows),
    )


def claims_table(results: Results) -> TextTable:
    """Return the paper's orderings and whether they hold in these runs."""
    rows = [
        (verdict.claim.text, verdict.claim.source, str(verdict), "; ".join(map(str, verdict.pairs)))
        for verdict in judge(results)
    ]
    return TextTable(
        "What the paper's tables say, and these runs",
        (
            Column("the paper's ordering", text=True),
            Column("source", text=True),
            Column("here", text=True),
            Column("our accuracies, % (difference in points)", text=True),
        ),
        tuple(rows),
        (
            "Within noise: the difference is below two standard errors of sampling "
            f"{count(results.study.data.test_images)} test pictures. "
            "How far runs with other seeds differ comes on top.",
        ),
    )


def cost_table(width: float = 1.0) -> TextTable:
    """Return what the nine variants cost for one picture, with every width multiplied by `width`."""
    rows = []
    for name in PAPER_VARIANTS:
        cost = cost_of(named_spec(name).scaled(width))
        rows.append(
            (
                name,
                count(cost.parameters),
                count(cost.binary_parameters),
                count(cost.effective_parameters),
                count(cost.macs),
                count(cost.binary_weight_macs),
                byte_size(cost.weight_bytes),
                byte_size(cost.peak_activation_bytes["naive"]),
                byte_size(cost.peak_activation_bytes["in_place"]),
            )
        )
    return TextTable(
        "Cost at full width" if width == 1 else f"Cost at the trained width ({width:g})",
        (
            Column("model", text=True),
            Column("all", "parameters"),
            Column("1-bit", "parameters"),
            Column("effective", "parameters"),
            Column("all", "MACs"),
            Column("1-bit weights", "MACs"),
            Column("weights", "memory"),
            Column("naive", "peak activations"),
            Column("in place", "peak activations"),
        ),
        tuple(rows),
    )


def treatments_table(results: Results) -> TextTable:
    """Return the puzzle's treatments: accuracy and how many signs flipped."""
    rows = []
    for treatment in treatments(results):
        flips = treatment.sign_flip_share
        shown = (flips[0], max(flips), flips[-1]) if flips else ()
        paper = paper_row(treatment.model)
        rows.append(
            (
                treatment.model,
                ESTIMATOR_NAMES.get(treatment.estimator, treatment.estimator),
                l2_name(treatment.l2).removeprefix("L2 ").replace("no L2", "none"),
                treatment.accuracy.per_cent(),
                paper.printed_accuracy if paper else "",
                *(per_cent(share) for share in shown),
                *([UNKNOWN] * (3 - len(shown))),
            )
        )
    flips_group = "signs flipped in an epoch, %"
    return TextTable(
        "The puzzle of Table 3: gradient estimator and L2",
        (
            Column("model", text=True),
            Column("gradient of sign", text=True),
            Column("coupled L2", text=True),
            Column("ours", _ACCURACY),
            Column("paper", _ACCURACY),
            Column("first", flips_group),
            Column("most", flips_group),
            Column("last", flips_group),
        ),
        tuple(rows),
    )


def other_models_table(results: Results) -> TextTable:
    """Return the models of the study that the paper does not have."""
    rows = []
    for model in other_models(results):
        accuracy = measured(results, model)
        counts = grid_rows(results, model)[0].counts
        rows.append(
            (
                model,
                "" if accuracy is None else accuracy.per_cent(),
                count(counts.parameters),
                count(counts.binary_parameters),
                count(counts.effective_parameters),
                count(counts.macs),
                byte_size(counts.weight_bytes),
            )
        )
    headings = ("parameters", "1-bit parameters", "effective parameters", "MACs", "weight memory")
    return TextTable(
        "Other networks of this study",
        (Column("model", text=True), Column(_ACCURACY), *map(Column, headings)),
        tuple(rows),
    )


def runs_table(results: Results) -> TextTable:
    """Return one line a run: its settings, how its last epoch ended, how long it took."""
    rows = []
    for row in results.rows:
        trained = row.train[-1] if row.train else None
        validated = row.validation[-1] if row.validation else None
        rows.append(
            (
                row.model,
                str(row.seed),
                row.estimator + ("" if row.l2 is None else f", {l2_name(row.l2)}"),
                f"{row.epochs} × {row.width:g}",
                loss(trained.loss) if trained else "",
                per_cent(trained.accuracy) if trained else "",
                loss(validated.loss) if validated else "",
                per_cent(validated.accuracy) if validated else "",
                loss(row.test_loss),
                per_cent(row.test_accuracy),
                duration(row.seconds),
            )
        )
    return TextTable(
        "The runs, at their last epoch",
        (
            Column("model", text=True),
            Column("seed"),
            Column("estimator", text=True),
            Column("epochs × width"),
            Column("loss", "training"),
            Column("accuracy, %", "training"),
            Column("loss", "validation"),
            Column("accuracy, %", "validation"),
            Column("loss", "test"),
            Column("accuracy, %", "test"),
            Column("training time"),
        ),
        tuple(rows),
    )
