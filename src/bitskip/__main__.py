"""The `bitskip` command, also as `python -m bitskip`: it says so where its own packages are not installed."""

from __future__ import annotations

import sys

_NEEDED = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; one sentence and exit code 2 if typer or rich is missing, 130 after Ctrl-C."""
    try:
        from bitskip.cli import main as run
    except KeyboardInterrupt:  # Ctrl-C before anything runs: loading takes a second on a busy machine
        sys.stderr.write("bitskip: interrupted\n")
        sys.exit(130)
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
