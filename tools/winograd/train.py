"""bitskip's commands that train, with Winograd convolutions: for CPUs without bfloat16.

    python tools/winograd/train.py train resnet14-full-all --recipe modern --epochs 12 --out runs/full

The result says so, under versions. docs/training.md says what it gains.
"""

from __future__ import annotations

import convolution

from bitskip.cli import main
from bitskip.training import run

_versions = run.versions


def _versions_and_convolutions() -> dict[str, str]:
    used = {"convolutions": "3x3 of stride 1: Winograd F(4x4, 3x3), float32"} if convolution.used() else {}
    return _versions() | used


# At import, so that it holds in the processes of `ablate --jobs` too: they import their main module.
convolution.install()
run.versions = _versions_and_convolutions

if __name__ == "__main__":
    main()
