"""The one codec: each sentence names file, key, what was got and what was expected; committed files load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from bitskip.errors import FileFormatError
from bitskip.results.ablation import check_ablation
from bitskip.results.codec import Amount, Count, Factor, Loss, Positive, Share, Text, decode, plain
from bitskip.results.recovery import check_recovery
from bitskip.results.study import Results

RESULTS = Path(__file__).parents[2] / "results"


@dataclass(frozen=True)
class Part:
    share: Share
    pair: tuple[Share, Share] | None = None


@dataclass(frozen=True)
class Whole:
    name: Text
    number: Positive
    loss: Loss
    parts: tuple[Part, ...]
    named: Mapping[str, Share]
    kind: Literal["a", "b"] = "a"
    bytes: Count = 0
    width: Factor = 1.0
    seconds: Amount = 0.0
    flag: bool = False
    free: Mapping[str, Any] = field(default_factory=dict)


GOOD = {
    "name": "n", "number": 1, "loss": None, "parts": [{"share": 1}], "named": {"x y": 0.5}, "free": {"a": [1]}
}  # fmt: skip


def test_there_and_back() -> None:
    whole = decode(Whole, GOOD, "f.json")
    assert math.isnan(whole.loss)
    assert whole.parts == (Part(1.0),)
    assert plain(whole) == GOOD | {
        "parts": [{"share": 1.0, "pair": None}], "kind": "a", "bytes": 0, "width": 1.0, "seconds": 0.0,
        "flag": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": ""}, "f.json: name is '', expected a non-empty string"),
        ({"name": 3}, "f.json: name is 3, expected a non-empty string"),
        ({"number": 0}, "f.json: number is 0, expected a whole number of at least 1"),
        ({"number": 1.5}, "f.json: number is 1.5, expected a whole number of at least 1"),
        ({"number": True}, "f.json: number is True, expected a whole number of at least 1"),
        ({"loss": "x"}, "f.json: loss is 'x', expected a number, or null where it was not finite"),
        ({"loss": True}, "f.json: loss is True, expected a number, or null where it was not finite"),
        ({"parts": {}}, "f.json: parts is {}, expected a list"),
        ({"parts": [3]}, "f.json: parts[0]: expected a JSON object, got a number"),
        ({"parts": [{}]}, "f.json: parts[0]: key 'share' is missing"),
        (
            {"parts": [{"share": 0}, {"share": 2}]},
            "f.json: parts[1]: share is 2, expected a number from 0 to 1",
        ),
        (
            {"parts": [{"share": 0, "shaer": 1}]},
            "f.json: parts[0]: unknown key 'shaer'; did you mean 'share'?",
        ),
        (
            {"parts": [{"share": 0, "pair": [1, "x"]}]},
            "f.json: parts[0]: pair[1] is 'x', expected a number from 0 to 1",
        ),
        ({"parts": [{"share": 0, "pair": 1}]}, "f.json: parts[0]: pair is 1, expected a list or null"),
        ({"kind": "c"}, "f.json: kind is 'c', expected one of a, b"),
        ({"width": 0}, "f.json: width is 0, expected a finite number above 0"),
        ({"seconds": math.inf}, "f.json: seconds is inf, expected a finite number of at least 0"),
        ({"seconds": math.nan}, "f.json: seconds is nan, expected a finite number of at least 0"),
        ({"flag": 1}, "f.json: flag is 1, expected true or false"),
        ({"free": [1]}, "f.json: free is [1], expected a JSON object"),
        ({"nmae": 1}, "f.json: unknown key 'nmae'; did you mean 'name'?"),
    ],
)
def test_sentences(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        decode(Whole, GOOD | change, "f.json")
    assert str(caught.value) == sentence


def test_a_value_of_a_free_key_is_said_with_its_place() -> None:
    with pytest.raises(FileFormatError, match=r"^f.json: named"):
        decode(Whole, GOOD | {"named": {"x y": 2}}, "f.json")


def test_another_version_is_refused() -> None:
    for version in (2, True, "1", None):
        with pytest.raises(FileFormatError, match=rf'"tag" is {version!r}, expected 1; is this a file of'):
            decode(Whole, GOOD | {"tag": version}, "f.json", ("tag", 1))
    with pytest.raises(FileFormatError, match="key 'tag' is missing"):
        decode(Whole, GOOD, "f.json", ("tag", 1))
    with pytest.raises(FileFormatError, match="expected a JSON object, got a list"):
        decode(Whole, [], "f.json")


READERS: dict[str, Callable[[Any, str], object]] = {
    "bitskip_results": Results.from_dict,
    "bitskip_ablation": check_ablation,
    "bitskip_shortcut_recovery": check_recovery,
}


def test_committed_results_load() -> None:
    seen = set()
    for path in RESULTS.rglob("results.json"):
        values = json.loads(path.read_text())
        tag = next(iter(READERS.keys() & values.keys()))
        made = READERS[tag](values, str(path))
        seen.add(tag)
        if isinstance(made, Results):
            assert json.loads(made.to_json()) == values
    assert seen == set(READERS)


@pytest.mark.parametrize("name", ["ablation/full", "shortcuts/resnet14-full-all-x0.25"])
def test_a_damaged_file_is_one_sentence(name: str, tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    values = json.loads((RESULTS / name / "results.json").read_text())
    del values["rows"][1]["seconds"]
    (tmp_path / "results.json").write_text(json.dumps(values))
    ran = bitskip("report", str(tmp_path / "results.json"))
    assert ran.code == 2
    assert "results.json: rows[1]: key 'seconds' is missing" in " ".join(ran.err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]
