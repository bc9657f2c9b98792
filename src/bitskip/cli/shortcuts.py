"""`bitskip shortcuts`: list, score, plan and prune the shortcuts of any PyTorch model."""

from __future__ import annotations

import typer

from bitskip.cli.shortcut_commands.coverage import coverage
from bitskip.cli.shortcut_commands.listing import list_
from bitskip.cli.shortcut_commands.plan import plan
from bitskip.cli.shortcut_commands.prune import prune
from bitskip.cli.shortcut_commands.recover import recover
from bitskip.cli.shortcut_commands.score import score
from bitskip.sources import SOURCES_HELP

shortcuts = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Find, score and remove the shortcuts of any PyTorch model.\n\n"
    f"MODEL: {SOURCES_HELP[0].lower()}{SOURCES_HELP[1:]}\n\n"
    "A first look: `bitskip shortcuts list torchvision:resnet18`.",
)

shortcuts.command("list")(list_)
for _command in (score, plan, prune, recover, coverage):
    shortcuts.command(_command.__name__)(_command)
