"""`bitskip shortcuts coverage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitskip.cli.options import (
    say,
)


def coverage(
    out: Annotated[str, typer.Option(help="Page to write; the JSON goes beside it.")],
    only: Annotated[
        str | None, typer.Option(help="Model names, with commas; all if not given.", show_default=False)
    ] = None,
) -> None:
    """Try every image classifier of torchvision, and write what was found and proven.

    Example: `bitskip shortcuts coverage --out docs/shortcuts-coverage.md`
    """
    from bitskip.errors import SpecError, nearest
    from bitskip.files import write_json, write_text
    from bitskip.pruning.coverage import cover, coverage_page, library_versions, torchvision_classifiers

    known = torchvision_classifiers()
    names = known if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise SpecError(f"unknown torchvision classifier '{name}'{nearest(name, known)}")
    values = {"versions": library_versions(), "rows": cover(names, lambda name: say(name))}
    page = Path(out)
    write_json(page.with_suffix(".json"), values)
    write_text(page, coverage_page(values))
