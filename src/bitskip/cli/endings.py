"""How the command ends for a reason outside it: an output that is closed or full, a missing package."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from importlib import metadata

# Modules that are not called as the distributions that hold them.
_DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow", "pytorch_lightning": "lightning"}
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG}


def check_streams() -> str | None:
    """Return what is wrong with the output, as a sentence: Python has no stdout when it was closed.

    A closed stderr is replaced by nothing, so that its number is not taken by a file that is written later.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123 (open until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is shown as \\u...
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        silence_stdout()
        return "stdout is closed, so there is nowhere to print to; send it to a file or to /dev/null"
    return None


def full_output(error: OSError) -> str | None:
    """Return why stdout takes no more, as a sentence; None if the error is of something else."""
    if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
        return None
    return f"cannot write the output: {error.strerror}; send it somewhere else"


def silence_stdout() -> None:
    """Give stdout somewhere to write to: Python flushes it once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(nowhere, "w")
    else:
        os.dup2(nowhere, sys.stdout.fileno())


def missing_package(error: ModuleNotFoundError, command: str) -> str | None:
    """Return what to install, as a sentence; None if the module belongs to none of bitskip's extras.

    The packages are named themselves, since `pip install bitskip[train]` finds them only where bitskip itself
    comes from an index.
    """
    module = (error.name or "").partition(".")[0]
    distribution = _DISTRIBUTIONS.get(module, module)
    for extra, wanted in _extras().items():
        if distribution in wanted:
            needed = [wanted[name] for name in wanted if name == distribution or not _is_installed(name)]
            if extra == "dev":
                needed = [wanted[distribution]]
            quoted = " ".join(f'"{requirement}"' for requirement in needed)
            what = "" if extra == "dev" else f", of bitskip's extra `{extra}`"
            return f"`{command}` needs {distribution}{what}, which is not installed; pip install {quoted}"
    return None


def _extras() -> dict[str, dict[str, str]]:
    """Return the requirements of each extra, by distribution; `dev` comes last."""
    found: dict[str, dict[str, str]] = {}
    try:
        lines = metadata.requires("bitskip") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[\w.-]+", requirement)
        if extra and name and name[0] != "bitskip":
            found.setdefault(extra[1], {})[name[0].lower()] = requirement.strip().replace(" ", "")
    return dict(sorted(found.items(), key=lambda item: item[0] == "dev"))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
