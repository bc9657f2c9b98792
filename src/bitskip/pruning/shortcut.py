"""A shortcut of a model: what it is, what it costs, and where in the code its addition stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitskip.pruning.memory import ActivationGraph

KINDS = ("identity", "projection", "pooled_projection")


@dataclass(frozen=True)
class Site:
    """Where in the code a shortcut's addition stands, so that it can be found again without analysis."""

    block: str  # path of the smallest module that holds the whole shortcut; empty for the model itself
    owner: str  # path of the module whose forward does the addition: the block, or inside it
    ordinal: int  # which of the owner's additions, from 0
    skip_operand: int  # 0 or 1: which operand of the addition is the skip
    given: tuple[str, ...] = ()  # optional arguments of the block's forward that calls give


@dataclass(frozen=True)
class Unit:
    """One convolution of a main path with the layer after which a shorter skip could be added."""

    conv: str  # path of the convolution
    add_after: str  # path of its norm, or of its activation where the block adds after activations


@dataclass(frozen=True)
class Shortcut:
    """One shortcut of a model. Bytes are those of one example, in the arithmetic of the example input."""

    id: str  # the block's path; `path:n` where a block holds several
    kind: str  # identity, projection (1x1 convolution, norm or padding) or pooled_projection
    stage: int  # from 1; a new stage begins where the feature map's size changes
    shape: tuple[int, ...]  # of the sum, without the batch
    bytes: int  # of the tensor that the shortcut adds
    parameters: int  # of its projection; they go with it
    peak_bytes: int | None  # by how much it raises the naive peak of its own block; None where unknown
    traffic_bytes: int | None  # read and written on its account
    site: Site
    last_conv: str | None  # path of the main path's last convolution, if only norm and activation follow
    last_norm: str | None  # path of that convolution's batch norm
    binary_input: bool  # whether the main path has layers with 1-bit activations
    units: tuple[Unit, ...]  # how it could be shortened; empty where it cannot
    projection: tuple[str, ...]  # paths of the layers on the skip

    @property
    def shortenable(self) -> bool:
        """Whether one skip over the block can become one around each convolution."""
        return bool(self.units)

    def to_dict(self) -> dict[str, Any]:
        """Return what a reader of a list wants, as JSON-serialisable values."""
        return {
            "id": self.id,
            "kind": self.kind,
            "stage": self.stage,
            "shape": list(self.shape),
            "bytes": self.bytes,
            "parameters": self.parameters,
            "peak_bytes": self.peak_bytes,
            "traffic_bytes": self.traffic_bytes,
            "shortenable": self.shortenable,
            "binary_input": self.binary_input,
        }


@dataclass(frozen=True)
class Analysis:
    """The shortcuts of a model, and its activations if the whole model could be traced."""

    shortcuts: tuple[Shortcut, ...]
    activations: ActivationGraph | None
    notes: tuple[str, ...] = ()  # what is unknown, and why

    def by_id(self) -> dict[str, Shortcut]:
        """Return the shortcuts by their ids."""
        return {shortcut.id: shortcut for shortcut in self.shortcuts}
