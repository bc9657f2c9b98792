"""Says whether an installed wheel is whole: `python check_wheel.py PICTURE`, where nothing else is installed.

The native engine must be there, know a SIMD instruction set and agree with the numpy reference; no torch.
"""

from __future__ import annotations

import importlib.util
import sys

import bitskip
from bitskip.backends.native import available_isas
from bitskip.zoo import model_path


def main() -> None:
    """Classify the picture and compare; exit code 1 with a sentence if something is missing."""
    if importlib.util.find_spec("torch") is not None:
        sys.exit("torch is installed here; expected what a device has")
    path = model_path("resnet14-binary-all-int8")
    native = bitskip.load(path, engine="native")
    best = native.top(sys.argv[1])[0][0]
    if best.name != "ship":
        sys.exit(f"the picture of a ship is taken for '{best.name}'")
    pixels = native.preprocess(sys.argv[1])[None]
    reference = bitskip.load(path, engine="reference").predict(pixels)
    if abs(native.predict(pixels) - reference).max() > 1e-4:
        sys.exit("the native engine differs from the reference")
    sets = available_isas()
    if len(sets) < 2:
        sys.exit(f"no SIMD kernels: {', '.join(sets)}")
    sys.stdout.write(f"{best.name} {best.probability:.1%}; kernels: {', '.join(sets)}\n")


if __name__ == "__main__":
    main()
