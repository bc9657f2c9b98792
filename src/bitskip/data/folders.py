"""Image folders: which files are pictures of which class, which are left out, and saying so.

Somebody's own pictures lie in `FOLDER/CLASS/...`, or split already in `FOLDER/train/CLASS/...` beside
`test` or `val`. Folders below a class's own belong to it. What is not read is counted and said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitskip.data.held_out import BY_CONTENT, ONE_IN, held_out_by_content
from bitskip.data.image_set import ImageSet, composed
from bitskip.errors import DataError, some_of
from bitskip.pictures import PICTURE_SUFFIXES, decode_picture, is_picture_name, reading_pictures

_TRAIN_NAMES, _TEST_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")
# What systems leave beside pictures; nobody means them.
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
_BLACK = 16  # of 255: 12 bits read as 16 stay below
_NAMED = 5  # so many broken pictures are named in an error, the others counted

Notice = Callable[[str], None]


@dataclass
class Found:
    """The pictures below a folder, in the order of their names, and what else lies there."""

    pictures: list[Path] = field(default_factory=list)
    nested: Counter[str] = field(default_factory=Counter)  # pictures by the folder below that they lie in
    skipped: Counter[str] = field(default_factory=Counter)  # other files by kind

    def say_skipped(self) -> str:
        """Return `skipped 5 .heic, 1 broken link`, or nothing."""
        return _skipped(self.skipped)


def find_pictures(root: Path) -> Found:
    """Find the pictures in `root` and in all folders below it.

    Hidden and system files are passed over. Links are followed, each folder once, so that a circle ends.

    Raises:
        DataError: if a folder cannot be listed.
    """
    found = Found()
    _walk(root, root, found, {str(parent) for parent in root.resolve().parents})
    return found


def _walk(folder: Path, root: Path, found: Found, seen: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        found.skipped["link that leads in a circle"] += 1
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from None
    for entry in entries:
        name = entry.name.lower()
        if name.startswith(".") or name in _SYSTEM_FILES:
            continue
        if entry.is_dir():
            if name not in _SYSTEM_FOLDERS:
                _walk(entry, root, found, seen)
        elif not entry.exists():
            found.skipped["broken link"] += 1
        elif not entry.is_file():
            found.skipped["special file"] += 1
        elif is_picture_name(name):
            found.pictures.append(entry)
            if folder != root:
                found.nested[folder.relative_to(root).parts[0]] += 1
        else:
            found.skipped[entry.suffix.lower() or "file without an ending"] += 1


def _skipped(kinds: Counter[str]) -> str:
    if not kinds:
        return ""
    words = [
        f"{n} {kind if n == 1 or kind.startswith('.') else _plural(kind)}" for kind, n in kinds.most_common()
    ]
    hint = " (pip install pillow-heif reads .heic)" if {".heic", ".heif"} & set(kinds) else ""
    return "skipped " + ", ".join(words[:6]) + (", ..." if len(words) > 6 else "") + hint


def _plural(kind: str) -> str:
    first, _, rest = kind.partition(" without ")
    first, space, tail = first.partition(" that leads")
    return first + "s" + space.replace("leads", "lead") + tail + (f" without {rest}" if rest else "")


# -- classes ------------------------------------------------------------------------------------------


@dataclass
class _Split:
    """The pictures of one part (all, train or test), class by class."""

    root: Path
    classes: dict[str, Found]
    loose: int  # pictures beside the class folders


def read_image_folder(folder: Path, size: int, notice: Notice = lambda text: None) -> ImageSet:
    """Read `folder/train/CLASS/**` and `folder/{test,val}/CLASS/**`, or `folder/CLASS/**`.

    Without a test folder about a fifth of each class becomes test pictures (`bitskip.data.held_out`). How
    each picture is brought to `size` says `bitskip.pictures`.

    Args:
        folder: holds the folders.
        size: height = width of the pictures, in pixels.
        notice: called with one sentence on what was read, and one on each thing that deserves saying.

    Raises:
        DataError: for a folder without classes, or pictures that cannot be decoded.
    """
    train_root, test_root = _layout(folder)
    train = _split(train_root)
    names = _class_names(train)
    test = None if test_root is None else _split(test_root)
    _say_what_was_found(folder, names, train, test, notice)
    train_paths, train_labels = _listed(train, names)
    if test is None:
        held_out = held_out_by_content(train_paths, train_labels)
        _say_small_classes(names, train, notice)
        test_paths = [path for path, held in zip(train_paths, held_out, strict=True) if held]
        train_paths = [path for path, held in zip(train_paths, held_out, strict=True) if not held]
        train_labels, test_labels = train_labels[~held_out], train_labels[held_out]
    else:
        _say_classes_of_one_split(names, train, test, notice)
        test_paths, test_labels = _listed(test, names)
    if not test_paths:
        raise DataError(f"{folder} leaves no test pictures; give each class at least {ONE_IN} pictures")
    pixels = read_pictures([*train_paths, *test_paths], size)
    _say_dark_pictures(pixels, [*train_paths, *test_paths], notice)
    at = len(train_paths)
    return ImageSet(
        f"image folder {folder.resolve().name}",
        pixels[:at],
        train_labels,
        pixels[at:],
        test_labels,
        names,
        test_names=tuple(str(path.relative_to(folder)) for path in test_paths),
        test_rule=BY_CONTENT if test is None else "",
    )


def _folders(root: Path) -> dict[str, Path]:
    """Return the folders that may be classes, by name."""
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {root}: {error.strerror or error}") from None
    return {
        composed(entry.name): entry
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM_FOLDERS
    }


def _layout(folder: Path) -> tuple[Path, Path | None]:
    """Return the folders whose folders are the classes: of training, and of testing if there is one."""
    below = _folders(folder)
    by_name = {name.lower(): path for name, path in below.items()}
    train = next((by_name[name] for name in _TRAIN_NAMES if name in by_name), None)
    test = next((by_name[name] for name in _TEST_NAMES if name in by_name), None)
    if train is None or not _folders(train):  # then a class may be called so: trains, cars, ships
        return folder, None
    if test is not None:
        return train, test
    return (train, None) if len(below) == 1 else (folder, None)


def _split(root: Path) -> _Split:
    folders = _folders(root)
    for name in folders:
        if not name.isprintable():  # nor can it be written into files: bytes of no text, a line's end
            raise DataError(f"{root} has a folder with the name {name!a}, which is not text; rename it")
    classes = {name: find_pictures(path) for name, path in folders.items()}
    loose = sum(path.is_file() and _is_loose_picture(path.name) for path in root.iterdir())
    return _Split(root, classes, loose)


def _is_loose_picture(name: str) -> bool:
    return not name.startswith(".") and is_picture_name(name)


def _class_names(train: _Split) -> tuple[str, ...]:
    names = tuple(train.classes)
    if len(names) < 2:
        count = "no class folder" if not names else f"one class folder ('{names[0]}')"
        loose = f" and {train.loose} pictures of no class" if train.loose else ""
        raise DataError(
            f"{train.root} is not a data set that bitskip knows: it holds {count}{loose}"
            ", expected at least 2 (one folder a class), or CIFAR-10 or CIFAR-100 in the binary or "
            f"torchvision's layout{_hint(train.root)}"
        )
    for name, found in train.classes.items():
        if not found.pictures:
            left = found.say_skipped() or f"expected files such as {', '.join(sorted(PICTURE_SUFFIXES)[:6])}"
            raise DataError(f"{train.root / name} holds no pictures ({left})")
    return names


def _hint(root: Path) -> str:
    """Name the folder one level down that somebody may have meant."""
    for below in _folders(root).values():
        if len(_folders(below)) > 1:
            return f"; did you mean {below}?"
    return ""


def _listed(split: _Split, names: tuple[str, ...]) -> tuple[list[Path], npt.NDArray[np.int64]]:
    found = [split.classes.get(name, Found()).pictures for name in names]
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in found])
    return [path for paths in found for path in paths], labels.astype(np.int64)


# -- what is said -------------------------------------------------------------------------------------


def _counts(names: Sequence[str], split: _Split) -> str:
    counts = [len(split.classes[name].pictures) if name in split.classes else 0 for name in names]
    if len(names) > 10:
        return f"{min(counts)} to {max(counts)} pictures each"
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))


def _say_what_was_found(
    folder: Path, names: tuple[str, ...], train: _Split, test: _Split | None, notice: Notice
) -> None:
    parts = [train] if test is None else [train, test]
    skipped: Counter[str] = Counter()
    nested: Counter[str] = Counter()
    for part in parts:
        for found in part.classes.values():
            skipped.update(found.skipped)
            nested.update(found.nested)
    text = f"{folder}: {len(names)} classes: {_counts(names, train)}"
    if test is None:
        text += "; about a fifth of each, chosen by their content, are test pictures"
    else:
        text += f" in {train.root.name}; {_counts(names, test)} in {test.root.name}"
    notice(text + (f"; {_skipped(skipped)}" if skipped else ""))
    if nested:
        below = ", ".join(list(nested)[:3]) + (", ..." if len(nested) > 3 else "")
        notice(f"note: {nested.total()} of the pictures lie in folders below their class's own ({below})")
    loose = sum(part.loose for part in parts)
    if loose:
        notice(f"note: {loose} pictures lie beside the class folders and are not read")


def _say_small_classes(names: tuple[str, ...], train: _Split, notice: Notice) -> None:
    small = [name for name in names if len(train.classes[name].pictures) < ONE_IN]
    if small:
        notice(
            f"note: {_some(small)} has fewer than {ONE_IN} pictures, so none of them is tested; give each "
            f"class at least {ONE_IN} before you train, for then some of these become test pictures"
        )


def _say_classes_of_one_split(names: tuple[str, ...], train: _Split, test: _Split, notice: Notice) -> None:
    untested = [name for name in names if name not in test.classes or not test.classes[name].pictures]
    if untested:
        notice(
            f"note: {_some(untested)} is in {train.root.name} but not in {test.root.name}: it is not tested"
        )
    strange = [name for name in test.classes if name not in train.classes]
    if strange:
        left_out = sum(len(test.classes[name].pictures) for name in strange)
        notice(
            f"note: {_some(strange)} is in {test.root.name} but not in {train.root.name}: its {left_out} "
            "pictures are not read"
        )


def _say_dark_pictures(pixels: npt.NDArray[np.uint8], paths: Sequence[Path], notice: Notice) -> None:
    """Say where pictures are black to the eye: 12 bits of a microscope in a file of 16 look so."""
    dark = np.flatnonzero([picture.max(initial=0) < _BLACK for picture in pixels])
    if len(dark):
        what = "1 picture is" if len(dark) == 1 else f"{len(dark)} pictures are"
        notice(
            f"note: {what} all but black (no value above {_BLACK - 1} of 255), such as {paths[dark[0]]}; if "
            "they hold 12 bits in files of 16, stretch them first"
        )


def _some(names: Sequence[str]) -> str:
    return ("class " if len(names) == 1 else "each of the classes ") + some_of([f"'{n}'" for n in names])


# -- decoding -----------------------------------------------------------------------------------------


def read_pictures(paths: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """Decode pictures to uint8 (N, size, size, 3), several at a time.

    Raises:
        DataError: naming the pictures that cannot be decoded, if there are any.
    """

    def decode(path: Path) -> npt.NDArray[np.uint8] | DataError:
        try:
            return decode_picture(path, size)
        except DataError as error:
            return error

    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    broken: list[str] = []
    with reading_pictures(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at, picture in enumerate(pool.map(decode, paths)):
            if isinstance(picture, DataError):
                broken.append(str(picture))
            else:
                pixels[at] = picture
    if len(broken) == 1:
        raise DataError(broken[0])
    if broken:
        raise DataError(
            f"{len(broken)} of {len(paths)} pictures cannot be read: {some_of(broken, _NAMED, '; ')}"
        )
    return pixels
