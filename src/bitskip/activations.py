"""The ops of a NetworkSpec and the activations between them, for the peak memory of inference.

An activation is stored in the format that its readers need: `f32` (4 bytes an element) for fp32 and w1
layers and for residual adds, `i8` (1 byte) for int8 layers, `bits` (1 bit, whole bytes a tensor) for the
inputs of w1a1 layers. Two kinds of reader make the op that writes it write both formats. The picture
counts in the format that the stem reads. The stem's pool and the last one read `i8` where that is all that is
read of what they give, as when a network is lowered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bitskip.memory import Held, Schedule, ScheduledOp, bits_to_bytes, peaks
from bitskip.spec import BlockSpec, LayerSpec, NetworkSpec

_READ_FORMAT = {"fp32": "f32", "w1": "f32", "int8": "i8", "w1a1": "bits"}
_BITS = {"f32": 32, "i8": 8, "bits": 1}


@dataclass(frozen=True)
class _SpecOp:
    """An op before formats are known: `reads` and `shortcut` are (tensor, format) pairs."""

    name: str
    reads: tuple[str, str]
    elements: int  # of the tensor it writes, which bears the op's name
    shortcut: tuple[str, str] | None = None


def spec_schedule(spec: NetworkSpec) -> Schedule[str]:
    """Return the ops of `spec` in the order they run; a tensor is called `op:format`.

    A shortcut's projection runs first, before its block's main path.
    """
    spec_ops = list(_spec_ops(spec))
    formats: dict[str, set[str]] = {spec_ops[-1].name: {"f32"}}
    for at, op in reversed(list(enumerate(spec_ops))):
        if op.name in ("stem.pool", "pool"):
            form = "i8" if formats[op.name] == {"i8"} else "f32"
            spec_ops[at] = op = replace(op, reads=(op.reads[0], form))
        for tensor, form in (op.reads, *([op.shortcut] if op.shortcut else [])):
            formats.setdefault(tensor, set()).add(form)
    elements = {"input": spec.input_channels * spec.input_size**2} | {s.name: s.elements for s in spec_ops}
    tensors = {
        f"{name}:{form}": Held(bits_to_bytes(elements[name], _BITS[form]), form)
        for name in elements
        for form in sorted(formats.get(name, ()))
    }

    def written(name: str) -> tuple[str, ...]:
        return tuple(f"{name}:{form}" for form in sorted(formats.get(name, ())))

    ops = tuple(
        ScheduledOp(
            op.name,
            (":".join(op.reads),),
            written(op.name),
            ":".join(op.shortcut) if op.shortcut else None,
        )
        for op in spec_ops
    )
    return Schedule(ops, tensors, written("input"), ops[-1].writes)


def peak_activation_bytes(spec: NetworkSpec) -> dict[str, int]:
    """Return the peak activation bytes for one picture, by executor: `naive` and `in_place`."""
    return peaks(spec_schedule(spec))


def _spec_ops(spec: NetworkSpec) -> Iterator[_SpecOp]:
    stem = spec.stem_layer
    yield _SpecOp("stem", ("input", _READ_FORMAT[stem.precision]), _elements(stem))
    previous = "stem"
    if spec.stem == "imagenet":
        yield _SpecOp("stem.pool", ("stem", "f32"), spec.stem_width * spec.stem_output_size**2)
        previous = "stem.pool"
    for block in spec.iter_blocks():
        yield from _block_ops(block, spec, previous)
        previous = block.convs[-1].name
    yield _SpecOp("pool", (previous, "f32"), spec.feature_channels)
    yield _SpecOp("head", ("pool", _READ_FORMAT[spec.head_precision]), spec.classes)


def _block_ops(block: BlockSpec, spec: NetworkSpec, previous: str) -> Iterator[_SpecOp]:
    shortcut = None if block.shortcut is None else previous
    if block.projection is not None:
        source = previous
        if spec.projection == "pool_conv" and block.stride > 1:
            source = f"{block.name}.shortcut.pool"
            yield _SpecOp(source, (previous, "f32"), block.in_channels * block.output_size**2)
        shortcut = block.projection.name
        yield _SpecOp(
            shortcut, (source, _READ_FORMAT[block.projection.precision]), _elements(block.projection)
        )
    for at, conv in enumerate(block.convs):
        added = None
        if shortcut is not None and spec.style == "per_conv":
            added = shortcut if at == 0 else previous
        elif conv is block.convs[-1]:
            added = shortcut
        residual = None if added is None else (added, "i8" if conv.precision == "int8" else "f32")
        yield _SpecOp(conv.name, (previous, _READ_FORMAT[conv.precision]), _elements(conv), residual)
        previous = conv.name


def _elements(layer: LayerSpec) -> int:
    return layer.out_channels * layer.output_size**2
