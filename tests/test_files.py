"""Files appear whole or not at all, and failures say which file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bitskip.errors import FileFormatError, RunError
from bitskip.files import read_json, require_writable, write_bytes, write_json, write_text


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "values.json"
    values = {"a": [1, 2.5, None, True], "ä": "ü"}
    write_json(path, values)
    assert read_json(path) == values
    assert path.read_bytes().endswith(b"}\n")


def test_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old and longer")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "größe")
    assert (tmp_path / "t").read_bytes() == "größe".encode()


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    write_text(tmp_path / "written", "x")
    (tmp_path / "plain").touch()
    mode, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("written", "plain"))
    assert mode == plain


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match=r"cannot write .*results\.json: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "inside", "x")
    with pytest.raises(RunError, match="choose another folder with --out"):
        require_writable(tmp_path / "file" / "inside")


def test_writable_folder_is_created_and_stays_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"{'a': 1}"])
def test_malformed_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"bad\.json is not valid JSON"):
        read_json(path)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
