"""The `bitskip` command: parse, call, print. The logic lives in the packages that the commands call.

Each command is a function of its name in a module here. Modules import only typer at the top and everything
slow (torch above all) inside the command, so that `bitskip --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bitskip import __version__
from bitskip.cli import (
    ablate,
    bench,
    compare,
    count,
    draw,
    evaluate,
    export,
    import_onnx,
    inspect,
    models,
    pack,
    predict,
    report,
    shortcuts,
    study,
    train,
    zoo,
)
from bitskip.cli.endings import check_streams, full_output, missing_package, silence_stdout
from bitskip.errors import BitskipError

__all__ = ["app", "main"]

app = typer.Typer(
    name="bitskip",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitskip {__version__}")
        raise typer.Exit


@app.callback()
def _bitskip(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Small residual CNNs for edge devices: choose which layers are 1-bit and which shortcuts stay.

    A first look: `bitskip models`, then `bitskip count resnet14-hybrid-none`.
    """


# One line a command, in the order that `bitskip --help` lists them; groups of commands come last.
app.command("models")(models.models)
app.command("count")(count.count)
app.command("draw")(draw.draw)
app.command("train")(train.train)
app.command("study")(study.study)
app.command("ablate")(ablate.ablate)
app.command("report")(report.report)
app.command("pack")(pack.pack)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("import")(import_onnx.import_onnx)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("run")(predict.run)
app.command("bench")(bench.bench)
app.add_typer(shortcuts.shortcuts, name="shortcuts")
app.add_typer(zoo.zoo, name="zoo")


def main() -> None:
    """Run the command line.

    A `BitskipError` becomes one line on stderr and its exit code (2), and so do a missing package and an
    output that is closed or full; Ctrl-C ends with 130 and a line; a reader that closes the pipe
    (`bitskip count ... | head`) ends the program quietly.
    """
    closed = check_streams()
    if closed is not None:
        _fail(f"error: {closed}", 2)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BitskipError as error:
        _fail("error: " + " ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(1)
    except ModuleNotFoundError as error:
        text = missing_package(error, " ".join(["bitskip", *sys.argv[1:2]]))
        if text is None:
            raise
        _fail(f"error: {text}", 2)
    except OSError as error:
        text = full_output(error)
        if text is None:
            raise
        silence_stdout()
        _fail(f"error: {text}", 2)
    except SystemExit as end:
        if end.code == 130:  # typer turns Ctrl-C into this code, without a word
            _fail("interrupted", 130)
        raise


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"bitskip: {message}\n")
    sys.exit(code)
