"""How far fp32 convolutions by Winograd's filtering are from exact sums, beside direct ones.

    python benchmarks/winograd_error.py -o benchmarks/results/winograd_error.json

Inputs and weights are normal numbers; the exact sum is float64's. Errors are parts of the largest output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bitskip import _native
from bitskip.backends.native import cpu_features, tile_rate
from bitskip.files import write_json

SIDE, CHANNELS = 16, (64, 128, 256)


def outputs(kernel: str, x: Any, w: Any) -> Any:
    """Return what a kernel makes of x (side, side, inputs) and w (outputs, 3, 3, inputs), padding 1."""
    side, _, inputs = x.shape
    arena = side * side * (inputs + len(w)) * 4
    description = {
        "kind": 0, "in": (1, side, side, inputs, 0, 0), "weight_dtype": 1, "weights": w, "epilogue": 1,
        "kh": 3, "kw": 3, "sh": 1, "sw": 1, "ph": 1, "pw": 1,
        "out_f32": (1, side, side, len(w), 0, x.nbytes),
    }  # fmt: skip
    _native.prefer_conv(kernel)
    engine = _native.Engine([description], arena, 99, 1)
    _native.prefer_conv("")
    assert engine.kernels == [kernel], engine.kernels
    engine.write(0, x.reshape(-1).view(np.uint8))
    engine.run_op(0)
    made = np.frombuffer(engine.read(x.nbytes, side * side * len(w) * 4), np.float32)
    return made.reshape(side, side, len(w))


def main(out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None) -> None:
    """Compare every fp32 kernel that this machine can run."""
    found: dict[str, dict[str, float]] = {}
    for channels in CHANNELS:
        rng = np.random.default_rng(channels)
        x = rng.standard_normal((SIDE, SIDE, channels)).astype(np.float32)
        w = rng.standard_normal((channels, 3, 3, channels)).astype(np.float32)
        padded = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))  # (H, W, I, 3, 3)
        columns = windows.transpose(0, 1, 3, 4, 2).reshape(SIDE * SIDE, -1)
        exact = (columns @ w.astype(np.float64).reshape(channels, -1).T).reshape(SIDE, SIDE, channels)
        for kernel in _native.conv_kernels():
            if kernel.startswith("conv_f32_f32") and tile_rate(kernel):
                error = np.abs(outputs(kernel, x, w) - exact).max() / np.abs(exact).max()
                found.setdefault(kernel, {})[str(channels)] = float(f"{error:.2g}")
    for kernel, errors in found.items():
        typer.echo(f"{kernel:32s} " + "  ".join(f"{c} channels: {e:.1e}" for c, e in errors.items()))
    if out:
        write_json(out, {"side": SIDE, "features": cpu_features(), "largest_error": found})


if __name__ == "__main__":
    typer.run(main)
