"""Program: the frozen list of inference ops that everything after training consumes, and nothing else.

A Program is a list of ops over numbered tensors. It is validated once, when it is made
(`bitskip.program.check`), so whoever holds one may rely on every shape, dtype and offset in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitskip.errors import FileFormatError
from bitskip.program.check import check_program
from bitskip.program.ops import Array, Input, Op, Output, Tensor, input_count


@dataclass(frozen=True, eq=False)
class Program:
    """An inference program, validated at construction.

    `ops` run in order; the first tensors, the u8 ones, are its inputs, most often one picture. `outputs` are
    f32 tensors, read when all ops have run. A classifier has one, its logits, of shape (1, 1, classes).

    Raises:
        FileFormatError: if anything in it does not hold together.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]  # what it gives, named; a classifier's only one is its logits
    arena_bytes: int  # of one image, without input and weights
    # what the pictures were normalised with, of x / 255: per channel of the first input, of the second, ...
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()  # of a classifier one a class, or none
    spec: Mapping[str, Any] | None = None  # the NetworkSpec's to_dict()
    activations: str = "fp32"  # mode it was lowered in: fp32 or int8
    dense: str = "fp32"  # what became of fp32 layers: fp32 or int8
    calibration_images: int = 0  # how many training pictures set the int8 scales
    extra: Mapping[str, Any] = field(default_factory=dict)  # JSON values for reports

    def __post_init__(self) -> None:
        check_program(self)

    def __repr__(self) -> str:
        """Say what it is in a line; its weights alone would fill screens."""
        inputs = ", ".join(f"{given.name} {'x'.join(map(str, given.shape))}" for given in self.inputs)
        outputs = ", ".join(output.name for output in self.outputs)
        return (
            f"<Program {self.name!r}: {inputs} -> {outputs}, {len(self.ops)} ops, "
            f"activations {self.activations}, dense {self.dense}>"
        )

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it takes, named; most programs take one `picture`."""
        first = self.tensors[: input_count(self.tensors)]
        return tuple(Input(t.name or "picture", number, t.shape) for number, t in enumerate(first))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the picture: of the first input."""
        return self.tensors[0].shape

    @property
    def output(self) -> int:
        """Number of the first output's tensor: of a classifier the logits."""
        return self.outputs[0].tensor

    @property
    def is_classifier(self) -> bool:
        """Whether it gives logits and nothing else."""
        return len(self.outputs) == 1 and self.tensors[self.output].shape[:2] == (1, 1)

    @property
    def classes(self) -> int:
        """Channels of the first output: of a classifier the number of logits."""
        return self.tensors[self.output].shape[2]

    def constants(self) -> Iterator[Array]:
        """Yield every constant array, in file order."""
        from bitskip.program.file import iter_constants

        return iter_constants(self)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants as stored in the file, each array rounded up to whole bytes."""
        from bitskip.program.file import stored_bytes

        return stored_bytes(self)

    def to_bytes(self) -> bytes:
        """Return the content of a `*.bitskip` file."""
        from bitskip.program.file import encode

        return encode(self)

    @classmethod
    def from_bytes(cls, content: bytes, source: str = "packed model") -> Program:
        """Read the content of a `*.bitskip` file; raises FileFormatError if it does not hold together."""
        from bitskip.program.file import decode

        return decode(content, source)

    def save(self, path: Path | str) -> None:
        """Write a `*.bitskip` file; raises RunError if it cannot be written."""
        from bitskip.files import write_bytes

        write_bytes(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Program:
        """Read a `*.bitskip` file; raises FileFormatError if it cannot be read or does not hold together."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
        return cls.from_bytes(content, str(path))
