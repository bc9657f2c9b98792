"""Which pictures of a folder without a test folder are test pictures: a fifth, chosen by their content.

A picture is one if the hash of its file says so, whatever lies beside it. So pictures that are added, renamed
or moved never make a test picture of one that a network was trained on, and equal files stay together.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

ONE_IN = 5  # pictures, about, is a test picture
BY_CONTENT = "a fifth of each class, by the SHA-256 of the file"  # what runs call this rule


def held_out_by_content(paths: Sequence[Path], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which pictures are test pictures, bool (N,).

    Those whose SHA-256, read as a fraction of 1, is below 1/5. In a class of five or more without one it is
    the picture with the smallest; one picture at least is left to train on. Smaller classes have none.

    Args:
        paths: the files.
        labels: int64 (N,), their classes.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        fractions = np.fromiter(pool.map(_fraction, paths), np.float64, len(paths))
    held_out = np.zeros(len(paths), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(fractions[members], kind="stable")]
        if len(members) >= ONE_IN:
            count = int((fractions[members] < 1 / ONE_IN).sum())
            held_out[members[: min(max(1, count), len(members) - 1)]] = True
    return held_out


def _fraction(path: Path) -> float:
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return 1.0  # decoding it says what is wrong
    return int.from_bytes(digest[:8], "big") / 2.0**64
