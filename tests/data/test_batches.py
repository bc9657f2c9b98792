"""Batches: normalisation, order, augmentation, ranks, validation split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitskip.data.batches import Augmentation, Batches, Normalisation, as_jpeg, split_validation
from bitskip.errors import DataError


def _pictures(count: int = 20, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, np.arange(count, dtype=np.int64)


PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_normalisation_is_the_mean_and_deviation_of_the_pixels() -> None:
    images, _ = _pictures(50)
    measured = Normalisation.of(images)
    scaled = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(measured.mean, scaled.mean(0), atol=6e-5)
    np.testing.assert_allclose(measured.std, scaled.std(0), atol=6e-5)


def test_evaluation_batches_hold_every_picture_in_order() -> None:
    images, labels = _pictures()
    batches = Batches(images, labels, Normalisation((0.5, 0.25, 0.0), (0.5, 1.0, 2.0)), 8)
    pictures = torch.cat([x for x, _ in batches])
    assert len(batches) == 3
    assert torch.cat([y for _, y in batches]).tolist() == list(range(20))
    expected = (images / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(pictures.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    assert pictures.dtype == torch.float32


def test_training_epochs_differ_and_repeat() -> None:
    images, labels = _pictures()
    batches = Batches(images, labels, PLAIN, 5, Augmentation(), seed=4)
    first = [(x, y) for x, y in batches]
    again = [(x, y) for x, y in batches]
    batches.set_epoch(1)
    second = [y for _, y in batches]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert [y.tolist() for _, y in first] != [y.tolist() for y in second]
    assert sorted(torch.cat(second).tolist()) == list(range(20))


def test_crop_is_a_shifted_window_of_the_padded_picture() -> None:
    images, labels = _pictures(4)
    margin = 2
    batches = Batches(images, labels, PLAIN, 4, Augmentation(margin, "zero", "none"), seed=1)
    pictures, chosen = next(iter(batches))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    for picture, label in zip(pictures, chosen, strict=True):
        windows = [
            padded[int(label), y : y + 8, x : x + 8]
            for y in range(2 * margin + 1)
            for x in range(2 * margin + 1)
        ]
        seen = (picture.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
        assert any(np.array_equal(seen, window) for window in windows)


def test_reflection_padding_mirrors_without_repeating_the_edge() -> None:
    images, labels = _pictures(1)
    batches = Batches(images, labels, PLAIN, 1, Augmentation(2, "reflect", "none"))
    expected = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    assert np.array_equal(batches._pixels.numpy(), expected)


def test_alternating_flip_shows_both_sides_in_two_epochs() -> None:
    images, labels = _pictures(6)
    batches = Batches(images, labels, PLAIN, 6, Augmentation(0, flip="alternating"))
    seen = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        pictures, chosen = next(iter(batches))
        seen.append(pictures[torch.argsort(chosen)])
    torch.testing.assert_close(seen[0], seen[1].flip(3))


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
def test_targets_are_those_of_the_picture_and_of_the_side_it_shows(flip: str) -> None:
    images, labels = _pictures()
    batches = Batches(images, labels, PLAIN, 5, Augmentation(0, flip=flip))
    original = torch.from_numpy(images / 255).permute(0, 3, 1, 2).float()
    views = [original] if flip == "none" else [original, original.flip(3)]
    batches.targets = torch.stack(views)
    sides: set[bool] = set()
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        for pictures, chosen, targets in batches:
            torch.testing.assert_close(targets, pictures)
            sides |= {not torch.allclose(p, views[0][c]) for p, c in zip(pictures, chosen, strict=True)}
    assert sides == ({False} if flip == "none" else {False, True})


def test_cutout_blanks_a_square() -> None:
    images = np.full((3, 8, 8, 3), 255, dtype=np.uint8)
    batches = Batches(images, np.zeros(3, np.int64), PLAIN, 3, Augmentation(0, flip="none", cutout=4))
    pictures, _ = next(iter(batches))
    blanked = (pictures == 0).all(1).flatten(1).sum(1)
    assert all(2 * 2 <= int(n) <= 4 * 4 for n in blanked)


def test_smaller_pictures_on_request() -> None:
    images, labels = _pictures()
    batches = Batches(images, labels, PLAIN, 4, Augmentation())
    batches.size = 6
    assert next(iter(batches))[0].shape == (4, 3, 6, 6)


def test_ranks_share_the_pictures_between_them() -> None:
    images, labels = _pictures()
    seen: list[int] = []
    for rank in (0, 1):
        batches = Batches(images, labels, PLAIN, 5, Augmentation(), rank=rank, world_size=2)
        seen += [int(label) for _, labels_of_batch in batches for label in labels_of_batch]
    assert sorted(seen) == list(range(20))


def test_validation_split_is_balanced_and_disjoint() -> None:
    labels = np.repeat(np.arange(4), 25)
    images = np.zeros((100, 2, 2, 3), np.uint8)
    train, held_out = split_validation(images, labels, 20)
    assert np.bincount(labels[held_out]).tolist() == [5, 5, 5, 5]
    assert sorted([*train, *held_out]) == list(range(100))
    with pytest.raises(DataError, match="cannot hold out 60 of 100"):
        split_validation(images, labels, 60)


def test_jpeg_shows_its_share_of_pictures_compressed() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    compressed = as_jpeg(images, 3)
    assert compressed.shape == images.shape
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(images, compressed, strict=True)]
    assert min(changes) > 1  # noise is what JPEG cannot keep
    assert (as_jpeg(images, 3) == compressed).all()
    labels = np.arange(40)
    batches = Batches(images, labels, PLAIN, 40, Augmentation(0, flip="none", jpeg=0.4), seed=3)
    seen = []
    for epoch in range(10):
        batches.set_epoch(epoch)
        for pictures, chosen in batches:
            shown = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
            plain = (shown == images[chosen]).all(axis=(1, 2, 3))
            assert (plain | (shown == compressed[chosen]).all(axis=(1, 2, 3))).all()
            seen.append(1 - plain.mean())
    assert 0.3 < np.mean(seen) < 0.5
    assert as_jpeg(images[..., :1]).shape == (40, 8, 8, 1)
