"""The paper's figures as data: exactly as printed, and against what the spec counts."""

from __future__ import annotations

import pytest

from bitskip.cost import cost_of
from bitskip.errors import BitskipError
from bitskip.report.tables import agrees_to_every_digit
from bitskip.results.study import PaperFigures
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study.paper import (
    CLAIMS,
    FIGURES,
    TABLES,
    paper_figures,
    paper_row,
    policies_of,
    policies_of_or_none,
)

# As the paper's tables print them: name, effective 32-bit parameters, accuracy.
PRINTED = {
    "resnet14-full-all": ("ResNet14", "2.777×10^6", "91.52"),
    "resnet14-full-middle": ("Hybrid Res ResNet14", "2.744×10^6", "88.31"),
    "resnet14-full-none": ("No Residual ResNet14", "2.735×10^6", "85.17"),
    "resnet14-hybrid-all": ("Hybrid Binary ResNet14", "6.056×10^5", "88.59"),
    "resnet14-hybrid-middle": ("Hybrid Binary Hybrid Res ResNet14", "6.051×10^5", "88.49"),
    "resnet14-hybrid-none": ("Hybrid Binary No Residual ResNet14", "6.025×10^5", "86.96"),
    "resnet14-binary-all": ("Binary ResNet14", "1.893×10^4", "48.08"),
    "resnet14-binary-middle": ("Binary Hybrid Res ResNet14", "1.891×10^4", "49.09"),
    "resnet14-binary-none": ("Binary No Residual ResNet14", "1.828×10^4", "43.89"),
}
CAPTIONS = (
    "Full Precision ResNet Variant's Max accuracy and Effective 32-bit Parameters",
    "Hybrid Binary ResNet Variant's Max accuracy and Effective 32-bit Parameters",
    "Full Binary ResNet Variant's Max accuracy and Effective 32-bit Parameters",
)


def test_tables_as_printed():
    rows = {
        row.model: (row.printed_name, row.printed_effective_parameters, row.printed_accuracy)
        for table in TABLES
        for row in table.rows
    }
    assert rows == PRINTED
    assert tuple(table.caption for table in TABLES) == CAPTIONS
    assert [(table.number, table.loss_figure) for table in TABLES] == [(1, 5), (2, 6), (3, 7)]
    assert [table.loss_caption for table in TABLES] == [
        "Full Precision 32-bit ResNet14 Training",
        "Hybrid Binarized ResNet14 Training",
        "Fully Binarized ResNet14 Training",
    ]


@pytest.mark.parametrize("model", PAPER_VARIANTS)
def test_numbers_are_those_of_the_print(model):
    row = paper_row(model)
    assert row is not None
    _, effective, accuracy = PRINTED[model]
    mantissa, exponent = effective.split("×10^")
    assert row.effective_parameters == pytest.approx(float(mantissa) * 10 ** int(exponent), rel=1e-12)
    assert row.accuracy == pytest.approx(float(accuracy) / 100, abs=1e-12)
    assert paper_figures(model) == PaperFigures(row.accuracy, row.effective_parameters)


def test_counts_against_the_spec():
    for table in TABLES:
        for row in table.rows:
            counted = cost_of(named_spec(row.model)).effective_parameters
            assert counted is not None
            assert agrees_to_every_digit(row, counted) == (table.precision_policy == "full")
            if table.precision_policy == "hybrid":
                assert counted == pytest.approx(row.effective_parameters, rel=0.016)


def test_table3_is_table2_over_32_as_its_note_says():
    for hybrid, binary in zip(TABLES[1].rows, TABLES[2].rows, strict=True):
        # 6.025e5 / 32 = 1.8828e4, which the paper prints as 1.828e4.
        assert hybrid.effective_parameters / 32 == pytest.approx(binary.effective_parameters, rel=0.031)
        counted = cost_of(named_spec(binary.model)).effective_parameters
        assert counted is not None
        assert counted > 4.9 * binary.effective_parameters


def test_the_papers_own_figures_bear_out_every_claim():
    for claim in CLAIMS:
        assert len(claim.higher) == len(claim.lower) > 0
        for higher, lower in zip(claim.higher, claim.lower, strict=True):
            assert float(PRINTED[higher][2]) > float(PRINTED[lower][2]), claim.text


def test_figures_name_variants():
    assert [number for number, _, _ in FIGURES] == [2, 3, 4]
    assert all(model in PAPER_VARIANTS for _, model, _ in FIGURES)


def test_policies():
    assert policies_of("resnet14-hybrid-middle") == ("hybrid", "middle")
    for other in ("resnet20", "resnet14-w1a1", "resnet14-hybrid-middle-x0.25", "resnet14-hybrid", ""):
        assert policies_of_or_none(other) is None
        assert paper_row(other) is None
        assert paper_figures(other) is None
    with pytest.raises(BitskipError, match="none of the paper's nine"):
        policies_of("resnet20")
