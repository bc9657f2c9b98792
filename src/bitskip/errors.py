"""Every failure that a user can cause, as an exception whose message is one sentence to act on.

A message says what was got, what was expected and what to do. The command line prints it on one line
and exits with `exit_code`; a traceback is only ever a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence


class BitskipError(Exception):
    """Base of all failures that are the input's fault, not the program's."""

    exit_code = 2


class SpecError(BitskipError):
    """A network specification or model name that cannot be built."""


class RecipeError(BitskipError):
    """A training recipe with an unknown key or a value out of range."""


class DataError(BitskipError):
    """A data set that is missing, truncated, corrupt or of the wrong kind."""


class FileFormatError(BitskipError):
    """A packed model, checkpoint or results file that does not hold together."""


class LoweringError(BitskipError):
    """A trained network, or an option, that cannot be turned into a packed program as asked."""


class PruningError(BitskipError):
    """A shortcut plan that does not fit its model, or a model without what was asked for."""


class RunError(BitskipError):
    """A run that cannot start or go on: unwritable folder, nothing to resume, missing package."""


class InterruptedRunError(RunError):
    """A run that was stopped by Ctrl-C or a signal and can go on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, else an empty string."""
    folded = {word.casefold().strip(): word for word in known}  # who types CAT means cat
    matches = difflib.get_close_matches(name.casefold().strip(), list(folded), n=1, cutoff=0.4)
    return f"; did you mean '{folded[matches[0]]}'?" if matches else ""


def check_one_of(name: str, known: Collection[str], what: str, error: type[BitskipError]) -> None:
    """Raise `error` unless `name` is known: `WHAT 'x', expected one of a, b; did you mean 'a'?`."""
    if name not in known:
        raise error(f"{what} '{name}', expected one of {', '.join(known)}{nearest(name, known)}")


def in_one_line(error: BaseException, most: int = 160) -> str:
    """Return the start of what an error says, on one line; the name of its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def some_of(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Return the first of several names, and how many more there are: `a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more
