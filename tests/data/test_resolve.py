"""Data sets that are found: brought to the size that is asked for."""

from __future__ import annotations

from PIL import Image

from bitskip.data import load_images
from bitskip.pictures import fit_picture


def test_larger_pictures_are_brought_down_as_single_ones_are() -> None:
    said: list[str] = []
    small = load_images("mini", size=16, notice=said.append)
    whole = load_images("mini")
    assert small.test_images.shape == (len(whole.test_images), 16, 16, 3)
    assert said == ["note: pictures of bundled mini set (CIFAR-10 subset) are brought from 32 to 16 pixels"]
    alone = fit_picture(Image.fromarray(whole.test_images[7]), 16)
    assert (small.test_images[7] == alone).all()
    assert load_images("mini", size=64).image_size == 32  # nothing is blown up
