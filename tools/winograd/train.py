"""bitskip's commands that train, with faster convolutions and activations: for CPUs without bfloat16.

    python tools/winograd/train.py train resnet14-full-all --recipe modern --epochs 12 --out runs/full

The result says so, under versions. docs/training.md says what it gains.
"""

from __future__ import annotations

import convolution
import pointwise

from bitskip.cli import main
from bitskip.training import run

_versions = run.versions


def _versions_and_kernels() -> dict[str, str]:
    found = _versions()
    if convolution.used():
        found["convolutions"] = "3x3 of stride 1: Winograd F(4x4, 3x3), float32"
    if pointwise.used():
        found["rprelu"] = "forward and backward in one pass each, float32"
    return found


# At import, so that it holds in the processes of `ablate --jobs` too: they import their main module.
convolution.install()
pointwise.install()
run.versions = _versions_and_kernels

if __name__ == "__main__":
    main()
