"""The graph of any module that torch.fx can trace: traced, read op by op, then folded.

Reading goes along torch.fx's graph with real values for everything that does not depend on the picture (so
shapes, parameters and what is computed from them are known) and `Traced` values for the rest.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.ao.nn.quantized import FloatFunctional

from bitskip.errors import LoweringError, in_one_line, nearest
from bitskip.graph.foreign_forms import foreign_form
from bitskip.graph.trace import Tracer, owner_of, trace_with
from bitskip.graph.working import unwrap
from bitskip.lower.fuse import fuse
from bitskip.lower.graph import Graph
from bitskip.lower.recorded import Recorder, Traced
from bitskip.lower.torch_layers import layer_handler
from bitskip.lower.torch_ops import FUNCTIONS, METHODS


def fx_graph(
    model: nn.Module,
    input_shape: tuple[int, int, int] | Mapping[str, tuple[int, int, int]],
    name: str,
    precisions: Mapping[str, str],
) -> Graph:
    """Return the graph of a module; call it in evaluation mode, without gradients.

    Args:
        model: maps (N, C, H, W) to logits (N, classes), to maps (N, C', H', W'), or to several of these, as a
            dict by name or a tuple.
        input_shape: (C, H, W) of a picture; of several inputs each one's, by the names that `forward` gives
            them.
        name: of the graph.
        precisions: `int8` for the real layers, by path, that are declared so.

    Raises:
        LoweringError: if torch.fx cannot trace it, or it does what a Program has no op for.
    """
    graph_module = _trace(model)
    inputs = _inputs(graph_module, input_shape)
    record = Recorder(*inputs.values())
    outputs = _Reader(graph_module, record, precisions, tuple(inputs)).read()
    values = {key: output.value for key, output in outputs.items()}
    if not record.ops or min(values.values()) < len(inputs):
        raise LoweringError("the network gives its picture as it is; expected one that computes something")
    for key, output in outputs.items():
        if not output.has_channels:
            raise LoweringError(
                f"the network's output {key} has the shape (N, {', '.join(map(str, output.shape[1:]))}), "
                "expected logits (N, classes) or maps (N, C, H, W)"
            )
    if len(set(values.values())) < len(values):
        raise LoweringError(f"two of the network's outputs {', '.join(values)} are the same")
    names = tuple(inputs) if isinstance(input_shape, Mapping) else ("picture",)
    return Graph(name, None, fuse(record, list(values.values())), record.shapes, values, names)


def _inputs(
    graph_module: fx.GraphModule, input_shape: tuple[int, int, int] | Mapping[str, tuple[int, int, int]]
) -> dict[str, tuple[int, int, int]]:
    """Return the shapes of the network's inputs by the names that its forward gives them, in its order."""
    taken = [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
    if not isinstance(input_shape, Mapping):
        return dict.fromkeys(taken[:1], input_shape)
    unknown = [name for name in input_shape if name not in taken]
    if unknown:
        raise LoweringError(
            f"input_shape names '{unknown[0]}', and the network's forward takes {', '.join(taken)}"
            f"{nearest(unknown[0], taken)}"
        )
    return {name: input_shape[name] for name in taken if name in input_shape}


# What torch.ao puts in the place of float layers, and what it observes them with.
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.qat",
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
)


class _Layers(Tracer):
    """Opens every module but the layers that are read as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return layer_handler(m) is not None or super().is_leaf_module(m, module_qualified_name)


def refuse_unreadable(model: nn.Module) -> None:
    """Raise LoweringError if a module of `model` has a form that is not read, or does more than its code."""
    for path, module in model.named_modules():
        if unwrap(module) is not module:
            continue  # a wrapper, which is opened; what it holds comes by itself
        form = foreign_form(module)
        if form is not None:
            raise LoweringError(
                f"{repr(path) if path else 'the network'} is {form}, in which layers cannot be read; "
                "give the module that it was made of, or export that to ONNX and use bitskip import"
            )
        if type(module).__module__.startswith(_QUANTIZED) and not isinstance(module, FloatFunctional):
            raise LoweringError(
                f"'{path}' ({type(module).__name__}) is of torch.ao's quantization, which cannot be packed; "
                "pack the network as it was before, with --activations int8 --dense int8, or export it to "
                "ONNX as QDQ and use bitskip import"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise LoweringError(
                f"'{path}' ({type(module).__name__}) has forward hooks, which a packed model cannot run; "
                "remove them (those of torch.nn.utils.prune with its `remove`) and pack again"
            )
        if "forward" in vars(module):
            raise LoweringError(
                f"'{path}' ({type(module).__name__}) has had its forward replaced, which cannot be "
                "packed; put the operation into a class of its own"
            )


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        return trace_with(model, _Layers(), ())
    except Exception as error:  # whatever the module's own code raises when it meets torch.fx's proxies
        reason = in_one_line(error)
        raise LoweringError(
            f"{type(model).__name__} cannot be packed: torch.fx cannot trace its forward ({reason}); make it "
            "free of operations that depend on the values of tensors"
        ) from None


class _Reader:
    def __init__(
        self,
        graph_module: fx.GraphModule,
        record: Recorder,
        precisions: Mapping[str, str],
        inputs: tuple[str, ...],
    ) -> None:
        self.graph_module, self.record, self.precisions = graph_module, record, precisions
        self.inputs = inputs
        self.values: dict[fx.Node, Any] = {}

    def read(self) -> dict[str, Traced]:
        """Record every operation and return the network's outputs by name."""
        for node in self.graph_module.graph.nodes:
            if node.op == "output":
                return self.output(node)
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = self.attribute(str(node.target))
            elif not _asserts(node):
                self.values[node] = self.call(node)
        raise AssertionError("a graph without an output")

    def placeholder(self, node: fx.Node) -> Any:
        if node.target in self.inputs:
            return self.record.input(self.inputs.index(str(node.target)))
        if node.args:
            return node.args[0]
        if all(user.target is operator.eq or _asserts(user) for user in node.users):
            return None  # torch.fx checks in the graph that a defaulted argument has its default
        raise LoweringError(
            f"the network's forward takes an input '{node.target}' that input_shape does not name; give each "
            f"input's (channels, height, width) by name, input_shape={{'{self.inputs[0]}': ..., "
            f"'{node.target}': ...}} (`bitskip pack --input {node.target}=C,H,W`), "
            "or give it a default"
        )

    def attribute(self, path: str) -> Any:
        owner, _, name = path.rpartition(".")
        value = getattr(self.graph_module.get_submodule(owner), name)
        real = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().float().cpu() if real else value

    def output(self, node: fx.Node) -> dict[str, Traced]:
        value = self.resolve(node.args[0])
        if isinstance(value, Traced):
            return {"logits" if value.picture[:2] == (1, 1) else "out": value}
        named = dict(enumerate(value)) if isinstance(value, tuple | list) else value
        if isinstance(named, Mapping) and named and all(isinstance(part, Traced) for part in named.values()):
            return {str(name): part for name, part in named.items()}
        raise LoweringError(
            f"the network returns a {type(value).__name__}, expected a tensor, or a dict or tuple of them; "
            "wrap the network so that it returns these"
        )

    def resolve(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, self.values.__getitem__)

    def call(self, node: fx.Node) -> Any:
        arguments, named = self.resolve(node.args), self.resolve(node.kwargs)
        module = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        self.describe(node, module)
        handler: Any
        if module is not None:
            handler = layer_handler(module)
        elif node.op == "call_method":
            handler = METHODS.get(str(node.target))
        else:
            target: Any = node.target
            path = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"
            handler = FUNCTIONS.get(target) or FUNCTIONS.get(path)
        if not _depends(arguments) and not _depends(named):
            return self.compute(node, module, arguments, named)
        if handler is None:
            self.record.refuse_kind()
        try:
            return handler(self.record, *(() if module is None else (module,)), *arguments, **named)
        except LoweringError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            self.record.refuse(f"cannot be packed as it is called ({in_one_line(error)})")

    def compute(self, node: fx.Node, module: nn.Module | None, arguments: Any, named: Any) -> Any:
        """Return what an operation that does not depend on the picture gives."""
        if module is not None:
            return module(*arguments, **named)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
        assert callable(node.target)
        return node.target(*arguments, **named)

    def describe(self, node: fx.Node, module: nn.Module | None) -> None:
        record = self.record
        if module is not None:
            record.name = str(node.target)
            record.where = f"'{record.name}' ({type(module).__name__})"
        else:
            target = str(getattr(node.target, "__name__", node.target)).strip("_")
            owner = owner_of(node).partition("@")[0]
            record.name = f"{owner}.{target}" if owner else target
            record.where = f"{target}() in '{owner}'" if owner else f"{target}() in the network's forward"
        record.precision = self.precisions.get(record.name, "fp32")


def _asserts(node: fx.Node) -> bool:
    return "assert" in str(getattr(node.target, "__name__", ""))


def _depends(values: Any) -> bool:
    """Whether a Traced value is anywhere in a call's arguments."""
    if isinstance(values, Traced):
        return True
    if isinstance(values, Mapping):
        return any(map(_depends, values.values()))
    if isinstance(values, slice):
        return _depends((values.start, values.stop, values.step))
    return isinstance(values, list | tuple) and any(map(_depends, values))
