"""Cards and files of the zoo: `models/NAME.bitskip` with `models/NAME.json` beside it.

A card says how its model was trained, what it reached on the whole test set after the last epoch, what it
weighs, and the command that trains it again. `tools/add_to_zoo.py` writes both files from a finished run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bitskip.errors import FileFormatError, SpecError, nearest
from bitskip.files import read_json
from bitskip.results.codec import Amount, Count, Share, Text, decode

_ZOO = "zoo:"


@dataclass(frozen=True)
class Card:
    """What is known of one model of the zoo. Accuracies are shares, 0..1."""

    name: Text  # file name without its ending
    model: Text  # the network's spec by name
    recipe: Text
    epochs: Count
    seed: Count
    data: Text  # data set it was trained and tested on
    train_images: Count
    test_images: Count
    trained_accuracy: Share  # of the torch network after the last epoch, on the whole test set
    test_accuracy: Share  # of the packed file, on the same pictures
    test_correct: Count  # pictures it gets right: `test_accuracy` x `test_images`
    interval: tuple[Share, Share]  # 95 % Wilson interval of `test_accuracy`
    activations: Text  # fp32 or int8: how the file computes
    dense: Text  # fp32 or int8: what became of full-precision layers
    file_bytes: Count
    sha256: Text
    parameters: Count
    binary_parameters: Count
    effective_parameters: Amount
    command: Text  # trains it again
    teacher: str | None = None  # network it was distilled from
    warm_start: str | None = None  # network whose weights it started from
    epochs_before: Count = 0  # epochs that those weights had been trained for
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # recipe keys set otherwise
    remark: str = ""  # what a reader of the accuracy should know, if anything
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # seconds, arithmetic, versions
    latency: Mapping[str, Any] | None = None  # median milliseconds a picture, engine, threads, machine
    tta: Mapping[str, Any] | None = None  # figures with test-time augmentation, and of which kind

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-serialisable values."""
        values = dataclasses.asdict(self)
        values["interval"] = list(self.interval)
        # Said only where there is something to say.
        for name in ("tta", "warm_start", "epochs_before", "changes", "remark"):
            if not values[name]:
                del values[name]
        return {"bitskip_card": 1, **values}

    @classmethod
    def from_dict(cls, values: object, source: str) -> Card:
        """Read a card; raises FileFormatError if a key is missing, unknown or of the wrong kind."""
        card = decode(cls, values, source, ("bitskip_card", 1))
        if not 0 <= card.test_correct <= card.test_images or card.test_images == 0:
            raise FileFormatError(
                f"{source}: {card.test_correct} correct of {card.test_images} pictures is no share"
            )
        for name, keys in _INNER_KEYS.items():
            inner = getattr(card, name)
            if inner is not None and not keys <= set(inner):
                raise FileFormatError(f"{source}: {name} lacks {', '.join(sorted(keys - set(inner)))}")
        return card


_INNER_KEYS = {"latency": {"median_ms"}, "tta": {"kind", "accuracy", "interval_95", "hits", "images"}}


def models_folder() -> Path:
    """Return the folder of the package that holds files and cards."""
    with as_file(files("bitskip.zoo").joinpath("models")) as folder:
        return folder


def zoo_names() -> tuple[str, ...]:
    """Return the names of the models in the zoo, in alphabetical order."""
    return tuple(sorted(path.stem for path in models_folder().glob("*.json")))


def card_of(name: str) -> Card:
    """Return the card of a model.

    Raises:
        SpecError: for a name that is not in the zoo, naming the nearest one.
        FileFormatError: if the card does not hold together.
    """
    if name not in zoo_names():
        raise SpecError(
            f"no model '{name}' in the zoo{nearest(name, zoo_names())} (`bitskip zoo list` lists them)"
        )
    path = models_folder() / f"{name}.json"
    with _told_to_reinstall():
        return Card.from_dict(read_json(path), str(path))


def model_path(name: str) -> Path:
    """Return the path of a model's packed file, after comparing it with its card.

    Raises:
        SpecError: for a name that is not in the zoo.
        FileFormatError: if the file is missing or is not the one that the card describes.
    """
    card = card_of(name)
    path = models_folder() / f"{name}.bitskip"
    with _told_to_reinstall():
        check_file(path, card)
    return path


def packed_path(source: str | Path) -> Path:
    """Return the packed file that one word names: a path, a name of the zoo, or `zoo:NAME`.

    A file of that name comes before a model of the zoo.

    Raises:
        SpecError: for `zoo:NAME` with a name that is not in the zoo.
        FileFormatError: if the word is neither, or a folder.
    """
    text, path = str(source), Path(source)
    if text.startswith(_ZOO) and not path.exists():
        return model_path(text.removeprefix(_ZOO))
    if path.is_dir():
        what = "a run: pack it first" if (path / "weights.safetensors").is_file() else "a folder"
        raise FileFormatError(f"'{text}' is {what}; expected a packed file (`bitskip pack RUN -o M.bitskip`)")
    if path.exists() or path.suffix == ".bitskip" or path.parent != Path():
        return path
    if text in zoo_names():
        return model_path(text)
    raise FileFormatError(
        f"'{text}' is neither a file nor a model of the zoo{nearest(text, zoo_names())} "
        "(`bitskip zoo list` lists them)"
    )


@contextmanager
def _told_to_reinstall() -> Iterator[None]:
    """Add what helps when a file of the package is broken; of files elsewhere only their reader knows."""
    try:
        yield
    except FileFormatError as error:
        raise FileFormatError(f"{error}; reinstall bitskip") from None


def check_file(path: Path, card: Card) -> None:
    """Raise FileFormatError unless `path` is, byte for byte, the file that `card` describes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != card.sha256:
        raise FileFormatError(
            f"{path} is damaged: {len(content):,} bytes with another checksum than its card's "
            f"{card.file_bytes:,} bytes"
        )
