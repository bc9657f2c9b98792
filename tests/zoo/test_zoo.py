"""The zoo: every card describes the file beside it, and the models do what their cards say."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitskip.cli.options import parse_changes
from bitskip.cost import cost_of
from bitskip.errors import FileFormatError, SpecError
from bitskip.files import read_json
from bitskip.program import Program
from bitskip.runtime.accuracy import wilson_interval
from bitskip.spec import NetworkSpec, resolve_spec
from bitskip.training import load_recipe
from bitskip.zoo import card_of, catalog, model_path, zoo_names

MEBIBYTE = 1024 * 1024
RUNS = Path(__file__).parents[2] / "results" / "runs"
IN_ZOO = [catalog.models_folder() / f"{name}.json" for name in zoo_names()]
# Of packed files that have no room in the zoo only the cards are kept; their commands make the files again.
ELSEWHERE = sorted(RUNS.glob("*/*-int8.json"))


def test_there_are_models_and_they_fit_into_8_mib() -> None:
    names = zoo_names()
    assert names
    assert sum(path.stat().st_size for path in catalog.models_folder().iterdir()) <= 8 * MEBIBYTE


@pytest.mark.parametrize("file", IN_ZOO, ids=lambda f: f.stem)
def test_a_card_describes_its_file(file: Path) -> None:
    card = catalog.Card.from_dict(json.loads(file.read_text()), str(file))
    path = file.with_suffix(".bitskip")
    catalog.check_file(path, card)
    assert card.name == file.stem
    assert path.stat().st_size == card.file_bytes
    assert card.file_bytes <= 4 * card.effective_parameters * 1.02 + 4096
    program = Program.load(path)
    assert program.spec is not None
    spec = NetworkSpec.from_dict(dict(program.spec), card.name)
    assert spec.name == card.model
    cost = cost_of(spec)
    assert (card.parameters, card.binary_parameters) == (cost.parameters, cost.binary_parameters)
    assert card.effective_parameters == cost.effective_parameters
    assert card.test_accuracy == card.test_correct / card.test_images
    if card.tta is not None:
        assert card.tta["accuracy"] == card.tta["hits"] / card.test_images
        interval = wilson_interval(card.tta["hits"], card.test_images)
        assert card.tta["interval_95"] == pytest.approx(interval)
    assert card.interval == pytest.approx(wilson_interval(card.test_correct, card.test_images))
    assert (program.activations, program.dense) == (card.activations, card.dense)
    winograd = "convolutions" in card.training.get("versions", {})
    for command in card.command.split(" && "):
        assert command.startswith("python tools/winograd/train.py train " if winograd else "bitskip train ")
    assert [entry["epoch"] for entry in card.training["history"]] == list(range(1, card.epochs + 1))


@pytest.mark.parametrize("file", IN_ZOO + ELSEWHERE, ids=lambda f: f.stem)
def test_a_cards_command_asks_for_the_recipe_that_its_run_had(file: Path) -> None:
    card = catalog.Card.from_dict(json.loads(file.read_text()), str(file))
    run = RUNS / card.model
    words = shlex.split(card.command.rpartition(" && ")[2])
    options = list(itertools.pairwise(words))
    changes = parse_changes([value for option, value in options if option == "--set"])
    (epochs,) = (int(value) for option, value in options if option == "--epochs")
    spec = resolve_spec(str(run / "spec.json"))
    asked = load_recipe(card.recipe, spec, changes | {"epochs": epochs}).model_dump(exclude={"source"})
    kept = load_recipe(str(run / "recipe.yaml")).model_dump(exclude={"source"})
    if card.teacher is None:  # how it would be distilled makes no difference
        del asked["distillation"], kept["distillation"]
    assert asked == kept
    assert card.changes == read_json(run / "result.json")["changes"]


@pytest.mark.skipif(not os.environ.get("BITSKIP_DATA"), reason="needs the whole of CIFAR-10 in BITSKIP_DATA")
@pytest.mark.parametrize("name", zoo_names())
def test_a_model_reaches_its_card(name: str, bitskip: Callable[..., Any]) -> None:
    end = bitskip("zoo", "eval", name, "--json")
    values = json.loads(end.out)
    if values["test_images"] != card_of(name).test_images:
        pytest.skip(f"BITSKIP_DATA holds {values['data']}, not what the card was made with")
    assert end.code == 0
    assert values["agrees"]
    assert values["engine"] == "native"


def test_commands_list_and_find(bitskip: Callable[..., Any]) -> None:
    listed = json.loads(bitskip("zoo", "list", "--json").out)
    assert tuple(card["name"] for card in listed) == zoo_names()
    assert all(name in bitskip("zoo", "list").out for name in zoo_names())
    first = zoo_names()[0]
    assert Path(bitskip("zoo", "path", first).out.strip()) == model_path(first)


def test_an_unknown_name_gives_the_nearest(bitskip: Callable[..., Any]) -> None:
    first = zoo_names()[0]
    with pytest.raises(SpecError, match=f"did you mean '{first}'"):
        card_of(first + "x")
    end = bitskip("zoo", "path", first + "x")
    assert end.code == 2
    assert len(end.err.strip().splitlines()) == 1


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one model in a folder of its own."""
    first = zoo_names()[0]
    for ending in ("json", "bitskip"):
        shutil.copy(catalog.models_folder() / f"{first}.{ending}", tmp_path / f"one.{ending}")
    monkeypatch.setattr(catalog, "models_folder", lambda: tmp_path)
    return tmp_path


def test_a_damaged_file_is_refused(copied: Path, bitskip: Callable[..., Any]) -> None:
    assert model_path("one") == copied / "one.bitskip"
    content = bytearray((copied / "one.bitskip").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "one.bitskip").write_bytes(content)
    with pytest.raises(FileFormatError, match="one.bitskip is damaged.*reinstall bitskip"):
        model_path("one")
    assert bitskip("zoo", "eval", "one").code == 2
    (copied / "one.bitskip").unlink()
    with pytest.raises(FileFormatError, match="cannot read"):
        model_path("one")


def test_a_truncated_file_is_refused_before_anything_is_evaluated(
    copied: Path, bitskip: Callable[..., Any]
) -> None:
    path = copied / "one.bitskip"
    path.write_bytes(path.read_bytes()[:100])
    for words in (("eval",), ("eval", "one"), ("path", "one")):
        end = bitskip("zoo", *words)
        assert end.code == 2
        assert "one.bitskip is damaged: 100 bytes" in end.err
        assert len(end.err.strip().splitlines()) == 1


def test_eval_of_all_models_says_when_the_pictures_are_others(
    copied: Path, bitskip: Callable[..., Any]
) -> None:
    end = bitskip("zoo", "eval", "--data", "mini", "--tta", "flip")
    assert end.code == 0
    assert end.out.startswith("one: ")
    assert "on other pictures than its card's" in end.out
    assert "with mirror image" in end.out
    (values,) = json.loads(bitskip("zoo", "eval", "--data", "mini", "--json").out)
    assert (values["name"], values["test_images"], values["agrees"]) == ("one", 500, None)
    assert f"one: {values['correct'] / 500:.2%} of 500" in end.out


def test_a_model_that_misses_its_card_ends_with_1(
    copied: Path, bitskip: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads((copied / "one.json").read_text())
    found = json.loads(bitskip("zoo", "eval", "one", "--data", "mini", "--json").out)
    as_found = values | {"data": found["data"], "test_images": 500, "test_correct": found["correct"]}
    as_found.pop("tta", None)
    (copied / "one.json").write_text(json.dumps(as_found))
    end = bitskip("zoo", "eval", "--data", "mini")
    assert (end.code, "as on its card" in end.out) == (0, True)
    (copied / "one.json").write_text(json.dumps(as_found | {"test_correct": found["correct"] - 2}))
    end = bitskip("zoo", "eval", "--data", "mini")
    assert (end.code, "NOT as on its card" in end.out) == (1, True)


def test_a_card_without_the_newer_keys_is_read(copied: Path) -> None:
    values = json.loads((copied / "one.json").read_text())
    for key in ("tta", "warm_start", "changes"):
        values.pop(key, None)
    (copied / "one.json").write_text(json.dumps(values))
    card = card_of("one")
    assert (card.tta, card.warm_start, card.changes) == (None, None, {})
    assert card_of("one").to_dict() == values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interval": "x"}, "interval is 'x', expected a list"),
        ({"interval": [0.1]}, r"interval is \[0.1\], expected a list of length 2"),
        ({"test_accuracy": "high"}, "test_accuracy is 'high', expected a number from 0 to 1"),
        ({"epochs": True}, "epochs is True, expected a whole number"),
        ({"test_correct": 10**6}, "1000000 correct of 10000 pictures is no share"),
        ({"tta": {"kind": "flip"}}, "tta lacks accuracy, hits, images, interval_95"),
        ({"latency": {}}, "latency lacks median_ms"),
        ({"colour": "blue"}, "unknown key 'colour'"),
        ({"sha256": None}, "sha256 is None, expected a non-empty string"),
    ],
)
def test_a_garbled_card_is_refused(
    copied: Path, change: dict[str, Any], message: str, bitskip: Callable[..., Any]
) -> None:
    values = json.loads((copied / "one.json").read_text()) | change
    (copied / "one.json").write_text(json.dumps(values))
    with pytest.raises(FileFormatError, match=f"{message}.*; reinstall bitskip$"):
        card_of("one")
    end = bitskip("zoo", "list")
    assert end.code == 2
    assert len(end.err.strip().splitlines()) == 1


def test_a_truncated_card_is_refused(copied: Path) -> None:
    text = (copied / "one.json").read_text()
    (copied / "one.json").write_text(text[: len(text) // 2])
    with pytest.raises(FileFormatError, match="one.json is not valid JSON"):
        card_of("one")


@pytest.mark.parametrize("content", ["[]", '{"bitskip_card": 1}', "no json"])
def test_a_damaged_card_is_refused(copied: Path, content: str) -> None:
    (copied / "one.json").write_text(content)
    with pytest.raises(FileFormatError):
        card_of("one")
