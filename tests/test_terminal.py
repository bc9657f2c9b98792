"""Tables: names whole at any width, the columns that matter first, the others with --wide or below."""

from __future__ import annotations

import pytest

from bitskip.terminal import byte_size, number, print_table, shown_width, table_lines, wrapped

COLUMNS = ["name", "accuracy", "file size", "a long heading of words", "remark"]
ROWS = [
    ["resnet14-hybrid-none-x0.25", "91.23%", "362.1 KiB", "1", "trained for six epochs, as the others were"],
    ["short", "9.1%", "1 B", "22", ""],
]


def test_a_table_that_fits() -> None:
    assert table_lines(
        "Title", ["name", "n"], [["a", "1"], ["bb", "22"]], footer=["all", "23"], width=80
    ) == [
        "Title",
        " name   n",
        " --------",
        " a      1",
        " bb    22",
        " --------",
        " all   23",
    ]


@pytest.mark.parametrize("width", range(55, 130, 3))
@pytest.mark.parametrize("continued", [False, True])
def test_no_line_is_wider_and_no_name_is_broken(width: int, continued: bool) -> None:
    lines = table_lines("Title", COLUMNS, ROWS, prose=(4,), continued=continued, width=width)
    assert max(map(len, lines)) <= width
    assert sum(line.startswith(" resnet14-hybrid-none-x0.25  ") for line in lines) >= 1
    assert any("91.23%" in line for line in lines)
    if continued:
        for cell in ("362.1 KiB", "22", "epochs,"):
            assert any(cell in line for line in lines), cell


def test_what_is_left_out_is_said() -> None:
    lines = table_lines("T", COLUMNS, ROWS, width=48)
    assert lines[-1] == "with --wide: a long heading of words, remark"
    assert "with --wide" not in "\n".join(table_lines("T", COLUMNS, ROWS, width=None))


def test_headings_and_prose_wrap_before_columns_go() -> None:
    lines = table_lines("T", COLUMNS, ROWS, prose=(4,), width=90)
    assert not any("--wide" in line for line in lines)
    assert any(line.rstrip().endswith("trained for six epochs,") for line in lines)


def test_where_nobody_watches_all_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("T", COLUMNS, ROWS, prose=(4,), notes=["x" * 200])
    out = capsys.readouterr().out
    assert ROWS[0][4] in out
    assert "x" * 200 in out


def test_numbers_and_texts() -> None:
    assert [number(None), number(1234567), number(0.25)] == ["?", "1,234,567", "0.2"]
    assert [byte_size(None), byte_size(1023), byte_size(1024), byte_size(3 << 20)] == [
        "?", "1,023 B".replace(",", ""), "1.0 KiB", "3.00 MiB",
    ]  # fmt: skip
    assert (
        wrapped("one two-three four", 9) == ["one", "  two-three", "  four"]
        or max(map(len, wrapped("one two-three four", 11))) <= 11
    )


def test_wide_letters_and_accents_take_the_columns_that_they_take() -> None:
    rows = [["\u72ac", "1"], ["cafe\u0301", "22"], ["dog", "3"]]
    assert table_lines("T", ["name", "n"], rows)[3:] == [
        " \u72ac     1",
        " cafe\u0301  22",
        " dog    3",
    ]
    assert [shown_width(row[0]) for row in rows] == [2, 4, 3]
