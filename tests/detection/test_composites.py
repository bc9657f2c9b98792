"""CIFAR-10 objects on photographs, with exact boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitskip.detection.composites import Composites, CompositeSettings
from bitskip.detection.photographs import HELD_OUT, NAMES, load_photographs, save_photographs
from bitskip.errors import DataError

GREY = np.full((64, 80, 3), 128, np.uint8)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
OBJECTS = np.broadcast_to(COLOURS[:, None, None], (3, 32, 32, 3))
LABELS = np.array([0, 1, 2], np.int64)


def plain(**changes: object) -> Composites:
    settings = CompositeSettings(**({"size": 160} | changes))  # type: ignore[arg-type]
    return Composites(OBJECTS, LABELS, [GREY], settings, seed=3)


def test_what_is_in_a_box_is_its_object() -> None:
    """One flat colour an object: the middle of a box that nothing covers has the colour of its label."""
    pictures, targets = plain(objects=(1, 1)).batch(0, 16)
    assert pictures.shape == (16, 3, 160, 160)
    for picture, target in zip(pictures, targets, strict=True):
        (x1, y1, x2, y2), label = target["boxes"][0].tolist(), int(target["labels"][0])
        assert 0 <= x1 < x2 <= 160
        assert 32 <= x2 - x1 <= 128
        assert x2 - x1 == pytest.approx(y2 - y1, abs=1e-3)
        middle = picture[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
        torch.testing.assert_close(middle, torch.tensor(COLOURS[label - 1] / 255.0).float())
        coloured = ((picture - 128 / 255).abs().amax(0) > 0.25).nonzero()
        (top, left), (bottom, right) = coloured.min(0).values.tolist(), coloured.max(0).values.tolist()
        for found, wanted in ((left, x1), (top, y1), (right + 1, x2), (bottom + 1, y2)):
            assert abs(found - wanted) < 2.5  # the edge fades


def test_batches_depend_on_seed_and_number_alone() -> None:
    first, again = plain(), plain()
    first.batch(0, 4)
    a, b = first.batch(5, 4), again.batch(5, 4)
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
    assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a[1], b[1], strict=True))
    assert not torch.equal(a[0], again.batch(6, 4)[0])


def test_two_to_six_objects_and_hidden_ones_are_not_annotated() -> None:
    _, targets = plain().batch(0, 64)
    counts = [len(target["labels"]) for target in targets]
    assert max(counts) <= 6
    everything = plain(visible=0.0).batch(0, 64)[1]
    all_counts = [len(target["labels"]) for target in everything]
    assert set(all_counts) == {2, 3, 4, 5, 6}
    assert sum(counts) < sum(all_counts)
    full = [target["boxes"] for target in everything]
    assert all((box[:, None] == other[None]).all(2).any(1).all()
               for box, other in zip((t["boxes"] for t in targets), full, strict=True))  # fmt: skip


def test_pictures_without_an_object() -> None:
    pictures, targets = plain(objects=(0, 0)).batch(0, 2)
    assert [tuple(target["boxes"].shape) for target in targets] == [(0, 4)] * 2
    torch.testing.assert_close(pictures, torch.full_like(pictures, 128 / 255))


def test_crops_fill_most_of_the_picture() -> None:
    pictures, labels = plain().crops(0, 8, 48)
    assert pictures.shape == (8, 3, 48, 48)
    for picture, label in zip(pictures, labels, strict=True):
        colour = torch.tensor(COLOURS[label] / 255.0).float().view(3, 1, 1)
        assert ((picture - colour).abs().amax(0) < 0.1).float().mean() > 0.25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objects": (3, 2)}, "expected the fewest and the most"),
        ({"scale": (1.0, 6.0)}, "objects of at most 160 pixels"),
    ],
)
def test_wrong_settings(changes: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        plain(**changes)


def test_objects_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="expected .N, 32, 32, 3."):
        Composites(np.zeros((2, 16, 16, 3), np.uint8), LABELS[:2], [GREY])
    with pytest.raises(DataError, match="need objects and photographs"):
        Composites(OBJECTS, LABELS, [])


def test_photographs_are_split(tmp_path: Path) -> None:
    train, test = load_photographs("train"), load_photographs("test")
    assert (len(train), len(test)) == (len(NAMES) - len(HELD_OUT), len(HELD_OUT))
    assert all(photo.dtype == np.uint8 and photo.ndim == 3 and max(photo.shape) <= 512 for photo in train)
    save_photographs(tmp_path / "p.npz")
    again = load_photographs("test", tmp_path / "p.npz")
    for before, after in zip(test, again, strict=True):
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).mean() < 6  # JPEG
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="is not a file of photographs"):
        load_photographs("test", tmp_path / "bad.npz")
