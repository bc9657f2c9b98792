"""`bitskip eval` class by class, its pictures, and `bitskip compare`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitskip.data import load_images, load_mini
from bitskip.runtime import load
from bitskip.runtime.accuracy import wilson_interval
from bitskip.runtime.confusion import Confusion, paired_difference, top_hits, worst_mistakes
from bitskip.zoo import model_path

Run = Callable[..., Any]
SMALL = "resnet14-binary-all-x0.25-int8"
ROOT = Path(__file__).parents[2]


def test_confusion_counts() -> None:
    logits = np.array([[3, 1, 0], [0, 2, 1], [5, 1, 0], [0, 0, 9]], np.float32)
    found = Confusion.of(logits, np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert found.matrix.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert found.accuracy_of(1).hits == 1  # type: ignore[union-attr]
    assert found.accuracy_of(2) is None
    assert (found.taken_for(0), found.taken_for(1)) == (None, ("a", 1))
    assert found.to_dict()["classes"][1]["interval_95"] == list(wilson_interval(1, 3))


def test_top_hits_and_worst_mistakes() -> None:
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 4, (200, 5)).astype(np.float32)  # with many equal ones
    labels = generator.integers(0, 5, 200)
    order = np.argsort(-logits, axis=1, kind="stable")
    for k in range(1, 6):
        assert top_hits(logits, labels, k) == int((order[:, :k] == labels[:, None]).any(axis=1).sum())
    wrong = worst_mistakes(logits, labels, 7)
    assert len(wrong) == 7
    assert all(m.predicted == order[m.index, 0] != m.label == labels[m.index] for m in wrong)
    assert [m.probability for m in wrong] == sorted((m.probability for m in wrong), reverse=True)


def test_paired_difference() -> None:
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:20], second[10:60] = True, True  # gained 40, lost 10
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(0.30)
    # By hand: p = 40.5/102, q = 10.5/102; (p - q) -+ 1.96 sqrt((p + q - (p - q)^2) / 102).
    assert (low, high) == pytest.approx((0.2941 - 0.1249, 0.2941 + 0.1249), abs=2e-4)


def test_eval_class_by_class(bitskip: Run, tmp_path: Path) -> None:
    words = ("eval", SMALL, "--data", "mini", "--top", "3")
    sheet, drawing = tmp_path / "wrong.png", tmp_path / "matrix.svg"
    ran = bitskip(*words, "--mistakes", str(sheet), "--worst", "7", "--matrix", str(drawing), "--json")
    values = json.loads(ran.out)
    mini = load_mini()
    predicted = load(model_path(SMALL)).predict(mini.test_images).argmax(1)
    matrix = np.array(values["confusion"])
    assert matrix.sum() == 500
    assert np.trace(matrix) == values["hits"] == int((predicted == mini.test_labels).sum())
    assert matrix[3, 5] == int(((mini.test_labels == 3) & (predicted == 5)).sum())
    assert values["classes"][3]["class"] == "cat"
    assert values["classes"][3]["accuracy"] == matrix[3, 3] / 50
    assert values["top"]["hits"] > values["hits"]
    assert len(values["mistakes"]) == 7
    for mistake in values["mistakes"]:
        at = mistake["image"]
        assert mini.class_names[mini.test_labels[at]] == mistake["class"]
        assert mini.class_names[predicted[at]] == mistake["taken_for"] != mistake["class"]
    with Image.open(sheet) as opened:
        assert opened.size[0] > 500
    assert len(ElementTree.parse(drawing).getroot().findall(".//{*}rect")) == 1 + 10 * 10
    said = bitskip(*words, "--per-class", "--confusion").out
    assert "among the 3 likeliest" in said
    assert "most often taken for" in said
    assert f" cat  {matrix[3, 3] / 50:.1%}".split()[1] in said


def test_the_mistakes_of_a_folder_are_named(bitskip: Run, tmp_path: Path) -> None:
    mini = load_mini()
    for label in (3, 5):
        for number, picture in enumerate(mini.train_images[mini.train_labels == label][:60]):
            path = tmp_path / "photos" / mini.class_names[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    ran = bitskip(
        "eval", SMALL, "--data", str(tmp_path / "photos"), "--mistakes", str(tmp_path / "w.jpg"), "--json"
    )
    values = json.loads(ran.out)
    assert "only 2 of 10 classes are tested" in ran.err
    assert values["images"] == len(load_images(tmp_path / "photos", size=32).test_images) > 0
    assert all((tmp_path / "photos" / mistake["image"]).is_file() for mistake in values["mistakes"])
    few = json.loads(bitskip("eval", SMALL, "--data", str(tmp_path / "photos"), "--limit", "6", "--json").out)
    counts = [row["images"] for row in few["classes"] if row["images"]]
    assert (len(counts), sum(counts)) == (2, 6)  # not the first class alone


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--top", "0"), "--top is 0, expected at least 1"),
        (("--top", "11"), "--top is 11, but"),
        (("--worst", "0"), "--worst is 0, expected at least 1"),
        (("--matrix", "m.png"), "expected .svg"),
        (("--mistakes", "m.svg"), "expected .png or .jpg"),
    ],
)
def test_bad_options_are_named(bitskip: Run, words: tuple[str, ...], match: str) -> None:
    ran = bitskip("eval", SMALL, "--data", "mini", *words)
    assert (ran.code, match in ran.err) == (2, True), ran.err


# -- compare ------------------------------------------------------------------------------------------


def test_compare_packed_models_on_the_same_pictures(bitskip: Run) -> None:
    other = "resnet14-full-all-x0.25-int8"
    first, second = json.loads(bitskip("compare", SMALL, other, "--data", "mini", "--json").out)
    assert first["accuracy"] == first["hits"] / 500
    assert first["file_bytes"] == model_path(SMALL).stat().st_size
    difference = second["difference_to_first"]
    assert difference["paired"] is True
    assert difference["accuracy"] == pytest.approx(second["accuracy"] - first["accuracy"])
    low, high = difference["interval_95"]
    assert low < difference["accuracy"] < high
    card = json.loads(bitskip("compare", SMALL, other, "--json").out)
    assert card[0]["data"] == "CIFAR-10"
    assert card[1]["difference_to_first"]["paired"] is False


def test_compare_runs(bitskip: Run) -> None:
    a, b = (str(ROOT / "results" / "runs" / name) for name in ("resnet14-full-all", "resnet14-hybrid-none"))
    first, second = json.loads(bitskip("compare", a, b, "--json").out)
    result = json.loads(Path(a, "result.json").read_text())
    assert first["accuracy"] == result["test_accuracy"]
    assert first["effective_parameters"] == 2_777_674
    assert second["recipe"] == "modern"
    said = bitskip("compare", a, b).out
    assert "resnet14-hybrid-none" in said
    assert f"{result['test_accuracy']:.2%}" in said


def test_compare_says_what_is_wrong(bitskip: Run, tmp_path: Path) -> None:
    for words, match in (
        ((SMALL,), "got 1 model, expected at least 2"),
        ((SMALL, str(tmp_path)), "holds no finished run"),
        ((SMALL, "nothing"), "neither a file nor a model of the zoo"),
    ):
        ran = bitskip("compare", *words)
        assert (ran.code, match in ran.err) == (2, True), ran.err
