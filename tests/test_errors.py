"""How errors are quoted, and how many names are listed, in the sentences of all rooms."""

from __future__ import annotations

import pytest

from bitskip.errors import SpecError, check_one_of, in_one_line, some_of


def test_an_error_is_quoted_in_one_line_and_never_as_nothing() -> None:
    assert in_one_line(ValueError("a\n  b\tc")) == "a b c"
    assert in_one_line(ValueError("x" * 300), 10) == "x" * 10
    assert in_one_line(AssertionError()) == "AssertionError"


def test_names_beyond_the_first_are_counted() -> None:
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some_of(["a", "b", "c"], 2, "; ") == "a; b and 1 more"


def test_what_is_not_known_is_named_with_what_is() -> None:
    check_one_of("gradual", ("gradual", "together"), "unknown schedule", SpecError)
    with pytest.raises(SpecError, match=r"unknown schedule 'gradul', expected one of gradual, together; did"):
        check_one_of("gradul", ("gradual", "together"), "unknown schedule", SpecError)
