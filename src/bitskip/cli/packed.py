"""Which packed model a word on the command line names: a file, or a model of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PackedArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A packed model: M.bitskip, or a name of `bitskip zoo list`.")
]


def packed_path(source: str) -> Path:
    """Return the file that `source` names: a path, or a name of `bitskip zoo list`.

    Raises:
        FileFormatError: if it is neither, or a file of another kind.
    """
    from bitskip.errors import FileFormatError, nearest
    from bitskip.zoo import model_path, zoo_names

    path = Path(source)
    if path.is_dir():
        what = "a run: pack it first" if (path / "weights.safetensors").is_file() else "a folder"
        raise FileFormatError(
            f"'{source}' is {what}; expected a packed file (`bitskip pack RUN -o M.bitskip`)"
        )
    if path.exists() or path.suffix == ".bitskip" or path.parent != Path():
        return path
    if source in zoo_names():
        return model_path(source)
    raise FileFormatError(
        f"'{source}' is neither a file nor a model of the zoo{nearest(source, zoo_names())} "
        "(`bitskip zoo list` lists them)"
    )
