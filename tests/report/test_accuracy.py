"""Accuracy against size: the right figures, bars judged from data, and a plot that holds what it should."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import pytest

from bitskip.cost import cost_of
from bitskip.errors import FileFormatError, RunError
from bitskip.files import write_json
from bitskip.report.accuracy import (
    MET,
    MISSED,
    NOT_YET,
    TRAINED,
    accuracy_markdown,
    judge,
    write_accuracy,
)
from bitskip.report.ours import Ours, ours_of_card, ours_of_file
from bitskip.results.study import Results
from bitskip.runtime.accuracy import wilson_interval
from bitskip.spec import named_spec
from bitskip.study.paper import TABLES
from bitskip.study.references import BARS, REFERENCES, Bar
from bitskip.zoo import Card, card_of, zoo_names


def _card(model: str = "resnet14-hybrid-all") -> Card:
    cost = cost_of(named_spec(model))
    assert cost.effective_parameters is not None
    values: dict[str, Any] = {
        "name": f"{model}-int8",
        "model": model,
        "recipe": "modern",
        "epochs": 15,
        "seed": 3,
        "data": "CIFAR-10",
        "test_images": 10_000,
        "test_accuracy": 0.9217,
        "trained_accuracy": 0.9221,
        "interval": (0.9163, 0.9268),
        "effective_parameters": cost.effective_parameters,
        "binary_parameters": cost.binary_parameters,
        "activations": "int8",
        "file_bytes": 2_345_678,
        "tta": {"kind": "flip", "accuracy": 0.9299, "interval_95": [0.9247, 0.9347], "hits": 9299},
        "epochs_before": 0,
        **dict.fromkeys(("changes", "teacher", "warm_start", "remark"), ""),
    }
    return dataclasses.replace(card_of("resnet14-hybrid-all-int8"), **values)


def _ours(model: str = "resnet14-hybrid-all", **changes: Any) -> Ours:
    return dataclasses.replace(ours_of_card(_card(model)), **changes)


def _rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the table under a heading, by their first cell."""
    part = page[page.index(f"## {heading}") :].split("\n\n")[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


def _bar(title: str) -> Bar:
    return next(bar for bar in BARS if bar.title == title)


def test_page_holds_what_the_cards_say() -> None:
    page = accuracy_markdown([ours_of_card(_card())], "accuracy.svg")
    (row,) = _rows(page, "Ours").values()
    assert row[:5] == ["92.17", "91.63 to 92.68", "92.99", "92.47 to 93.47", "92.21"]
    effective = f"{2_777_674 - 2_244_608 + 2_244_608 // 32:,}"
    assert row[5:] == ["int8", effective, "2,345,678", "modern", "15", "3", "CIFAR-10"]
    assert "last-epoch figures" in page
    assert "Bars: 1 met, 0 missed, 7 not yet run." in page
    assert _rows(page, "Bars")["resnet14-hybrid-all"][:5] == ["92.00", "20", "met", "92.21", "+0.21"]
    assert "](accuracy.svg)" in page


def test_page_holds_the_papers_figures_and_the_published_ones() -> None:
    page = accuracy_markdown([], "accuracy.svg")
    paper = _rows(page, "The paper's nine")
    assert len(paper) == sum(len(table.rows) for table in TABLES) == 9
    assert paper["resnet14-binary-all"][:3] == ["48.08", "1.893×10^4", "95,306"]
    assert paper["resnet14-full-none"][:3] == ["85.17", "2.735×10^6", "2,735,946"]
    part = page[page.index("## Published") :]
    assert part.count("\n| ") == 2 + len(REFERENCES)
    assert "| ReSTE | ResNet-18 | w1a1 | 92.63 | 11,173,962 |" in part
    assert re.search(r"\| ReCU \| VGG-small \| w1a1 \| 93.3 \| \? \| \? \| \? \|", part)
    assert "98,496" in part


def test_sizes_of_published_networks_are_counted_with_real_ends() -> None:
    by_key = {(r.method, r.network, r.bits): r for r in REFERENCES}
    spec = by_key["ReSTE", "ResNet-18", "w1a1"].spec()
    assert spec is not None
    cost = cost_of(spec)
    assert cost.parameters == 11_173_962  # "11.17M" in the papers
    real = 3 * 3 * 3 * 64 + (512 * 10 + 10)
    norms = 2 * (64 + 4 * 64 + 4 * 128 + 4 * 256 + 4 * 512 + 128 + 256 + 512)
    assert cost.effective_parameters == real + norms + (11_173_962 - real - norms) / 32
    small = by_key["IR-Net", "ResNet-20", "w1"].spec()
    assert small is not None
    assert round(cost_of(small).parameters or 0, -4) == 270_000  # "0.27M"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"trained_accuracy": 0.92}, MET),
        ({"trained_accuracy": 0.9199, "accuracy": 0.93, "tta_accuracy": 0.95}, MISSED),
        ({"epochs": 21}, NOT_YET),
        ({"epochs": 8, "epochs_before": 12, "trained_accuracy": 0.92}, MET),
        ({"epochs": 9, "epochs_before": 12, "trained_accuracy": 0.92}, NOT_YET),
        ({"data": "bundled mini set (CIFAR-10 subset)", "test_images": 500}, NOT_YET),
        ({"test_images": 500}, NOT_YET),
        ({"model": "resnet14-hybrid-all-x0.5"}, NOT_YET),
    ],
)
def test_a_bar_is_judged_by_the_last_epoch_on_the_whole_test_set(changes: dict[str, Any], state: str) -> None:
    assert judge(_bar("resnet14-hybrid-all"), [_ours(**changes)]).state == state


def test_a_bar_takes_the_mean_over_seeds_and_a_run_packed_twice_counts_once() -> None:
    bar = _bar("resnet14-hybrid-all")
    high, low = _ours(trained_accuracy=0.93), _ours(seed=4, trained_accuracy=0.90)
    verdict = judge(bar, [high, dataclasses.replace(high, activations="fp32"), low])
    assert (verdict.state, verdict.seeds) == (MISSED, 2)
    assert verdict.accuracy == pytest.approx(0.915)
    # Another treatment is another way of training, not another seed of the same.
    taught = _ours(seed=4, trained_accuracy=0.925, treatment="teacher")
    verdict = judge(bar, [high, low, taught])
    assert (verdict.treatment, verdict.seeds, verdict.accuracy) == ("teacher", 1, 0.925)
    longer = _ours(epochs=20, trained_accuracy=0.921)
    assert (judge(bar, [high, low, longer]).epochs, judge(bar, [longer]).state) == (20, MET)


def test_one_run_with_two_figures_is_an_error() -> None:
    with pytest.raises(RunError, match="two results of resnet14-hybrid-all .* differ in accuracy"):
        judge(_bar("resnet14-hybrid-all"), [_ours(trained_accuracy=0.93), _ours(trained_accuracy=0.92)])


def test_a_remark_stands_below_the_bars() -> None:
    remark = "gone on with after its figure was seen"
    ours = [_ours(trained_accuracy=0.93, remark=remark, epochs=8, epochs_before=10)]
    page = accuracy_markdown(ours, "a.svg")
    assert f"resnet14-hybrid-all: {remark}." in page
    assert "| 8 after 10 |" in page


def test_a_letter_stands_for_each_way_of_training() -> None:
    taught, cut = "teacher t, from w", "teacher t, from w, augmentation.crop=2"
    ours = [
        _ours(name="plain", model="resnet14-full-none"),
        _ours(name="one", model="resnet14-full-none", treatment=taught),
        _ours(name="two", treatment=cut),
        _ours(name="three", model="resnet14-full-none", treatment=taught),
    ]
    page = accuracy_markdown(ours, "a.svg")
    recipes = {name: row[8] for name, row in _rows(page, "Ours").items()}
    assert recipes == {"plain": "modern", "one": "modern a", "two": "modern b", "three": "modern a"}
    assert _rows(page, "Bars")["resnet14-hybrid-all"][5] == "modern b"
    assert _rows(page, "What the letters stand for") == {"a": [taught], "b": [cut]}
    assert "letters stand for" not in accuracy_markdown(ours[:1], "a.svg")


def test_what_shortcuts_are_worth_stands_beside_the_papers_differences() -> None:
    ours = [
        _ours(f"resnet14-binary-{policy}", trained_accuracy=accuracy, epochs=6, treatment=treatment)
        for policy, accuracy, treatment in (("all", 0.9, ""), ("none", 0.875, "teacher t"))
    ]
    rows = _rows(accuracy_markdown(ours, "plot.svg"), "What shortcuts are worth")
    assert rows["binary"] == ["90.00", "", "87.50 (a)", "", "+1.01", "\u22122.50", "\u22124.19"]
    assert rows["full"] == ["", "", "", "", "\u22123.21", "", "\u22126.35"]


def test_bars_without_a_figure_and_bars_of_size() -> None:
    assert judge(_bar("resnet14-full-middle"), [_ours("resnet14-full-middle")]).state == TRAINED
    size = next(bar for bar in BARS if bar.most_effective_parameters is not None)
    fits = dataclasses.replace(_ours(), model="mine", effective_parameters=18_930, trained_accuracy=0.88)
    assert judge(size, [fits]).state == MET
    assert judge(size, [dataclasses.replace(fits, effective_parameters=18_931)]).state == NOT_YET


def test_results_files_and_runs_are_read(tmp_path: Path) -> None:
    info = made_up.study(epochs=3)
    results = Results(info, ()).with_row(made_up.row("resnet14-binary-all", 0.66, info))
    results.save(tmp_path / "results.json")
    (one,) = ours_of_file(tmp_path / "results.json")
    spec = named_spec("resnet14-binary-all-x0.25")
    assert (one.name, one.accuracy, one.epochs, one.bits) == ("resnet14-binary-all-x0.25", 0.66, 3, "w1")
    assert one.effective_parameters == cost_of(spec).effective_parameters
    assert one.interval == wilson_interval(6600, 10_000)
    run = tmp_path / "run"
    values = {"recipe": "modern", "epochs": 9, "seed": 1, "data": "CIFAR-10", "test_images": 10_000}
    values |= {"teacher": "t", "warm_start": "w", "changes": {"latent.clip": 1.0}, "test_accuracy": 0.8}
    write_json(run / "result.json", values)
    write_json(run / "spec.json", named_spec("resnet14-w1a1").to_dict())
    (two,) = ours_of_file(run / "result.json")
    assert (two.name, two.bits, two.file_bytes, two.seed) == ("resnet14-w1a1", "w1a1", None, 1)
    assert two.treatment == "teacher t, from w, latent.clip=1.0"
    assert two.epochs_before == 0
    write_json(run / "result.json", values | {"epochs_before": 12})
    assert ours_of_file(run / "result.json")[0].epochs_before == 12
    write_json(run / "result.json", {"test_accuracy": 0.8})
    with pytest.raises(FileFormatError, match="neither a study's results file nor a run's result.json"):
        ours_of_file(run / "result.json")


def test_plot_names_ours_and_leaves_out_what_has_no_size(tmp_path: Path) -> None:
    ours = [_ours(name="resnet14-mine"), _ours(name="half", data="mini")]
    picture = write_accuracy(ours, tmp_path / "a.md")
    assert picture == tmp_path / "a.svg"
    texts = re.findall(r">([^<>]+)</text>", picture.read_text())
    assert texts.count("mine") == 2  # one in each panel
    assert "half" not in texts
    assert "Not in the plot" in (tmp_path / "a.md").read_text()
    assert texts.count("MLPerf Tiny") == 2
    assert texts.count("MLPerf Tiny 2") == 1  # its parameters are not known
    assert "XNOR-NIN" not in texts
    assert texts.count("binary-none") == 2
    before = picture.read_bytes()
    write_accuracy(ours, tmp_path / "a.md")
    assert picture.read_bytes() == before


def test_command_writes_the_zoos_page(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    out = tmp_path / "accuracy.md"
    end = bitskip("zoo", "page", "--out", str(out), "--json")
    assert end.code == 0
    values = json.loads(end.out)
    assert Path(values["plot"]).is_file()
    assert tuple(_rows(out.read_text(), "Ours")) == zoo_names()
    states = [bar["state"] for bar in values["bars"] if bar["bar"] is not None]
    assert f"Bars: {states.count(MET)} met, {states.count(MISSED)} missed, " in out.read_text()
    end = bitskip("zoo", "page", "--out", str(out), "--results", str(tmp_path / "nothing.json"))
    assert end.code == 2
    assert "cannot read" in end.err


def test_a_card_outside_the_zoo_is_shown_as_packed(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    out, card = tmp_path / "accuracy.md", tmp_path / "elsewhere.json"
    values = card_of(zoo_names()[0]).to_dict() | {"name": "elsewhere", "seed": 77, "file_bytes": 1234}
    card.write_text(json.dumps(values))
    assert bitskip("zoo", "page", "--out", str(out), "--results", str(card)).code == 0
    assert "| elsewhere |" in out.read_text()
    assert "| 1,234 |" in out.read_text()
    del values["model"]
    card.write_text(json.dumps(values))
    end = bitskip("zoo", "page", "--out", str(out), "--results", str(card))
    assert end.code == 2
    assert "key 'model' is missing" in end.err
    assert "reinstall" not in end.err, "the file is the user's, not the package's"


def test_the_page_does_not_take_the_plots_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a name such as accuracy.md"):
        write_accuracy([], tmp_path / "page.svg")
    assert not list(tmp_path.iterdir())
