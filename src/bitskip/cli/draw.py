"""`bitskip draw`: the architecture of a network as a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from bitskip.sources import SOURCES_HELP


def draw(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=SOURCES_HELP, show_default=False),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The picture, FILE.svg or FILE.png.", show_default=False)
    ],
) -> None:
    """Draw a network: layers as boxes, precision in colour, shortcuts as arcs.

    Three or more equal blocks in a row are drawn once, with their number.

    Examples:

    - `bitskip draw resnet14-hybrid-middle -o hybrid.svg`
    - `bitskip draw resnet50 -o resnet50.png`
    - `bitskip draw zoo:resnet14-hybrid-all -o hybrid.svg`
    - `bitskip draw my-network.json -o my-network.svg`
    """
    from bitskip.report import draw_spec
    from bitskip.sources import spec_of

    typer.echo(draw_spec(spec_of(model), out))
