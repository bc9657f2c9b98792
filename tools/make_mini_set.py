"""Write the bundled mini set: the first pictures of each class of CIFAR-10, lossless.

python tools/make_mini_set.py CIFAR10_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bitskip.data.formats import read_image_set

PER_CLASS = {"train": 100, "test": 50}


def main() -> None:
    """Read CIFAR-10 from the folder named on the command line and write the subset into the package."""
    whole = read_image_set(Path(sys.argv[1]))
    arrays = {}
    for part, count in PER_CLASS.items():
        images, labels = getattr(whole, f"{part}_images"), getattr(whole, f"{part}_labels")
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(whole.classes)]))
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[chosen], labels[chosen].astype(np.uint8)
    target = Path(__file__).parents[1] / "src/bitskip/data/mini_cifar10.npz"
    np.savez_compressed(target, **arrays)
    sys.stdout.write(f"{target}: {target.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
