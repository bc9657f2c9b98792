"""The `bitskip` command, also as `python -m bitskip`: it says so where its own packages are not installed."""

from __future__ import annotations

import sys

_NEEDED = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; exit code 2 with one sentence if typer or rich is missing."""
    try:
        from bitskip.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write(
            f"bitskip: error: the command line needs {error.name}, of bitskip's extra `cli`, which is not "
            "installed; pip install typer rich pillow jinja2 (bitskip.load in Python works without)\n"
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
