"""`--input NAME=C,H,W`: what a network with several inputs takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from bitskip.errors import SpecError

__all__ = ["InputsOption", "read_input_shapes"]

InputsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=C,H,W",
        help="An input as the network's forward calls it: channels, height, width. Once an input.",
        show_default=False,
    ),
]


def read_input_shapes(inputs: Sequence[str], input_size: int | None) -> dict[str, tuple[int, int, int]]:
    """Return the shapes (C, H, W) by name that words `NAME=C,H,W` say; empty for no words.

    Raises:
        SpecError: for a word of another form, a name that comes twice, or a size that is given as well.
    """
    if inputs and input_size is not None:
        raise SpecError("--input says the size of each input; leave --input-size out")
    shapes: dict[str, tuple[int, int, int]] = {}
    for word in inputs:
        name, _, sizes = word.partition("=")
        numbers = tuple(int(n) if n.strip().isdecimal() else 0 for n in sizes.split(","))
        if not name.isidentifier() or len(numbers) != 3 or min(numbers) < 1:
            raise SpecError(f"--input is '{word}', expected NAME=CHANNELS,HEIGHT,WIDTH, such as left=3,32,32")
        if name in shapes:
            raise SpecError(f"--input names '{name}' twice, expected each input once")
        channels, height, width = numbers
        shapes[name] = (channels, height, width)
    return shapes
