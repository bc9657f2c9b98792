"""Files appear whole or not at all, and failures say which file."""

from __future__ import annotations

import os
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


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    named, link = tmp_path / "folder" / "named.bin", tmp_path / "link.bin"
    link.symlink_to(named)
    for content in (b"first", b"second"):  # the link names nothing yet, then a file
        write_bytes(link, content)
        assert link.is_symlink()
        assert named.read_bytes() == content
    assert sorted(tmp_path.rglob("*")) == [named.parent, named, link]

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device")
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")  # a rename would put a file in the link's place
    with pytest.raises(RunError, match="cannot write .*full: No space left on device"):
        write_bytes(link, b"content")
    assert link.is_symlink()
    assert Path("/dev/full").is_char_device()
