"""The argument that names a packed model: a file, or a model of the zoo (`bitskip.zoo.packed_path`)."""

from __future__ import annotations

from typing import Annotated

import typer

PackedArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A packed model: M.bitskip, or a name of `bitskip zoo list`.")
]
