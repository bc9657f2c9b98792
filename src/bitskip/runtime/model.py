"""A packed model ready to predict: the native engine where it is built, else the numpy reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.backends import BACKENDS, Run, backend
from bitskip.errors import DataError, RunError, nearest
from bitskip.program import Program
from bitskip.runtime.inputs import PictureInput, picture_inputs
from bitskip.zoo import packed_path

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One of a picture's likeliest classes."""

    index: int
    name: str  # the class name, or the index where the file has no names
    probability: float  # softmax of the logits


def load(path: str | Path, *, threads: int = 1, engine: str = "auto") -> Model:
    """Return a packed model; see `Model`.

    Args:
        path: a `*.bitskip` file; or a name of `bitskip zoo list`, as `bitskip run` takes it.
        threads: of the native engine.
        engine: `native`, `reference`, or `auto`.

    Raises:
        FileFormatError: if the file cannot be read or does not hold together, or no model has that name.
    """
    return Model(Program.load(packed_path(path)), threads=threads, engine=engine)


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
        self._inputs = picture_inputs(program)
        self._names = ", ".join(self.input_shapes)

    @property
    def input_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(height, width, channels) of each input by its name; most models take one `picture`."""
        return {source.name: source.shape for source in self._inputs}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a picture: of the first input."""
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

        Of several inputs it is the first's size.

        It is turned upright, brought to 8 bits, scaled by its shorter side and cropped at the centre
        (`bitskip.pictures`). The engines normalise with `mean` and `std` themselves.

        Args:
            picture: a path, a Pillow picture, or uint8 (H, W, 3) or (H, W) of any size.

        Raises:
            DataError: if it cannot be read.
        """
        return self._inputs[0].preprocess(picture)

    def predict(self, images: Any) -> Logits:
        """Return the logits of a batch.

        Args:
            images: one of

                - uint8 pictures (N, height, width, channels), or one (height, width, channels);
                - a path, a Pillow picture, or a list of them: each goes through `preprocess`;
                - float pictures that are normalised as in training, (x / 255 - mean) / std. Floats that are
                  not whole pixel levels run on the numpy reference, since the engines start from pixels;
                - of a model with several inputs a dict of these by name, as `run` takes it.

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
        found = self._ran(list(self.batch(images).values()))
        return {output.name: values for output, values in zip(self.program.outputs, found, strict=True)}

    def batch(self, images: Any) -> dict[str, npt.NDArray[Any]]:
        """Return what `predict` takes as arrays (N, H, W, C) by input: read, scaled and checked.

        Raises:
            DataError: for an input that is missing or unknown, numbers of pictures that differ, or as in
                `predict`.
        """
        if not isinstance(images, Mapping):
            if len(self._inputs) > 1:
                raise DataError(f"{self.program.name} takes {self._names}; give them by name, in a dict")
            images = {self._inputs[0].name: images}
        for name in images:
            if name not in self.input_shapes:
                known = nearest(str(name), self.input_shapes)
                raise DataError(f"got an input '{name}', but {self.program.name} takes {self._names}{known}")
        missing = [name for name in self.input_shapes if name not in images]
        if missing:
            raise DataError(f"input '{missing[0]}' is missing; {self.program.name} takes {self._names}")
        batches = {source.name: self._batch(source, images[source.name]) for source in self._inputs}
        if len(set(map(len, batches.values()))) > 1:
            counts = ", ".join(f"{len(batch)} of {name}" for name, batch in batches.items())
            raise DataError(f"got {counts}, expected as many pictures of each")
        return batches

    def run(self, inputs: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output of a batch by its name, float32 (N, H, W, C).

        Args:
            inputs: what `predict` takes, for each of `input_shapes` by its name; as many pictures of each.

        Raises:
            DataError: as in `batch`.
        """
        return self.outputs(inputs)

    def _batch(self, source: PictureInput, images: Any) -> npt.NDArray[Any]:
        try:
            return source.batch(images)
        except DataError as error:
            where = f"input '{source.name}': " if len(self._inputs) > 1 else ""
            raise DataError(f"{where}{error}") from None

    def _ran(self, batches: list[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.float32], ...]:
        if len(batches[0]) == 0:
            shapes = (self.program.tensors[output.tensor].shape for output in self.program.outputs)
            return tuple(np.empty((0, *shape), np.float32) for shape in shapes)
        pixels = [
            batch if batch.dtype == np.uint8 else source.pixels(batch)
            for batch, source in zip(batches, self._inputs, strict=True)
        ]
        whole = tuple(array for array in pixels if array is not None)
        if len(whole) == len(pixels):
            return self._run(whole)
        for batch, source, found in zip(batches, self._inputs, pixels, strict=True):
            if found is None:
                source.check_floats(batch, self.engine)
        if self._reference is None:
            self._reference = backend("reference").build(self.program)
        return self._reference(tuple(batches))

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


def _restored(content: bytes, asked: dict[str, Any]) -> Model:
    return Model(Program.from_bytes(content), **asked)


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
