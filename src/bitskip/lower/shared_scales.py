"""One int8 scale for a sum and what it adds, so that engines which round before an addition add exactly.

    y = round(conv + r * ratio),  ratio = scale of r / scale of y

Where ratio is 1, r * ratio is whole and round(conv + r) = round(conv) + r: an int8 convolution that writes 8
bits and an addition of codes give what one rounding of the sum gives. The finer of the two scales is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitskip.lower.forms import KEEPS_SCALE, Precisions, Quantization, integer_epilogue_fits, wanted_forms
from bitskip.lower.graph import ConvNode, Graph, PoolNode


def share_residual_scales(
    graph: Graph, precisions: Precisions, quantizations: Mapping[int, Quantization]
) -> dict[int, Quantization]:
    """Return `quantizations` with one scale and zero point for all sums and residuals that reach each other.

    Args:
        graph: what is lowered.
        precisions: what its layers compute in.
        quantizations: of its values; a group's covers the ranges of all of its members.
    """
    wanted = wanted_forms(graph, precisions)
    same: dict[int, int] = {}  # a value to another one of its group, up to the group's first

    def first(value: int) -> int:
        while value in same:
            value = same[value]
        return value

    def join(one: int, other: int) -> None:
        if first(one) != first(other):
            same[first(one)] = first(other)

    for node in graph.nodes:
        if isinstance(node, PoolNode) and node.kind in KEEPS_SCALE and node.output not in quantizations:
            join(node.output, node.input)
        elif (
            isinstance(node, ConvNode)
            and node.residual is not None
            and integer_epilogue_fits(node, wanted[node.output], precisions)
        ):
            join(node.output, node.residual)
    groups: dict[int, list[Quantization]] = {}
    for value, held in quantizations.items():
        groups.setdefault(first(value), []).append(held)
    shared = {group: _covering(members) for group, members in groups.items()}
    return {value: shared[first(value)] for value in quantizations}


def _covering(members: list[Quantization]) -> Quantization:
    """Return the finest quantization whose range holds those of all `members`; the only one as it is."""
    if len(set(members)) == 1:
        return members[0]
    ends = [(code - held.zero_point) * held.scale for held in members for code in (-128, 127)]
    return Quantization.of_range(min(ends), max(ends))
