"""A folder of mixed pictures to try the tutorial with: `python examples/make_photos.py FOLDER [--each 100]`.

Three classes of CIFAR-10's test set, which no network of the zoo was trained on, as a phone, a scanner and
the web would leave them: PNG, JPEG lying on its side, 16-bit grey TIFF, palette GIF, transparent WebP, odd
sizes, a folder within a folder, and files that are not pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from bitskip.data import load_images

CLASSES = ("cat", "frog", "truck")
SIDEWAYS = 6  # EXIF orientation: turn by 90 degrees clockwise to see it upright
ORIENTATION = 0x0112


def write_picture(picture: Image.Image, stem: Path, kind: int) -> None:
    """Write one picture in the form number `kind`, counted round."""
    width, height = picture.size
    match kind % 6:
        case 0:
            picture.save(stem.with_suffix(".png"))
        case 1:
            exif = Image.Exif()
            exif[ORIENTATION] = SIDEWAYS
            turned = picture.resize((3 * width, 3 * height)).transpose(Image.Transpose.ROTATE_90)
            turned.save(stem.with_suffix(".JPG"), quality=92, exif=exif)
        case 2:
            grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
            Image.fromarray(grey).save(stem.with_suffix(".tiff"))
        case 3:
            picture.resize((2 * width, 2 * height)).convert("P", palette=Image.Palette.ADAPTIVE).save(
                stem.with_suffix(".gif")
            )
        case 4:
            picture.convert("RGBA").resize((48, 40)).save(stem.with_suffix(".webp"), lossless=True)
        case _:
            picture.resize((160, 128)).save(stem.with_suffix(".jpeg"), quality=85)


def main() -> None:
    """Write the folder and say what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=100, help="pictures of each class")
    parser.add_argument("--data", help="CIFAR-10; default: as bitskip finds it")
    asked = parser.parse_args()
    images = load_images(asked.data)
    written = {}
    for name in CLASSES:
        chosen = np.flatnonzero(images.test_labels == images.class_names.index(name))[: asked.each]
        for number, index in enumerate(chosen):
            folder = asked.folder / name / ("from my phone" if number % 10 == 9 else "")
            folder.mkdir(parents=True, exist_ok=True)
            write_picture(Image.fromarray(images.test_images[index]), folder / f"{name} {number:03d}", number)
        (asked.folder / name / ".DS_Store").write_bytes(bytes(8))
        (asked.folder / name / "notes.txt").write_text("not a picture\n", encoding="utf-8")
        written[name] = len(chosen)
    print(json.dumps(written))


if __name__ == "__main__":
    main()
