"""A packed model ready to predict: the native engine where it is built, else the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.backends import BACKENDS, Run, backend
from bitskip.errors import DataError, RunError
from bitskip.program import Program

__all__ = ["Model", "Prediction", "load"]

_TOLERANCE = 1e-4  # how far a normalised value may lie from that of a whole pixel level

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One of a picture's likeliest classes."""

    index: int
    name: str  # the class name, or the index where the file has no names
    probability: float  # softmax of the logits


def load(path: str | Path, *, threads: int = 1, engine: str = "auto") -> Model:
    """Return the model in a `*.bitskip` file; see `Model`.

    Raises:
        FileFormatError: if the file cannot be read or does not hold together.
    """
    return Model(Program.load(path), threads=threads, engine=engine)


class Model:
    """Predicts with a Program.

    `engine` says what computes: `native` (C, SIMD) or `reference` (numpy).

    Args:
        program: the plan.
        threads: of the native engine.
        engine: `native`, `reference`, or `auto`: native where it is built, else the reference.

    Raises:
        RunError: if `native` is asked for and not there.
    """

    def __init__(self, program: Program, *, threads: int = 1, engine: str = "auto") -> None:
        self.program = program
        self._run, self.engine = _choose(program, threads, engine)
        self._reference: Run | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a picture."""
        return self.program.input_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; the indices where the file has none."""
        return self.program.class_names or tuple(map(str, range(self.program.classes)))

    def predict(self, images: npt.ArrayLike) -> Logits:
        """Return the logits of a batch.

        Args:
            images: uint8 pictures (N, height, width, channels), or float ones that are normalised as in
                training, (x / 255 - mean) / std. Floats that are no whole pixel levels run on the numpy
                reference, since the engines start from pixels.

        Returns:
            float32 (N, classes).

        Raises:
            DataError: for another shape or dtype.
            RunError: if the program gives something else than logits; see `outputs`.
        """
        if not self.program.is_classifier:
            names = ", ".join(output.name for output in self.program.outputs)
            raise RunError(f"{self.program.name} gives {names}, not logits; call outputs(images)")
        (logits,) = self.outputs(images).values()
        return logits[:, 0, 0, :]

    def outputs(self, images: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output of a batch by its name, float32 (N, H, W, C); arguments as in `predict`.

        Raises:
            DataError: for another shape or dtype.
        """
        found = self._ran(self._checked(images))
        return {output.name: values for output, values in zip(self.program.outputs, found, strict=True)}

    def _ran(self, array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        if len(array) == 0:
            shapes = (self.program.tensors[output.tensor].shape for output in self.program.outputs)
            return tuple(np.empty((0, *shape), np.float32) for shape in shapes)
        if array.dtype == np.uint8:
            return self._run(array)
        pixels = self._pixels(array)
        if pixels is not None:
            return self._run(pixels)
        if self._reference is None:
            self._reference = backend("reference").build(self.program)
        return self._reference(array)

    def top(self, images: npt.ArrayLike, k: int = 1) -> list[list[Prediction]]:
        """Return the `k` likeliest classes of each picture, likeliest first; arguments as in `predict`."""
        return self.ranked(self.predict(images), k)

    def ranked(self, logits: Logits, k: int = 1) -> list[list[Prediction]]:
        """Return the `k` likeliest classes of each row of logits (N, classes), likeliest first."""
        names = self.class_names
        found = []
        for row in logits.astype(np.float64):
            share = np.exp(row - row.max())
            share /= share.sum()
            best = np.argsort(-row, kind="stable")[: max(1, k)]
            found.append([Prediction(int(i), names[i], float(share[i])) for i in best])
        return found

    def _checked(self, images: npt.ArrayLike) -> npt.NDArray[Any]:
        array = np.asarray(images)
        height, width, channels = self.input_shape
        expected = f"expected (N, {height}, {width}, {channels}), channels last"
        if array.shape == self.input_shape:
            raise DataError(f"got one picture of shape {array.shape}, {expected}; pass images[None]")
        if array.ndim != 4 or array.shape[1:] != self.input_shape:
            raise DataError(f"got images of shape {array.shape}, {expected}")
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array)
        if not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                f"got images of dtype {array.dtype}, expected uint8 pixels or normalised floats "
                "((x / 255 - mean) / std)"
            )
        if not np.isfinite(array).all():
            raise DataError("got images with values that are not finite, expected normalised floats")
        return np.ascontiguousarray(array, dtype=np.float32)

    def _pixels(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
        """Return the pixels that were normalised to `array`, or None if it is no normalised picture."""
        channels = self.input_shape[2]
        mean = np.array(self.program.mean or (0.0,) * channels)
        std = np.array(self.program.std or (1.0,) * channels)
        levels = (array.astype(np.float64) * std + mean) * 255
        pixels = np.rint(levels)
        if pixels.min() < 0 or pixels.max() > 255:
            return None
        again = (pixels / 255 - mean) / std
        return pixels.astype(np.uint8) if np.abs(again - array).max() <= _TOLERANCE else None


def _choose(program: Program, threads: int, engine: str) -> tuple[Run, str]:
    """Return what runs `program`, and the name of its backend."""
    for name in BACKENDS if engine == "auto" else (engine,):
        module = backend(name)
        reasons = module.supports(program)
        if not reasons:
            return module.build(program, threads=threads), name
        if engine != "auto":
            raise RunError(f"the {name} engine is not there: {'; '.join(reasons)}")
    raise RunError(f"no engine runs {program.name}: {'; '.join(reasons)}")
