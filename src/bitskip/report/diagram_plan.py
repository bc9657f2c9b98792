"""What an architecture diagram shows, as rows of blocks of boxes with arcs: a function of the spec.

One row a stage (more for long stages); runs of equal blocks are shown once with their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from bitskip.spec import BlockSpec, LayerSpec, NetworkSpec

_BLOCKS_IN_A_ROW = 2
_LEAST_RUN = 3  # this many equal blocks in a row are drawn once


@dataclass(frozen=True)
class Box:
    """A layer, or with `precision` None something that has no weights."""

    name: str  # small, above: conv1
    title: str  # what it computes: 3×3, 64 → 128
    detail: str  # what follows it: BN · ReLU
    precision: str | None


@dataclass(frozen=True)
class Arc:
    """A shortcut around the boxes `first` to `last` of its block."""

    first: int
    last: int
    projection: Box | None  # None: identity
    after: str  # what follows the addition, e.g. ReLU


@dataclass(frozen=True)
class DiagramBlock:
    """Boxes in a line, with the arcs around them."""

    label: str
    boxes: tuple[Box, ...]
    arcs: tuple[Arc, ...] = ()


@dataclass(frozen=True)
class DiagramRow:
    """A line of the diagram; `label` and `notes` stand on its left."""

    label: str
    notes: tuple[str, ...]
    blocks: tuple[DiagramBlock, ...]


def plan_diagram(spec: NetworkSpec) -> tuple[DiagramRow, ...]:
    """Return the rows of the diagram of `spec`, from picture to classes."""
    blocks = list(spec.iter_blocks())
    rows = [_stem_row(spec, blocks[0])]
    for stage, members in groupby(blocks, key=lambda block: block.stage):
        of_stage = list(members)
        drawn = [
            _block(run, spec, blocks[blocks.index(run[-1]) + 1 :][:1]) for run in _runs(of_stage, blocks)
        ]
        for at in range(0, len(drawn), _BLOCKS_IN_A_ROW):
            size = of_stage[0].output_size
            notes = (f"{of_stage[0].out_channels} channels", f"{size} × {size}")
            rows.append(
                DiagramRow(
                    f"stage {stage + 1}" if at == 0 else "",
                    notes if at == 0 else (),
                    tuple(drawn[at : at + _BLOCKS_IN_A_ROW]),
                )
            )
    head = spec.head_layer
    boxes = (
        Box("pool", "global average", "", None),
        Box("head", f"linear, {head.in_channels} → {head.out_channels}", "bias", head.precision),
        Box("", f"{spec.classes} classes", "", None),
    )
    rows.append(DiagramRow("head", (), (DiagramBlock("", boxes),)))
    return tuple(rows)


def _stem_row(spec: NetworkSpec, first: BlockSpec) -> DiagramRow:
    stem = spec.stem_layer
    activation = _activation(spec, first.convs[0])
    boxes = [
        Box("picture", f"{spec.input_channels} × {spec.input_size} × {spec.input_size}", "", None),
        Box("conv", _title(stem), _joined("BN", activation), stem.precision),
    ]
    if spec.stem == "imagenet":
        boxes.append(Box("pool", "max 3×3 /2", "", None))
    size = spec.stem_output_size
    notes = (f"{spec.stem_width} channels", f"{size} × {size}")
    return DiagramRow("stem", notes, (DiagramBlock("", tuple(boxes)),))


def _runs(of_stage: Sequence[BlockSpec], blocks: Sequence[BlockSpec]) -> list[list[BlockSpec]]:
    """Group equal neighbours; the last block of a network stands alone only if it differs."""
    runs: list[list[BlockSpec]] = []
    for _, equal in groupby(of_stage, key=_shape):
        members = list(equal)
        runs += [members] if len(members) >= _LEAST_RUN else [[member] for member in members]
    return runs


def _shape(block: BlockSpec) -> BlockSpec:
    """Return the block without names, so that equal blocks compare equal."""

    def nameless(layer: LayerSpec | None) -> LayerSpec | None:
        return None if layer is None else dataclasses.replace(layer, name="")

    convs = tuple(dataclasses.replace(conv, name="") for conv in block.convs)
    return dataclasses.replace(block, name="", convs=convs, projection=nameless(block.projection))


def _block(run: Sequence[BlockSpec], spec: NetworkSpec, following: Sequence[BlockSpec]) -> DiagramBlock:
    block = run[0]
    next_reader = run[1] if len(run) > 1 else following[0] if following else None
    after_block = next_reader.convs[0] if next_reader else None
    last = len(block.convs) - 1
    boxes, arcs, after = [], [], ""
    for at, conv in enumerate(block.convs):
        activation = _activation(spec, block.convs[at + 1] if at < last else after_block)
        added_first = block.shortcut is not None and (
            spec.style == "per_conv" or (spec.style == "standard" and at == last)
        )
        threshold = conv.precision == "w1a1" and spec.before_binary == "threshold"
        boxes.append(
            Box(
                f"conv{at + 1}",
                _title(conv),
                _joined(
                    "threshold" if threshold else "",
                    "BN",
                    "" if added_first else activation,
                    "dropout" if spec.style == "paper" and at < last else "",
                ),
                conv.precision,
            )
        )
        after = activation if added_first else ""
        if spec.style == "per_conv" and block.shortcut is not None:
            arcs.append(Arc(at, at, _projection(block, spec) if at == 0 else None, after))
    if block.shortcut is not None and spec.style != "per_conv":
        arcs.append(Arc(0, last, _projection(block, spec), after))
    return DiagramBlock(_label(run), tuple(boxes), tuple(arcs))


def _label(run: Sequence[BlockSpec]) -> str:
    first, last = (block.name.rpartition("block")[2] for block in (run[0], run[-1]))
    return f"block {first}" if first == last else f"blocks {first} to {last}: {len(run)} × this"


def _projection(block: BlockSpec, spec: NetworkSpec) -> Box | None:
    layer = block.projection
    if layer is None:
        return None
    pooled = spec.projection == "pool_conv" and block.stride > 1
    return Box("projection", ("pool, " if pooled else "") + _kernel(layer), "", layer.precision)


def _activation(spec: NetworkSpec, reader: LayerSpec | None) -> str:
    if spec.activation == "rprelu":
        return "RPReLU"
    if reader is not None and reader.precision == "w1a1" and spec.before_binary == "no_relu":
        return ""
    return "ReLU"


def _kernel(layer: LayerSpec) -> str:
    return f"{layer.kernel}×{layer.kernel}" + (f" /{layer.stride}" if layer.stride > 1 else "")


def _title(layer: LayerSpec) -> str:
    return f"{_kernel(layer)}, {layer.in_channels} → {layer.out_channels}"


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
