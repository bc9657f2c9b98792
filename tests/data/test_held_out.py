"""Test pictures of a folder: chosen by content, so that none was ever trained on."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np

from bitskip.data.held_out import held_out_by_content


def _fill(folder: Path, count: int, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05}.bin" for index in range(first, first + count)]
    for index, path in enumerate(paths, first):
        path.write_bytes(b"picture %d" % index)
    return paths


def _tested(paths: list[Path], label_of: dict[str, int] | None = None) -> set[bytes]:
    labels = np.array([(label_of or {}).get(path.parent.name, 0) for path in paths])
    chosen = held_out_by_content(paths, labels)
    return {path.read_bytes() for path, held in zip(paths, chosen, strict=True) if held}


def test_the_files_hash_decides(tmp_path: Path) -> None:
    paths = _fill(tmp_path, 1000)
    below = {
        path.read_bytes()
        for path in paths
        if int(hashlib.sha256(path.read_bytes()).hexdigest(), 16) < 2**256 // 5
    }
    assert _tested(paths) == below
    assert 160 < len(below) < 240  # 200 and three standard deviations of 12.6


def test_pictures_that_are_added_or_renamed_make_no_test_picture_of_a_trained_one(
    tmp_path: Path,
) -> None:
    for count in (5, 6, 8, 12, 30):
        for start in range(0, 2000, 100):  # many small classes, some without a hash below a fifth
            before = _fill(tmp_path / f"{count}-{start}", count, start)
            trained = {path.read_bytes() for path in before} - _tested(before)
            assert trained
            assert len(trained) < count
            more = [*_fill(tmp_path / "a", 40, start + 50), *before]
            assert not _tested(more) & trained
            shutil.rmtree(tmp_path / "a")
            renamed = [path.rename(path.with_name(f"z{path.name}")) for path in reversed(before)]
            assert {path.read_bytes() for path in renamed} - _tested(renamed) == trained


def test_each_class_is_split_by_itself_and_small_ones_are_not(tmp_path: Path) -> None:
    paths = [*_fill(tmp_path / "few", 4), *_fill(tmp_path / "many", 5, 100)]
    chosen = held_out_by_content(paths, np.array(4 * [0] + 5 * [1]))
    assert chosen[:4].sum() == 0
    assert 1 <= chosen[4:].sum() <= 4


def test_equal_files_leave_one_to_train_on(tmp_path: Path) -> None:
    tested = next(n for n in range(100) if hashlib.sha256(b"%d" % n).digest()[0] < 51)
    for index in range(6):
        (tmp_path / f"{index}").write_bytes(b"%d" % tested)
    assert held_out_by_content(sorted(tmp_path.iterdir()), np.zeros(6, np.int64)).sum() == 5
