"""Measure the zoo's models with test-time augmentation and note it in their cards.

For cards made before `tools/add_to_zoo.py` did so. The card's own accuracy must come out first.

    python tools/add_tta_to_zoo.py
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from bitskip.cli.options import read_images, say
from bitskip.files import write_json
from bitskip.runtime import load
from bitskip.runtime.accuracy import measure_with_flip
from bitskip.zoo.catalog import card_of, model_path, models_folder, zoo_names


def add_tta(data: Annotated[str | None, typer.Option(help="As for `bitskip train`.")] = None) -> None:
    """Fill in the cards that lack the figure."""
    for name in zoo_names():
        card = card_of(name)
        if card.tta is not None:
            continue
        model = load(model_path(name))
        images = read_images(data, model.input_shape[0])
        plain, flipped = measure_with_flip(model, images.test_images, images.test_labels)
        if (images.name, plain.hits) != (card.data, card.test_correct):
            say(f"{name}: {plain.hits} right on {images.name}, its card has {card.test_correct}; left alone")
            continue
        card = dataclasses.replace(card, tta=flipped.to_dict("flip"))
        write_json(models_folder() / f"{name}.json", card.to_dict())
        say(f"{name}: {plain.share:.2%}, with mirror image {flipped.share:.2%}")


if __name__ == "__main__":
    typer.run(add_tta)
