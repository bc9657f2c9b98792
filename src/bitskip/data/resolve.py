"""Where the data comes from: `--data`, `$BITSKIP_DATA`, the cache, a download, else the bundled mini set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from bitskip.data.formats import CIFAR10_BINARY_FILES, CIFAR10_CLASSES, read_image_set
from bitskip.data.image_set import ImageSet, Pictures
from bitskip.errors import DataError
from bitskip.pictures import fit_picture

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published on the data set's own page
_TIMEOUT_SECONDS = 15
_CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 if unknown)


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/bitskip`, else `~/.cache/bitskip`.

    Raises:
        DataError: if neither is known.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named or Path.home() / ".cache") / "bitskip"
    except RuntimeError:  # no $HOME, and the user is in no list
        raise DataError(
            "there is no home folder to keep CIFAR-10 in; set $XDG_CACHE_HOME, or name a data set with --data"
        ) from None


def at_hand() -> bool:
    """Whether `load_images(None)` finds a data set without a download: in $BITSKIP_DATA or in the cache."""
    try:
        return bool(os.environ.get("BITSKIP_DATA")) or (cache_folder() / "cifar-10-batches-bin").is_dir()
    except DataError:
        return False


def load_images(
    data: str | Path | None = None,
    *,
    size: int = 32,
    notice: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> ImageSet:
    """Load a data set into memory.

    Args:
        data: folder of the data set; `mini` for the bundled set; None for `$BITSKIP_DATA`, else the
            cache, else a download of CIFAR-10, else the bundled set.
        size: height = width that pictures of an image folder are brought to, in pixels; larger pictures of
            CIFAR-10 are brought down to it, smaller ones stay.
        notice: called with one sentence where the choice deserves saying.
        progress: called during a download with the bytes so far and in all.

    Raises:
        DataError: if the folder that was asked for does not hold a sound data set.
    """
    chosen = data if data is not None else os.environ.get("BITSKIP_DATA") or None
    if chosen == "mini":
        return _no_larger(load_mini(), size, notice)
    if chosen is not None:
        try:
            folder = Path(chosen).expanduser()
        except RuntimeError:
            raise DataError(f"the home folder in '{chosen}' is not known; give the whole path") from None
        return _no_larger(_with_source(read_image_set(folder, size, notice), folder), size, notice)
    try:
        cached = cache_folder() / "cifar-10-batches-bin"
        if not cached.is_dir():
            notice(f"downloading CIFAR-10 (170 MB) to {cache_folder()}; --data names a copy of your own")
            download_cifar10(cache_folder(), progress)
    except DataError as error:
        notice(
            f"{error}; using the bundled mini set instead (1,000 training and 500 test pictures): "
            "accuracies will be far below those of the whole of CIFAR-10"
        )
        return _no_larger(load_mini(), size, notice)
    return _no_larger(_with_source(read_image_set(cached, size), cached), size, notice)


def _no_larger(images: ImageSet, size: int, notice: Callable[[str], None]) -> ImageSet:
    """Return the set with its pictures brought down to `size`, as `fit_picture` does with a single one."""
    if images.image_size <= size:
        return images
    notice(f"note: pictures of {images.name} are brought from {images.image_size} to {size} pixels")
    return dataclasses.replace(
        images,
        train_images=_smaller(images.train_images, size),
        test_images=_smaller(images.test_images, size),
    )


def _smaller(pictures: Pictures, size: int) -> Pictures:
    from PIL import Image

    channels = pictures.shape[-1]
    out = np.empty((len(pictures), size, size, channels), np.uint8)
    for at, picture in enumerate(pictures):
        out[at] = fit_picture(Image.fromarray(picture.squeeze()), size, channels)
    return out


def _with_source(images: ImageSet, folder: Path) -> ImageSet:
    return dataclasses.replace(images, source=str(folder.resolve()))


def load_mini() -> ImageSet:
    """Load the bundled subset of CIFAR-10: 100 training and 50 test pictures a class, lossless."""
    with files("bitskip.data").joinpath("mini_cifar10.npz").open("rb") as stream:
        arrays = np.load(stream, allow_pickle=False)
        parts = {name: arrays[name] for name in arrays.files}
    return ImageSet(
        "bundled mini set (CIFAR-10 subset)",
        parts["train_images"],
        parts["train_labels"].astype(np.int64),
        parts["test_images"],
        parts["test_labels"].astype(np.int64),
        CIFAR10_CLASSES,
        source="mini",
    )


def download_cifar10(folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """Download CIFAR-10 into `folder/cifar-10-batches-bin` and return that path.

    The archive's MD5 is checked, and each file's SHA-256 when it is read; the folder appears only when
    it is complete.

    Raises:
        DataError: if it cannot be fetched, does not have the published checksum, or cannot be written.
    """
    target = folder / "cifar-10-batches-bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = Path(scratch) / "cifar-10-binary.tar.gz"
            _fetch(CIFAR10_URL, archive, progress)
            with tarfile.open(archive) as tar:
                for name in CIFAR10_BINARY_FILES:
                    tar.extract(f"{target.name}/{name}", scratch, filter="data")
            shutil.move(str(Path(scratch) / target.name), target)
    except (tarfile.TarError, KeyError) as error:
        raise DataError(f"the downloaded CIFAR-10 archive cannot be unpacked ({error})") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"CIFAR-10 could not be downloaded ({getattr(error, 'reason', error)})") from None
    except OSError as error:
        raise DataError(f"CIFAR-10 could not be stored in {folder} ({error.strerror or error})") from None
    return target


def _fetch(url: str, archive: Path, progress: Progress) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, archive.open("wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while chunk := response.read(_CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            progress(done, total)
    if digest.hexdigest() != CIFAR10_MD5:
        raise DataError(f"the download from {url} has a wrong MD5 checksum")
