"""Reading data sets: layouts, checksums, and bad files named in one sentence."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitskip.data import formats, load_images, load_mini, read_image_set, resolve
from bitskip.errors import DataError

RECORD = 1 + 3 * 32 * 32


def _fake_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch, per_file: int = 10_000) -> Path:
    """Write files of the official layout and let their own checksums be the expected ones."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    digests = {}
    for name in formats.CIFAR10_BINARY_FILES:
        rows = generator.integers(0, 256, (per_file, RECORD), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
        digests[name] = hashlib.sha256(rows.tobytes()).hexdigest()
    monkeypatch.setattr(formats, "CIFAR10_BINARY_FILES", digests)
    return folder


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _fake_cifar10(tmp_path / "cifar-10-batches-bin", monkeypatch)


def test_binary_layout_puts_planes_into_pictures(cifar10: Path) -> None:
    images = read_image_set(cifar10)
    assert images.train_images.shape == (5 * 10_000, 32, 32, 3)
    assert images.test_images.shape == (10_000, 32, 32, 3)
    raw = np.frombuffer((cifar10 / "data_batch_1.bin").read_bytes(), dtype=np.uint8)
    row, column, channel = 3, 5, 2
    assert images.train_images[0, row, column, channel] == raw[1 + channel * 32 * 32 + row * 32 + column]
    assert images.train_labels[0] == raw[0]


def test_the_folder_above_works_too(cifar10: Path) -> None:
    assert read_image_set(cifar10.parent).name == "CIFAR-10"


def test_truncated_file_is_named(cifar10: Path) -> None:
    path = cifar10 / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"data_batch_3.bin has 30,729,993 bytes, expected 30,730,000"):
        read_image_set(cifar10)


def test_altered_file_is_named(cifar10: Path) -> None:
    path = cifar10 / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch.bin has a wrong sha256 checksum"):
        read_image_set(cifar10)


def test_missing_file_is_named(cifar10: Path) -> None:
    (cifar10 / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2.bin is missing"):
        read_image_set(cifar10)


@pytest.mark.skipif("BITSKIP_DATA" not in os.environ, reason="needs the whole of CIFAR-10")
def test_the_real_data_set_has_the_published_checksums() -> None:
    images = load_images()
    assert images.name == "CIFAR-10"
    assert np.bincount(images.train_labels).tolist() == [5_000] * 10
    assert np.bincount(images.test_labels).tolist() == [1_000] * 10


def _python_batch(labels_key: bytes, count: int) -> bytes:
    data = np.arange(count * 3072, dtype=np.int64).astype(np.uint8).reshape(count, 3072)
    return pickle.dumps({b"data": data, labels_key: list(range(count))}, protocol=2)


def test_torchvision_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    digests = {}
    for name in ("train", "test"):
        content = _python_batch(b"fine_labels", 4)
        (folder / name).write_bytes(content)
        digests[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(formats._PYTHON_FILES, "cifar-100", digests)
    images = read_image_set(tmp_path)
    assert images.name == "CIFAR-100"
    assert images.classes == 100
    assert images.train_labels.tolist() == [0, 1, 2, 3]
    assert images.train_images[0, 0, 1, 0] == 1  # second pixel of the red plane


def test_torchvision_layout_with_a_wrong_checksum_is_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(_python_batch(b"labels", 2))
    with pytest.raises(DataError, match="wrong md5 checksum"):
        read_image_set(folder)


def test_unpickler_refuses_anything_but_arrays() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="not allowed in a data file"):
        formats._ArraysOnly(io.BytesIO(pickle.dumps({b"data": Evil()}))).load()


def test_cifar100_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name, count in (("train.bin", 50_000), ("test.bin", 10_000)):
        rows = np.zeros((count, 2 + 3072), dtype=np.uint8)
        rows[:, 1] = np.arange(count) % 100  # the second byte is the fine label
        (folder / name).write_bytes(rows.tobytes())
    images = read_image_set(folder)
    assert images.classes == 100
    assert np.bincount(images.train_labels).tolist() == [500] * 100


# -- image folders ------------------------------------------------------------------------------------


def _picture(path: Path, size: tuple[int, int] = (40, 50), colour: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


def test_image_folder_with_train_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            for index in range(count):
                _picture(tmp_path / part / name / f"{index}.jpg")
    images = read_image_set(tmp_path)
    assert (len(images.train_images), len(images.test_images)) == (2 * 3, 2 * 2)


def test_corrupt_picture_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for index in range(5):
            _picture(tmp_path / name / f"{index}.png")
    (tmp_path / "dog" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dog/3.png is not a readable picture"):
        read_image_set(tmp_path)


def test_folder_without_classes_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a data set that bitskip knows.*expected at least 2"):
        read_image_set(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_images(tmp_path / "nowhere")


# -- where data comes from ------------------------------------------------------------------------------


def test_mini_set_is_large_enough_and_balanced() -> None:
    mini = load_mini()
    assert np.bincount(mini.train_labels).tolist() == [100] * 10
    assert np.bincount(mini.test_labels).tolist() == [50] * 10
    package = Path(formats.__file__).parent / "mini_cifar10.npz"
    assert package.stat().st_size < 5_000_000


@pytest.mark.skipif("BITSKIP_DATA" not in os.environ, reason="needs the whole of CIFAR-10")
def test_mini_set_is_lossless() -> None:
    whole, mini = load_images(), load_mini()
    first_cats = whole.train_images[whole.train_labels == 3][:100]
    assert np.array_equal(mini.train_images[mini.train_labels == 3], first_cats)


def test_environment_comes_before_cache_and_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSKIP_DATA", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="missing does not exist"):
        load_images()
    assert load_images("mini").name.startswith("bundled mini set")


def test_failed_download_falls_back_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITSKIP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(resolve, "CIFAR10_URL", "http://127.0.0.1:9/none.tar.gz")
    notices: list[str] = []
    images = load_images(notice=notices.append)
    assert images.name.startswith("bundled mini set")
    assert "could not be downloaded" in notices[-1]
    assert "using the bundled mini set" in notices[-1]
    assert list((tmp_path / "bitskip").iterdir()) == []


def test_download_with_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "archive.tar.gz"
    source.write_bytes(b"other bytes")
    monkeypatch.setattr(resolve, "CIFAR10_URL", source.as_uri())
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="wrong MD5 checksum"):
        resolve.download_cifar10(tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert seen == [(11, 11)]
    assert list((tmp_path / "cache").iterdir()) == []
