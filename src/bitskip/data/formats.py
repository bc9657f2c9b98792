"""Readers of data sets on disk, numpy only: CIFAR in its official and torchvision's layout, or image folders.

Every reader of CIFAR checks sizes and, for CIFAR-10, checksums before it believes a file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.data.folders import read_image_folder
from bitskip.data.image_set import ImageSet, Labels, Pictures
from bitskip.errors import DataError

# -- CIFAR --------------------------------------------------------------------------------------------

# SHA-256 of the files in cifar-10-binary.tar.gz (Krizhevsky 2009).
CIFAR10_BINARY_FILES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
# MD5 of the pickled batches, as torchvision.datasets.CIFAR10 and CIFAR100 publish them.
_PYTHON_FILES = {
    "cifar-10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "cifar-100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PIXELS = 3 * 32 * 32
# The fine labels, in the order of the official fine_label_names.txt.
CIFAR100_CLASSES = tuple(
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm".split()
)


def _read_checked(path: Path, size: int | None, digest: str | None, algorithm: str = "sha256") -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy the whole data set into {path.parent}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if size is not None and len(content) != size:
        raise DataError(f"{path} has {len(content):,} bytes, expected {size:,}; copy or download it again")
    if digest is not None and hashlib.new(algorithm, content).hexdigest() != digest:
        raise DataError(f"{path} has a wrong {algorithm} checksum; copy or download it again")
    return content


def _planes_to_pictures(planes: npt.NDArray[np.uint8]) -> Pictures:
    pictures = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, C)
    return np.ascontiguousarray(pictures)


def _records(content: bytes, path: Path, label_bytes: int, classes: int) -> tuple[Pictures, Labels]:
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max(initial=0) >= classes:
        raise DataError(
            f"{path} has label {labels.max()}, expected 0..{classes - 1}; is it another data set?"
        )
    return _planes_to_pictures(rows[:, label_bytes:]), labels


def read_cifar10_binary(folder: Path) -> ImageSet:
    """Read the official binary layout of CIFAR-10 (records of one label byte and 3,072 pixel bytes).

    Raises:
        DataError: for a missing, truncated or altered file.
    """
    parts = []
    for name, digest in CIFAR10_BINARY_FILES.items():
        path = folder / name
        content = _read_checked(path, 10_000 * (1 + _PIXELS), digest)
        parts.append(_records(content, path, 1, 10))
    return _join("CIFAR-10", parts, CIFAR10_CLASSES)


def read_cifar100_binary(folder: Path) -> ImageSet:
    """Read the official binary layout of CIFAR-100 with its 100 fine labels."""
    parts = []
    for name, count in (("train.bin", 50_000), ("test.bin", 10_000)):
        path = folder / name
        parts.append(_records(_read_checked(path, count * (2 + _PIXELS), None), path, 2, 100))
    return _join("CIFAR-100", parts, CIFAR100_CLASSES)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries, lists, strings and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode") or (
            module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
            and name in ("_reconstruct", "ndarray", "dtype")
        ):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


def read_cifar_python(folder: Path, kind: str) -> ImageSet:
    """Read torchvision's layout (`cifar-10-batches-py` or `cifar-100-python`).

    Its files are pickles: each is read only when its MD5 is the published one, and then by an unpickler
    that knows nothing but arrays.

    Args:
        folder: where the batches lie.
        kind: `cifar-10` or `cifar-100`.
    """
    parts = []
    for name, digest in _PYTHON_FILES[kind].items():
        path = folder / name
        content = _read_checked(path, None, digest, "md5")
        parts.append(_python_batch(content, path))
    if kind == "cifar-10":
        return _join("CIFAR-10", parts, CIFAR10_CLASSES)
    return _join("CIFAR-100", parts, CIFAR100_CLASSES)


def _python_batch(content: bytes, path: Path) -> tuple[Pictures, Labels]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        labels = batch[b"labels"] if b"labels" in batch else batch[b"fine_labels"]
        pictures = _planes_to_pictures(np.asarray(batch[b"data"], dtype=np.uint8))
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path} is no CIFAR batch: {error}") from None
    return pictures, np.asarray(labels, dtype=np.int64)


def _join(name: str, parts: list[tuple[Pictures, Labels]], classes: tuple[str, ...]) -> ImageSet:
    """Make a set of which the last part is the test set."""
    images = np.concatenate([p[0] for p in parts[:-1]])
    labels = np.concatenate([p[1] for p in parts[:-1]])
    return ImageSet(name, images, labels, parts[-1][0], parts[-1][1], classes)


# -- any of them -----------------------------------------------------------------------------------------


def read_image_set(
    folder: Path | str, size: int = 32, notice: Callable[[str], None] = lambda text: None
) -> ImageSet:
    """Read the data set at `folder`, whichever layout it has.

    The folder may be the layout's own (`cifar-10-batches-bin`) or the one above it.

    Args:
        folder: where the data lies.
        size: height = width that pictures of an image folder are brought to, in pixels.
        notice: called with one sentence a thing that is worth saying of an image folder.

    Raises:
        DataError: if it is not a folder, holds none of the layouts, or something in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise DataError(f"data folder {folder} {what}")
    for root in (
        folder,
        *(folder / n for n in ("cifar-10-batches-bin", "cifar-10-batches-py")),
        *(folder / n for n in ("cifar-100-binary", "cifar-100-python")),
    ):
        if (root / "data_batch_1.bin").is_file() or (root / "test_batch.bin").is_file():
            return read_cifar10_binary(root)
        if (root / "data_batch_1").is_file():
            return read_cifar_python(root, "cifar-10")
        if (root / "train.bin").is_file():
            return read_cifar100_binary(root)
        if (root / "train").is_file():
            return read_cifar_python(root, "cifar-100")
    return read_image_folder(folder, size, notice)
