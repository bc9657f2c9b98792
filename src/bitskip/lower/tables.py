"""Int8 activations that are not piecewise linear: a table of 256 codes after an integer epilogue.

The value before the activation gets an int8 form of its own, which calibration gives a range.
"""

from __future__ import annotations

import dataclasses

from bitskip.lower.forms import I8, I32, Precisions, arithmetic, wanted_forms
from bitskip.lower.graph import AffineNode, ConvNode, Graph, Node
from bitskip.program import Activation

_CURVED = ("sigmoid", "hard_sigmoid", "hard_swish", "silu")


def with_tables(graph: Graph, precisions: Precisions) -> Graph:
    """Return `graph` with the curved activations of int8 convolutions in nodes of their own.

    Those of a convolution of a global average pool's sums stay: one pixel takes no time in float.
    """
    wanted = wanted_forms(graph, precisions)
    nodes: list[Node] = []
    shapes = list(graph.shapes)
    for node in graph.nodes:
        convolution = isinstance(node, ConvNode) and arithmetic(node, precisions) == "i8"
        if not isinstance(node, ConvNode) or not convolution or wanted[node.input] == [I32]:
            nodes.append(node)
            continue
        last = node.pre if node.residual is None else node.post
        if last.kind not in _CURVED or wanted[node.output] != [I8]:
            nodes.append(node)
            continue
        shapes.append(shapes[node.output])
        before = len(shapes) - 1
        if node.residual is None:
            nodes.append(dataclasses.replace(node, output=before, pre=Activation()))
        else:
            nodes.append(dataclasses.replace(node, output=before, post=Activation()))
        nodes.append(AffineNode(f"{node.name}.activation", before, node.output, None, None, last))
    return dataclasses.replace(graph, nodes=nodes, shapes=shapes)
