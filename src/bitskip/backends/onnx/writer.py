"""Collects the nodes and constants of an ONNX graph, with names that are short, unique and readable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip import __version__
from bitskip.errors import RunError

Array = npt.NDArray[Any]


def require_onnx() -> Any:
    """Return the package `onnx`.

    Raises:
        RunError: if it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise RunError("ONNX needs the package onnx; install it with pip install 'bitskip[onnx]'") from None
    return onnx


class Writer:
    """A graph under construction.

    Attributes:
        scope: name of the layer that is being written; its nodes and constants are named after it.
    """

    def __init__(self) -> None:
        self.onnx = require_onnx()
        self.scope = ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names: dict[str, int] = {}
        self.domains: dict[str, int] = {}

    def name(self, what: str) -> str:
        """Return a new name in the present scope."""
        name = f"{self.scope}.{what}" if self.scope else what
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}.{count}" if count else name

    def constant(self, values: Any, what: str) -> str:
        """Return the name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(values).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.name(what)
            self.initializers.append(self.onnx.numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def node(
        self, kind: str, inputs: Sequence[str], what: str = "", *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output and return the output's name."""
        output = self.name(what or kind.lower())
        made = self.onnx.helper.make_node(kind, list(inputs), [output], domain=domain, **attributes)
        self.nodes.append(made)
        return output

    def rename(self, old: str, new: str) -> None:
        """Give the value `old` another name, everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == old:
                        names[at] = new

    def finish(
        self,
        name: str,
        inputs: Iterable[tuple[str, str, tuple[Any, ...]]],
        outputs: Iterable[tuple[str, str, tuple[Any, ...]]],
        *,
        opset: int,
        ir_version: int,
        metadata: Mapping[str, Any],
    ) -> Any:
        """Return the ModelProto, checked.

        Args:
            name: of the graph.
            inputs: (name, TensorProto type, shape; a string is a free dimension).
            outputs: likewise.
            opset: of the standard operators.
            ir_version: of the file.
            metadata: JSON values, or strings, for `metadata_props`.
        """
        helper, types = self.onnx.helper, self.onnx.TensorProto

        def values(rows: Iterable[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
            return [helper.make_tensor_value_info(n, getattr(types, t), shape) for n, t, shape in rows]

        graph = helper.make_graph(self.nodes, name, values(inputs), values(outputs), self.initializers)
        opsets = [helper.make_opsetid("", opset)]
        opsets += [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=ir_version,
            producer_name="bitskip",
            producer_version=__version__,
        )
        helper.set_model_props(
            model,
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()},
        )
        self.onnx.checker.check_model(model)
        return model
