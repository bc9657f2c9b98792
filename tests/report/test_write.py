"""The report as a whole: its files, its page and its tables, for every kind of study."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import made_up
import pytest
from typer.testing import CliRunner

from bitskip.cli import app
from bitskip.cost import cost_of
from bitskip.errors import RunError
from bitskip.report import draw_spec, print_tables, write_report
from bitskip.report.claims import FAILS, HOLDS, NOT_RUN, judge
from bitskip.report.findings import findings
from bitskip.report.runs import Measured, measured
from bitskip.report.tables import paper_tables
from bitskip.report.wording import points
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study.paper import TABLE3_NOTE, TABLES

STUDIES = {
    "quick": made_up.quick(),
    "two_seeds": made_up.quick(seeds=2),
    "mini": made_up.quick(data=made_up.MINI),
    "two_of_nine": made_up.two_of_nine(),
    "nan": made_up.two_of_nine(nan_from=2),
    "nan_from_the_start": made_up.two_of_nine(nan_from=1),
    "puzzle": made_up.puzzle(),
    "nothing_yet": Results(made_up.study(), ()),
}
DIAGRAMS = {f"figure{number}" for number in (2, 3, 4)}
GRID_FIGURES = {f"figure{number}" for number in (5, 6, 7)} | {"accuracy_vs_effective_parameters"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("reports")
    return {name: write_report(results, root / name).parent for name, results in STUDIES.items()}


def page_tree(folder: Path) -> ElementTree.Element:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))


def page_text(folder: Path) -> str:
    return " ".join("".join(page_tree(folder).itertext()).split())


@pytest.mark.parametrize("name", STUDIES)
def test_files(reports, name):
    figures = set(DIAGRAMS) | ({"puzzle"} if name == "puzzle" else GRID_FIGURES)
    expected = {"tables.md", "report.html"} | {f"{f}.{kind}" for f in figures for kind in ("svg", "png")}
    if name == "puzzle":
        expected.add("puzzle.txt")
    assert {path.name for path in reports[name].iterdir()} == expected
    for figure in figures:
        assert (reports[name] / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(reports[name] / f"{figure}.svg")


@pytest.mark.parametrize("name", STUDIES)
def test_page_is_well_formed_and_needs_nothing_else(reports, name):
    text = (reports[name] / "report.html").read_text(encoding="utf-8")
    tree = page_tree(reports[name])
    for element in tree.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object")
        assert "src" not in element.attrib
        for key, value in element.attrib.items():
            if key.endswith("href"):
                assert value.startswith("#")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "http" not in text
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:url\(|href=")#([^)"]*)', text):
        assert target in ids


@pytest.mark.parametrize("name", ["quick", "two_seeds", "mini", "two_of_nine", "nothing_yet"])
def test_page_and_markdown_hold_every_table_value(reports, name):
    shown = page_text(reports[name])
    markdown = (reports[name] / "tables.md").read_text(encoding="utf-8")
    for table in paper_tables(STUDIES[name]):
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in markdown
            for cell in row:
                assert re.sub(r"×10\^", " × 10", cell) in shown
    assert TABLE3_NOTE in shown
    assert TABLE3_NOTE in markdown


def test_table_values():
    full = paper_tables(STUDIES["quick"])[0]
    assert full.rows[0] == (
        "resnet14-full-all", "ResNet14",
        "91.52", "66.12", "−25.40",
        "2.777×10^6", "2,777,674", "every digit",
        f"{cost_of(named_spec('resnet14-full-all').scaled(0.25)).effective_parameters:,}",
    )  # fmt: skip
    binary = paper_tables(STUDIES["two_of_nine"])[2]
    assert binary.rows[2] == (
        "resnet14-binary-none", "Binary No Residual ResNet14",
        "43.89", "not run", "",
        "1.828×10^4", "93,258", "+410%",
    )  # fmt: skip


def test_seeds_are_a_mean_and_a_spread():
    assert Measured((0.6, 0.62)).per_cent() == "61.00 ± 1.41"  # 0.01 * sqrt(2)
    first = paper_tables(STUDIES["two_seeds"])[0].rows[0]
    assert first[3:5] == ("66.67 ± 0.78", "−24.85")


def test_scale_is_said_at_the_top(reports):
    quick, mini = page_text(reports["quick"]), page_text(reports["mini"])
    assert "0.25 of the paper's width and 3 epochs instead of 100" in quick
    assert "45,000 training, 5,000 validation, 10,000 test pictures, the whole data set" in quick
    assert "bf16-mixed" in quick
    assert "best epoch of 100; ours are the last epoch's" in quick
    assert "accuracies say nothing about the paper's" in mini
    assert "the whole data set" not in mini
    assert "7 of the nine variants were not run" in page_text(reports["two_of_nine"])


def test_claims():
    verdicts = judge(STUDIES["quick"])
    assert [verdict.state for verdict in verdicts] == [HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, FAILS, HOLDS]
    assert verdicts[1].narrow  # 63.01 against 62.87 on 10,000 pictures
    assert not verdicts[0].narrow
    assert {verdict.state for verdict in judge(STUDIES["two_of_nine"])} == {NOT_RUN}


def test_not_finite_losses_are_named(reports):
    assert "not finite" in (reports["nan"] / "figure5.svg").read_text()
    assert "not finite" in page_text(reports["nan"])
    assert "nan" not in page_text(reports["nan"]).lower().replace("finance", "")


def test_one_epoch_has_no_loss_curves(tmp_path):
    study = STUDIES["quick"]
    rows = [dataclasses.replace(row, validation=row.validation[:1]) for row in study.rows]
    page = write_report(dataclasses.replace(study, rows=tuple(rows)), tmp_path)
    assert "Validation losses" not in page_text(tmp_path)
    assert page.is_file()
    assert {path.stem for path in tmp_path.glob("*.svg")} == {
        "figure2",
        "figure3",
        "figure4",
        "accuracy_vs_effective_parameters",
    }


def test_missing_loss_figure_is_a_sentence(reports):
    assert "no binary network was run" in page_text(reports["two_of_nine"])
    assert "no binary network was run" not in page_text(reports["quick"])


def test_puzzle_says_what_was_seen(reports):
    text = (reports["puzzle"] / "puzzle.txt").read_text(encoding="utf-8")
    assert "63.12% (no L2) and 61.87% (L2 1e-4)" in text
    assert "no sign ever flipped" in text
    assert "61.00% of the signs flipped in epoch 1" in text
    assert "likely cause of the paper's low figure, not a proven one" in text
    shown = page_text(reports["puzzle"])
    assert "Table 1" not in shown
    assert "43.11" in shown


def test_puzzle_draws_no_conclusion_that_the_rows_do_not_bear():
    from bitskip.report.puzzle import puzzle_text

    info = made_up.study("puzzle")

    def text(with_estimator: float, without: float) -> str:
        rows = (
            made_up.row("resnet14-binary-all", with_estimator, info, l2=0.0, flips=[0.1, 0.1, 0.1]),
            made_up.row("resnet14-binary-all", without, info, estimator="none", l2=0.0, flips=[0.0] * 3),
        )
        return " ".join(puzzle_text(Results(info, rows)))

    assert "do not show" in text(0.50, 0.46)
    assert "leave its cause open" in text(0.60, 0.20)
    assert "likely cause" in text(0.65, 0.45)
    one = Results(info, (made_up.row("resnet14-binary-all", 0.4, info, estimator="none", l2=0.0),))
    assert "nothing follows yet" in " ".join(puzzle_text(one))


def test_same_results_same_files(reports, tmp_path):
    again = write_report(STUDIES["quick"], tmp_path).parent
    for path in reports["quick"].iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_print_tables(capsys):
    print_tables(STUDIES["quick"])
    shown = capsys.readouterr().out
    for number, accuracy in ((1, "66.12"), (2, "63.01"), (3, "57.33")):
        assert f"Table {number}" in shown
        assert accuracy in shown
    assert "2,777,674" in shown
    assert "last epoch" in shown
    print_tables(STUDIES["puzzle"])
    assert "43.11" in capsys.readouterr().out


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_report(STUDIES["quick"], tmp_path / "file" / "report")


def test_report_and_draw_commands(tmp_path):
    STUDIES["two_of_nine"].save(tmp_path / "results.json")
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "results.json"), "--out", str(tmp_path / "r")])
    assert shown.exit_code == 0, shown.output
    assert "74.69" in shown.output
    assert (tmp_path / "r" / "report.html").is_file()
    picture = tmp_path / "net.svg"
    assert CliRunner().invoke(app, ["draw", "resnet14-hybrid-none", "-o", str(picture)]).exit_code == 0
    assert "resnet14-hybrid-none" in picture.read_text()


def test_draw_refuses_other_endings(tmp_path):
    with pytest.raises(RunError, match=r"\.svg or \.png"):
        draw_spec(named_spec("resnet20"), tmp_path / "net.pdf")


def test_report_loads_no_torch(tmp_path):
    STUDIES["two_of_nine"].save(tmp_path / "results.json")
    code = (
        "import sys; from bitskip.results.study import Results; from bitskip.report import write_report; "
        f"write_report(Results.load({str(tmp_path / 'results.json')!r}), {str(tmp_path)!r}); "
        "assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_models_of_the_tables_are_the_paper_variants():
    assert tuple(row.model for table in TABLES for row in table.rows) == PAPER_VARIANTS


def test_the_page_leads_with_findings_and_ends_with_settings(reports):
    text = page_text(reports["quick"])
    order = [
        text.index("Removing every shortcut changed accuracy by"),
        text.index("At the paper's own length"),
        text.index("Not at the paper's scale"),
        text.rindex("Four ways to the nine variants"),
        text.rindex("Settings, machine and versions"),
        text.index("Made-up Processor"),
    ]
    assert order == sorted(order)


def test_findings_are_differences_of_the_rows():
    first = findings(STUDIES["quick"])[0]
    whole, without = (measured(STUDIES["quick"], f"resnet14-hybrid-{policy}") for policy in ("all", "none"))
    assert f"{points(without.mean - whole.mean)} points (hybrid)" in first
    assert first.endswith("points (binary) in these runs; by −6.35, −1.63 and −4.19 in the paper.")
    assert not [text for text in findings(STUDIES["nothing_yet"]) if "these runs" in text]


def test_what_a_preset_changes_is_said(tmp_path):
    changes = {"batch_size": 64, "resolution": [[0.5, 12], [0.35, 16]]}
    info = dataclasses.replace(made_up.study(), extra={"changes": changes})
    shown = page_text(write_report(dataclasses.replace(STUDIES["quick"], study=info), tmp_path).parent)
    assert "at 12 pixels for 50% of its length and at 16 pixels for 35% of its length; the test" in shown
    assert "paper, changed: batch_size=64, resolution=[[0.5, 12], [0.35, 16]]" in shown
