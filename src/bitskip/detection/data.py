"""Detection data from folders: COCO's and Pascal VOC's formats, and batches of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bitskip.detection.composites import Target
from bitskip.errors import DataError, nearest

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class Annotated:
    """A picture and what is on it; a picture without an object has no boxes."""

    path: Path
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]  # from 1; 0 is the background


@dataclass(frozen=True)
class DetectionSet:
    """Annotated pictures."""

    name: str
    class_names: tuple[str, ...]  # of labels 1, 2, ...
    pictures: tuple[Annotated, ...]
    notes: tuple[str, ...] = ()  # what was left out, for people

    @property
    def classes(self) -> int:
        """Kinds of objects and the background, as torchvision's detectors count."""
        return len(self.class_names) + 1


@dataclass
class _Left:
    """Annotations that are left out, by why."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, why: str) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{count} annotations left out: {why}" for why, count in self.counts.items())


def load_detection_set(folder: Path, split: str | None = None) -> DetectionSet:
    """Return the data of a folder in COCO's or VOC's format, whichever it is.

    Raises:
        DataError: if it is neither, or a file in it does not hold together.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    if (folder / "Annotations").is_dir():
        return load_voc(folder, split)
    if _coco_files(folder):
        return load_coco(folder, split)
    raise DataError(
        f"{folder} is neither COCO (annotations/*.json beside folders of pictures) nor VOC "
        "(Annotations/*.xml and JPEGImages)"
    )


# -- COCO -----------------------------------------------------------------------------------------------


def load_coco(folder: Path, split: str | None = None) -> DetectionSet:
    """Return the pictures of a COCO folder: `annotations/instances_SPLIT.json` and pictures below it.

    Crowds and boxes without an area are left out, and a note says how many.

    Args:
        folder: with `annotations/`, or with one JSON file beside the pictures.
        split: part of the file's name, such as `val2017`; may be left out where there is one file.

    Raises:
        DataError: if files are missing or do not hold together.
    """
    files = _coco_files(folder)
    chosen = [file for file in files if split is None or split in file.stem]
    if len(chosen) != 1:
        names = ", ".join(file.name for file in files[:6]) or "none"
        found = "several splits" if len(chosen) > 1 else f"no split '{split}'"
        raise DataError(f"{folder} has {found}: its annotation files are {names}; name one by its split")
    file = chosen[0]
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None
    try:
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in values["categories"])
        images = {entry["id"]: entry for entry in values["images"]}
        annotations = list(values["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is not COCO's format: it lacks or misuses {error}") from None
    labels = {number: at for at, (number, _) in enumerate(categories, 1)}
    left = _Left()
    boxes: dict[Any, list[tuple[Box, int]]] = {number: [] for number in images}
    for at, entry in enumerate(annotations):
        where = f"{file}, annotation {entry.get('id', at) if isinstance(entry, dict) else at}"
        try:
            image, category, (x, y, width, height) = entry["image_id"], entry["category_id"], entry["bbox"]
            box = (float(x), float(y), float(x) + float(width), float(y) + float(height))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} is not one: it lacks or misuses {error}") from None
        if image not in boxes:
            raise DataError(f"{where} is of picture {image}, which the file does not list")
        if category not in labels:
            raise DataError(f"{where} is of category {category}, which the file does not list")
        if entry.get("iscrowd"):
            left.add("crowds")
            continue
        boxes[image].append((box, labels[category]))
    roots = _picture_folders(folder, file)
    pictures = []
    for number, entry in images.items():
        path = _picture(roots, str(entry.get("file_name", "")), f"{file}, picture {number}")
        size = (entry.get("width"), entry.get("height"))
        pictures.append(_annotated(path, boxes[number], size, left))
    return _finish(folder, tuple(name for _, name in categories), pictures, left)


def _coco_files(folder: Path) -> list[Path]:
    found = sorted((folder / "annotations").glob("*.json")) or sorted(folder.glob("*.json"))
    instances = [file for file in found if "instances" in file.stem]
    return instances or found


def _picture_folders(folder: Path, file: Path) -> list[Path]:
    split = file.stem.rpartition("_")[2]
    return [folder / split, folder / "images" / split, folder / "images", folder, file.parent]


def _picture(roots: Iterable[Path], name: str, where: str) -> Path:
    for root in roots:
        if name and (root / name).is_file():
            return root / name
    raise DataError(f"{where}: there is no file '{name}' in {', '.join(str(root) for root in roots)}")


# -- VOC ------------------------------------------------------------------------------------------------


def load_voc(folder: Path, split: str | None = None) -> DetectionSet:
    """Return the pictures of a VOC folder: `Annotations/*.xml`, `JPEGImages` and `ImageSets/Main/SPLIT.txt`.

    Objects marked as difficult count like the others.

    Args:
        folder: of one year.
        split: such as `train`; None for every annotated picture.

    Raises:
        DataError: if files are missing or do not hold together.
    """
    if split is None:
        files = sorted((folder / "Annotations").glob("*.xml"))
    else:
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            known = [path.stem for path in sorted(listing.parent.glob("*.txt"))]
            raise DataError(
                f"{folder} has no split '{split}'; its splits are {', '.join(known) or 'none'}"
                + nearest(split, known)
            )
        names = [line.split()[0] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        files = [folder / "Annotations" / f"{name}.xml" for name in names]
    left = _Left()
    read = [_voc_file(file) for file in files]
    class_names = tuple(sorted({name for _, objects, _ in read for name, _ in objects}))
    labels = {name: at for at, name in enumerate(class_names, 1)}
    pictures = []
    for file, (picture, objects, size) in zip(files, read, strict=True):
        path = _picture([folder / "JPEGImages"], picture or f"{file.stem}.jpg", str(file))
        pictures.append(_annotated(path, [(box, labels[name]) for name, box in objects], size, left))
    return _finish(folder, class_names, pictures, left)


def _voc_file(file: Path) -> tuple[str, list[tuple[str, Box]], tuple[Any, Any]]:
    """Return the picture's file name, the objects' names and boxes, and the picture's width and height."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise DataError(f"there is no annotation file {file}") from None
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{file} cannot be read as XML: {error}") from None
    objects = []
    for entry in root.iter("object"):
        name = (entry.findtext("name") or "").strip()
        corners = [entry.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(value) for value in corners)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError(
                f"{file}: object '{name}' has the box {corners}, expected xmin, ymin, xmax and ymax"
            ) from None
        if not name:
            raise DataError(f"{file}: an object has no name")
        objects.append(
            (name, (x1 - 1, y1 - 1, x2, y2))
        )  # VOC counts pixels from 1, and the last one is inside
    sizes = [root.findtext(f"size/{key}") for key in ("width", "height")]
    width, height = (int(value) if value and value.isdigit() else None for value in sizes)
    return (root.findtext("filename") or "").strip(), objects, (width, height)


# -- both -----------------------------------------------------------------------------------------------


def _annotated(path: Path, found: Sequence[tuple[Box, int]], size: tuple[Any, Any], left: _Left) -> Annotated:
    """Cut boxes at the picture's edges; leave out those without an area."""
    width, height = size
    if not width or not height:
        width, height = _size_of(path)
    boxes, labels = [], []
    for (x1, y1, x2, y2), label in found:
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if not (box[2] - box[0] >= 1 and box[3] - box[1] >= 1):
            left.add("boxes smaller than a pixel or outside their picture")
            continue
        boxes.append(box)
        labels.append(label)
    return Annotated(path, tuple(boxes), tuple(labels))


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as error:
        raise DataError(f"cannot read the picture {path}: {error}") from None


def _finish(
    folder: Path, class_names: tuple[str, ...], pictures: list[Annotated], left: _Left
) -> DetectionSet:
    if not pictures:
        raise DataError(f"{folder} lists no picture")
    if not any(picture.boxes for picture in pictures):
        raise DataError(f"{folder} has {len(pictures)} pictures, but none has an object")
    notes = list(left.notes())
    empty = sum(not picture.boxes for picture in pictures)
    if empty:
        notes.append(f"{empty} of {len(pictures)} pictures have no object")
    return DetectionSet(folder.name, class_names, tuple(pictures), tuple(notes))


class FolderBatches:
    """Batches of a detection set, as `Composites` gives them: square pictures with their boxes.

    A picture is scaled by its longer side and padded with grey to the right and below, so that nothing is cut
    off.

    Args:
        data: the set.
        size: height = width, in pixels.
        seed: of the order; None for the set's own order, each picture once.
        device: where pictures go.
    """

    def __init__(
        self, data: DetectionSet, size: int, *, seed: int | None = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.data, self.size, self.seed, self.device = data, size, seed, torch.device(device)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.data.pictures)

    def batch(self, index: int, count: int) -> tuple[Tensor, list[Target]]:
        """Return batch `index` of `count` pictures: float32 (N, 3, S, S) in 0..1, and their targets.

        Raises:
            DataError: if a picture cannot be read, or there is no batch of that number.
        """
        total = len(self.data.pictures)
        first = index * count
        if self.seed is None:
            chosen = list(range(first, min(first + count, total)))
            if not chosen:
                raise DataError(f"{self.data.name} has {total} pictures, and no batch {index} of {count}")
        else:
            # Each pass over the pictures has an order of its own.
            chosen = [
                int(np.random.default_rng([self.seed, at // total]).permutation(total)[at % total])
                for at in range(first, first + count)
            ]
        read = [self._read(self.data.pictures[number]) for number in chosen]
        pictures = torch.stack([picture for picture, _ in read]).to(self.device)
        return pictures, [{key: value.to(self.device) for key, value in t.items()} for _, t in read]

    def _read(self, entry: Annotated) -> tuple[Tensor, Target]:
        try:
            with Image.open(entry.path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except OSError as error:
            raise DataError(f"cannot read the picture {entry.path}: {error}") from None
        factor = self.size / max(picture.size)
        width, height = (max(1, round(side * factor)) for side in picture.size)
        pixels = np.full((self.size, self.size, 3), 114, np.uint8)
        pixels[:height, :width] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        boxes = torch.tensor(entry.boxes, dtype=torch.float32).reshape(-1, 4) * factor
        target = {"boxes": boxes, "labels": torch.tensor(entry.labels, dtype=torch.int64)}
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, target
