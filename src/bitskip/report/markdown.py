"""Text tables as Markdown, and `tables.md`."""

from __future__ import annotations

from bitskip.report.baselines import baselines_table
from bitskip.report.findings import beside_table, findings
from bitskip.report.puzzle import puzzle_text
from bitskip.report.runs import grid_rows, other_models, treatments
from bitskip.report.scale import caveats, facts
from bitskip.report.tables import (
    EVERY_DIGIT,
    TextTable,
    claims_table,
    other_models_table,
    paper_tables,
    table3_check,
    treatments_table,
)
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.paper import DEFINITION, TABLE3_NOTE

DIFFERENCES_NOTE = (
    "Differences are ours less the paper's: accuracies in percentage points, counts in per cent of the "
    f"paper's figure. '{EVERY_DIGIT}' means that the count, cut off after the paper's digits, is its figure."
)


def has_grid(results: Results) -> bool:
    """Whether tables 1 to 3 say anything: not for a study of the puzzle alone."""
    return not treatments(results) or any(grid_rows(results, model) for model in PAPER_VARIANTS)


def markdown_table(table: TextTable) -> str:
    """Return the table with its title as a heading and its notes below."""
    lines = [
        f"## {table.title}",
        "",
        _line([column.full_heading for column in table.columns]),
        _line([":--" if column.text else "--:" for column in table.columns]),
        *(_line(list(row)) for row in table.rows),
    ]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables_markdown(results: Results) -> str:
    """Return `tables.md`: what was found, tables 1 to 3, the note on Table 3, the claims, the settings."""
    parts = [
        "# Tables of the study\n",
        "\n".join(f"- {text}" for text in findings(results)) + "\n",
    ]
    parts += [sentence + "\n" for sentence in caveats(results)]
    if treatments(results):
        parts.append(markdown_table(treatments_table(results)))
        parts += [paragraph + "\n" for paragraph in puzzle_text(results)]
    if has_grid(results):
        parts.append(markdown_table(beside_table(results)))
        parts += [markdown_table(table) for table in paper_tables(results)]
        parts.append(f"Effective parameters: {DEFINITION}. {DIFFERENCES_NOTE}\n")
        parts += [markdown_table(table3_check()), TABLE3_NOTE + "\n", markdown_table(claims_table(results))]
    beside = baselines_table(results)
    if beside is not None:
        parts.append(markdown_table(beside))
    if other_models(results):
        parts.append(markdown_table(other_models_table(results)))
    parts += [
        "## Settings, machine and versions\n",
        "\n".join(f"- {label}: {text}" for label, text in facts(results)) + "\n",
    ]
    return "\n".join(parts)
