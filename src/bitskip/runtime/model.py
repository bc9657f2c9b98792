"""A packed model ready to predict: the native engine where it is built, else the numpy reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from bitskip.backends import BACKENDS, Run, backend
from bitskip.errors import DataError, RunError
from bitskip.pictures import fit_picture, read_picture
from bitskip.program import Program

if TYPE_CHECKING:
    from PIL import Image

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

    `engine` says what computes: `native` (C, SIMD) or `reference` (numpy). A model can be copied and
    pickled, which takes its program along and loads it again. It predicts in a forked child too, and
    threads that share one take turns.

    Args:
        program: the plan.
        threads: of the native engine.
        engine: `native`, `reference`, or `auto`: native where it is built, else the reference.

    Raises:
        RunError: if `native` is asked for and not there.
    """

    def __init__(self, program: Program, *, threads: int = 1, engine: str = "auto") -> None:
        self.program = program
        self._asked = {"threads": threads, "engine": engine}
        self._run, self.engine = _choose(program, threads, engine)
        self._reference: Run | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a picture."""
        return self.program.input_shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel that pictures (0..1) are normalised with; empty if they are not."""
        return self.program.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel; see `mean`."""
        return self.program.std

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.program.to_bytes(), self._asked)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; the indices where the file has none."""
        return self.program.class_names or tuple(map(str, range(self.program.classes)))

    def preprocess(self, picture: Any) -> npt.NDArray[np.uint8]:
        """Return a picture as the model takes it, uint8 (height, width, channels): what `bitskip run` does.

        It is turned upright, brought to 8 bits, scaled by its shorter side and cropped at the centre
        (`bitskip.pictures`). The engines normalise with `mean` and `std` themselves.

        Args:
            picture: a path, a Pillow picture, or uint8 (H, W, 3) or (H, W) of any size.

        Raises:
            DataError: if it cannot be read.
        """
        height, width, channels = self.input_shape
        if isinstance(picture, str | Path):
            return read_picture(picture, (height, width), channels)
        if not _is_pillow(picture):
            array = np.asarray(picture)
            if array.ndim == 3 and array.shape[2] == 1:
                array = array[..., 0]
            if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)):
                raise DataError(
                    f"got a picture of {array.dtype} and shape {array.shape}, expected a path, a Pillow "
                    "picture or uint8 pixels of shape (H, W, 3) or (H, W)"
                )
            from PIL import Image

            picture = Image.fromarray(array)
        return fit_picture(picture, (height, width), channels)

    def predict(self, images: Any) -> Logits:
        """Return the logits of a batch.

        Args:
            images: one of

                - uint8 pictures (N, height, width, channels), or one (height, width, channels);
                - a path, a Pillow picture, or a list of them: each goes through `preprocess`;
                - float pictures that are normalised as in training, (x / 255 - mean) / std. Floats that are
                  not whole pixel levels run on the numpy reference, since the engines start from pixels.

        Returns:
            float32 (N, classes); one picture is a batch of one.

        Raises:
            DataError: for another shape or dtype, a picture that cannot be read, or floats that are not
                normalised so.
            RunError: if the program gives something else than logits; see `outputs`.
        """
        if not self.program.is_classifier:
            names = ", ".join(output.name for output in self.program.outputs)
            raise RunError(f"{self.program.name} gives {names}, not logits; call outputs(images)")
        (logits,) = self.outputs(images).values()
        return logits[:, 0, 0, :]

    def outputs(self, images: Any) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output of a batch by its name, float32 (N, H, W, C); arguments as in `predict`.

        Raises:
            DataError: as in `predict`.
        """
        if _is_picture(images):
            images = self.preprocess(images)[None]
        elif isinstance(images, list | tuple) and images and all(map(_is_picture, images)):
            images = np.stack([self.preprocess(picture) for picture in images])
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
        self._check_floats(array)
        if self._reference is None:
            self._reference = backend("reference").build(self.program)
        return self._reference(array)

    def top(self, images: Any, k: int = 1) -> list[list[Prediction]]:
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

    def _checked(self, images: Any) -> npt.NDArray[Any]:
        array = np.asarray(images)
        height, width, channels = self.input_shape
        if array.shape == self.input_shape:
            array = array[None]
        if array.ndim != 4 or array.shape[1:] != self.input_shape:
            expected = f"expected (N, {height}, {width}, {channels}), channels last"
            if array.shape[-3:] == (channels, height, width):
                expected += "; move the channels with np.moveaxis(images, -3, -1)"
            elif array.dtype == np.uint8 and array.ndim >= 3 and array.shape[-1] == channels:
                expected += "; Model.preprocess brings a picture to that size"
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

    def _normalisation(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        channels = self.input_shape[2]
        return np.array(self.mean or (0.0,) * channels), np.array(self.std or (1.0,) * channels)

    def _pixels(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
        """Return the pixels that were normalised to `array`; None if it does not come from pixels so."""
        mean, std = self._normalisation()
        levels = (array.astype(np.float64) * std + mean) * 255
        pixels = np.rint(levels)
        if pixels.min() < 0 or pixels.max() > 255:
            return None
        again = (pixels / 255 - mean) / std
        return pixels.astype(np.uint8) if np.abs(again - array).max() <= _TOLERANCE else None

    def _check_floats(self, array: npt.NDArray[np.float32]) -> None:
        """Refuse floats that were scaled otherwise than the model expects, and warn where that is likely.

        Raises:
            DataError: for pixels scaled to 0..255, 0..1 or -1..1, or values far beyond normalised pixels.
        """
        mean, std = self._normalisation()
        lowest, highest = float((-mean / std).min()), float(((1 - mean) / std).max())
        low, high = float(array.min()), float(array.max())
        expected = (
            f"expected (x / 255 - mean) / std with mean {tuple(mean.tolist())} and std "
            f"{tuple(std.tolist())}, which lies in {lowest:.2f} .. {highest:.2f}; pass the uint8 pictures "
            "themselves, which the model normalises"
        )
        if low < high:
            for bottom, top in ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)):
                levels = (array.astype(np.float64) - bottom) * (255 / (top - bottom))
                if bottom <= low and high <= top and np.abs(levels - np.rint(levels)).max() < 1e-3:
                    raise DataError(f"got pixels scaled to {bottom:g}..{top:g}, {expected}")
        margin = (highest - lowest) / 2
        if low < lowest - margin or high > highest + margin:
            raise DataError(f"got floats from {low:g} to {high:g}, {expected}")
        if 0 <= low < high <= 1 and not (lowest > -0.5 and highest < 1.5):
            warnings.warn(f"these floats lie in 0..1, as if not normalised: {expected}", stacklevel=5)
        elif self.engine != "reference":
            warnings.warn(
                "these floats are not whole pixel levels, so they run on the numpy reference, which is slow; "
                "pass uint8 pictures for the native engine",
                stacklevel=5,
            )


def _restored(content: bytes, asked: dict[str, Any]) -> Model:
    return Model(Program.from_bytes(content), **asked)


def _is_pillow(value: Any) -> TypeGuard[Image.Image]:
    return hasattr(value, "getexif") and hasattr(value, "convert")


def _is_picture(value: Any) -> bool:
    """Whether it is a path or a Pillow picture: what `preprocess` takes besides arrays."""
    return isinstance(value, str | Path) or _is_pillow(value)


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
