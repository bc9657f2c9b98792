"""One input of a program: what a caller gives, brought to the pixels that engines take."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from bitskip.errors import DataError
from bitskip.pictures import fit_picture, read_picture
from bitskip.program import Program

if TYPE_CHECKING:
    from PIL import Image

_TOLERANCE = 1e-4  # how far a normalised value may lie from that of a whole pixel level


def picture_inputs(program: Program) -> tuple[PictureInput, ...]:
    """Return the inputs of `program`, in their order."""
    found, at = [], 0
    for source in program.inputs:
        channels = slice(at, at + source.shape[2])
        found.append(PictureInput(source.name, source.shape, program.mean[channels], program.std[channels]))
        at = channels.stop
    return tuple(found)


@dataclass(frozen=True)
class PictureInput:
    """What an input is called, its (H, W, C), and what it is normalised with (nothing: not at all)."""

    name: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocess(self, picture: Any) -> npt.NDArray[np.uint8]:
        """Return a picture as the model takes it, uint8 (height, width, channels): see `Model.preprocess`."""
        height, width, channels = self.shape
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

    def batch(self, images: Any) -> npt.NDArray[Any]:
        """Return a batch (N, H, W, C), uint8 or float32, of what `Model.predict` takes.

        Raises:
            DataError: for another shape or dtype, or a picture that cannot be read.
        """
        if _is_picture(images):
            images = self.preprocess(images)[None]
        elif isinstance(images, list | tuple) and images and all(map(_is_picture, images)):
            images = np.stack([self.preprocess(picture) for picture in images])
        return self._checked(images)

    def _checked(self, images: Any) -> npt.NDArray[Any]:
        array = np.asarray(images)
        height, width, channels = self.shape
        if array.shape == self.shape:
            array = array[None]
        if array.ndim != 4 or array.shape[1:] != self.shape:
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
        channels = self.shape[2]
        return np.array(self.mean or (0.0,) * channels), np.array(self.std or (1.0,) * channels)

    def pixels(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
        """Return the pixels that were normalised to `array`; None if it does not come from pixels so."""
        mean, std = self._normalisation()
        levels = (array.astype(np.float64) * std + mean) * 255
        pixels = np.rint(levels)
        if pixels.min() < 0 or pixels.max() > 255:
            return None
        again = (pixels / 255 - mean) / std
        return pixels.astype(np.uint8) if np.abs(again - array).max() <= _TOLERANCE else None

    def check_floats(self, array: npt.NDArray[np.float32], engine: str) -> None:
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
            # A file that does not say how its pictures are normalised takes any floats but plain pixels.
            for bottom, top in ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))[: 3 if self.mean else 1]:
                levels = (array.astype(np.float64) - bottom) * (255 / (top - bottom))
                if bottom <= low and high <= top and np.abs(levels - np.rint(levels)).max() < 1e-3:
                    raise DataError(f"got pixels scaled to {bottom:g}..{top:g}, {expected}")
        margin = (highest - lowest) / 2
        if self.mean and (low < lowest - margin or high > highest + margin):
            raise DataError(f"got floats from {low:g} to {high:g}, {expected}")
        if self.mean and 0 <= low < high <= 1 and not (lowest > -0.5 and highest < 1.5):
            warnings.warn(f"these floats lie in 0..1, as if not normalised: {expected}", stacklevel=5)
        elif engine != "reference":
            warnings.warn(
                "these floats are not whole pixel levels, so they run on the numpy reference, which is slow; "
                "pass uint8 pictures for the native engine",
                stacklevel=5,
            )


def _is_pillow(value: Any) -> TypeGuard[Image.Image]:
    return hasattr(value, "getexif") and hasattr(value, "convert")


def _is_picture(value: Any) -> bool:
    """Whether it is a path or a Pillow picture: what `preprocess` takes besides arrays."""
    return isinstance(value, str | Path) or _is_pillow(value)
