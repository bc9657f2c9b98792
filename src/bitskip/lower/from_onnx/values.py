"""What the nodes of an ONNX file read and give, beside numpy constants: values that depend on the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitskip.lower.forms import Quantization
from bitskip.lower.graph import Pair
from bitskip.lower.recorded import Recorder, Traced

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Coded:
    """What a QuantizeLinear gave: the codes of a value."""

    value: Traced
    scale: float | None = None  # None for what came out of a table: its DequantizeLinear says it
    zero: int = 0  # as int8
    unsigned: bool = False  # whether the file has it as uint8, which is 128 more


@dataclass(frozen=True)
class Signs:
    """Where a value is 0 or more: booleans, and numbers once a `Where` gave them two.

    Attributes:
        value: what is compared with 0.
        whole: whether it is a whole number, so that `not (x >= 0)` is `-x - 1 >= 0`.
        ends: the numbers that stand for false and true; None for booleans.
        padding: pixels around it, along height and width.
        outside: the number that they have.
    """

    value: Traced
    whole: bool = False
    ends: tuple[float, float] | None = None
    padding: Pair = (0, 0)
    outside: float = 0.0


@dataclass(eq=False)
class Reader:
    """What operators are read into.

    Attributes:
        record: the ops.
        quantizations: of the values that are held as codes.
    """

    record: Recorder
    quantizations: dict[int, Quantization]


def tensor(values: Any) -> Tensor:
    """Return a constant as a float32 tensor."""
    return torch.from_numpy(np.array(values, np.float32))


def pads(reader: Reader, attributes: Attributes) -> tuple[Pair, Pair]:
    """Return padding before and after, each (height, width)."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        reader.record.refuse(f"has auto_pad={attributes['auto_pad'].decode()}, expected explicit pads")
    ends = attributes.get("pads", [0, 0, 0, 0])
    if len(ends) != 4 or min(ends) < 0:
        reader.record.refuse(f"has pads={list(ends)}, expected four that are not negative")
    return (ends[0], ends[1]), (ends[2], ends[3])
