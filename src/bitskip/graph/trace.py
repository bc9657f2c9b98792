"""torch.fx graphs of models: deep ones to analyse, shallow ones of single blocks to rewire.

A deep graph opens every module down to layers, so that structure can be read. A shallow graph keeps a
block's own children closed: rewiring a block then bakes in nothing of what its children do (training mode,
autocast, control flow).
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitskip.errors import PruningError, in_one_line
from bitskip.graph.foreign_forms import foreign_form
from bitskip.graph.inplace import AUGMENTED, follow_inplace
from bitskip.graph.record import Recorder, Trace, record
from bitskip.graph.working import as_it_was

ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADD_METHODS = ("add", "add_", "__add__", "__iadd__")


class TrainingFlag(nn.Module):
    """Returns whether it is in training mode, as a step of a graph."""

    def forward(self) -> bool:
        """Return `self.training`."""
        return self.training


class TensorInfo:
    """Shape, bytes of one element, and whether the values are real numbers."""

    def __init__(self, value: Tensor) -> None:
        self.shape = tuple(value.shape)
        self.element_size = value.element_size()
        self.is_float = value.is_floating_point()

    @property
    def bytes_per_example(self) -> int:
        """Bytes of one example: the first dimension is the batch."""
        count = self.element_size
        for size in self.shape[1:]:
            count *= size
        return count


class _Proxy(fx.Proxy):
    """Records `y += x` as what it is."""


def _augmented(name: str) -> Any:
    target = getattr(operator, name)

    def method(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return method


for _name in AUGMENTED:
    setattr(_Proxy, f"__{_name}__", _augmented(_name))


class Tracer(fx.Tracer):
    """torch.fx's tracer, which knows what changes a tensor in place."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the proxy that stands for a step's result."""
        return _Proxy(node, self)


class _Tracer(Tracer):
    """Closes layers; with `opened` given, closes everything but the modules of these paths."""

    def __init__(self, opened: Collection[str] | None = None) -> None:
        super().__init__()
        self._opened = opened
        self._several = False
        self.given: dict[str, tuple[str, ...]] = {}  # optional arguments that a module's first call gives

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = (*args, *kwargs.values())
        nested = any(isinstance(value, list | tuple | dict) for value in values)
        self._several = nested or sum(isinstance(value, fx.Proxy) for value in values) > 1
        self.given.setdefault(self.path_of_module(m), optional_arguments(m, len(args), kwargs))
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._opened is not None:
            return module_qualified_name not in self._opened
        if foreign_form(m) is not None:
            return True
        if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.modules.conv._ConvNd | nn.Linear):
            return True
        if hasattr(type(m), "input_form"):  # a 1-bit layer
            return True
        if super().is_leaf_module(m, module_qualified_name):
            return True
        # A module without children that maps one tensor to one is a layer of the user's own.
        return not self._several and next(m.children(), None) is None


def optional_arguments(module: nn.Module, positional: int, keywords: Collection[str]) -> tuple[str, ...]:
    """Return which arguments with a default a call with so many positional ones and these keywords gives."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except ValueError:  # TorchScript
        return ()
    return tuple(
        name
        for at, (name, parameter) in enumerate(parameters.items())
        if parameter.default is not inspect.Parameter.empty and (at < positional or name in keywords)
    )


def trace_deep(model: nn.Module, inputs: int = 1) -> fx.GraphModule:
    """Return the graph of `model` down to its layers; raises what torch.fx raises if it cannot be traced.

    Its `meta["given"]` says, by module path, which optional arguments a module's first call gives.

    Args:
        model: left as it is.
        inputs: how many arguments its forward is given; the others keep their defaults.
    """
    tracer = _Tracer()
    tracer.given[""] = optional_arguments(model, inputs, ())
    graph_module = trace_with(model, tracer, tracer.given[""])
    graph_module.meta["given"] = tracer.given
    return graph_module


def trace_block(
    block: nn.Module, opened: Collection[str], name: str, given: Collection[str] = ()
) -> fx.GraphModule:
    """Return a graph module that does what `block` does, sharing its children, parameters and buffers.

    Where the block's own code asks whether it trains, the graph asks too.

    Args:
        block: the module whose forward is traced.
        opened: paths of descendants (relative) that are traced through; all others stay closed.
        name: of the block, for messages.
        given: its optional arguments that calls give; the others keep their defaults.

    Raises:
        PruningError: if the block cannot be traced, or does other steps while training.
    """
    modes = {}
    was_training = block.training
    for training in (False, True):
        block.training = training
        try:
            modes[training] = trace_with(block, _Tracer(opened), given)
        except Exception as error:
            raise PruningError(
                f"block '{name}' ({type(block).__name__}) cannot be rewired: torch.fx cannot trace its "
                f"forward ({in_one_line(error)})"
            ) from None
        finally:
            block.training = was_training
    graph_module = modes[False]
    _ask_for_training(graph_module, modes[True], name)
    graph_module.train(was_training)
    _restore_modes(graph_module, block)
    return graph_module


def _restore_modes(graph_module: fx.GraphModule, block: nn.Module) -> None:
    """GraphModule.train() reached the shared children; give each its own mode back."""
    modes = {name: module.training for name, module in block.named_modules()}
    for name, module in graph_module.named_modules():
        if name in modes and name:
            module.training = modes[name]


def trace_with(model: nn.Module, tracer: fx.Tracer, given: Collection[str]) -> fx.GraphModule:
    """Return the graph that `tracer` sees, in which what reads a tensor changed in place reads the change.

    Args:
        model: left as it is.
        tracer: says which modules stay closed.
        given: optional arguments of its forward that calls give; the others keep their defaults.
    """
    concrete = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if name not in given
        and parameter.default is not inspect.Parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    with warnings.catch_warnings(), as_it_was(model):
        warnings.simplefilter("ignore")
        graph = tracer.trace(model, concrete_args=concrete or None)
        graph_module = fx.GraphModule(tracer.root, graph)
    follow_inplace(graph_module)
    return graph_module


def _ask_for_training(evaluating: fx.GraphModule, training: fx.GraphModule, name: str) -> None:
    """Replace each constant that is False in one graph and True in the other by a question at run time."""
    first, second = list(evaluating.graph.nodes), list(training.graph.nodes)
    same = len(first) == len(second) and all(
        (a.op, a.target) == (b.op, b.target) for a, b in zip(first, second, strict=True)
    )
    if not same:
        raise PruningError(
            f"block '{name}' does other steps in training than in evaluation inside its own forward; "
            "move what differs into a module of its own, such as nn.Dropout"
        )
    flag: fx.Node | None = None

    def settle(a: Any, b: Any) -> Any:
        nonlocal flag
        if isinstance(a, tuple | list) and len(a) == len(b):
            return type(a)(settle(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, bool) and isinstance(b, bool) and a != b:
            if flag is None:
                evaluating.add_submodule("training_flag", TrainingFlag())
                with evaluating.graph.inserting_before(first[0]):
                    flag = evaluating.graph.call_module("training_flag")
            return flag
        return a

    for a, b in zip(first, second, strict=True):
        a.args = settle(a.args, b.args)
        a.kwargs = {key: settle(value, b.kwargs.get(key)) for key, value in a.kwargs.items()}
    if flag is not None:
        # Placeholders come first in a graph's code.
        last = [node for node in evaluating.graph.nodes if node.op == "placeholder"][-1:]
        if last:
            last[0].append(flag)
        evaluating.recompile()


# -- reading graphs -----------------------------------------------------------------------------------


def module_stack(node: fx.Node) -> tuple[str, ...]:
    """Return the paths of the modules inside which `node` stands, outermost first, the root left out.

    A module that is called again bears `@n` at its path's end.
    """
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(key) for key in stack if key]
    if node.op == "call_module" and paths and paths[-1].partition("@")[0] == node.target:
        paths.pop()
    return tuple(paths)


def owner_of(node: fx.Node) -> str:
    """Return the path of the innermost module whose forward does `node`; empty for the root."""
    stack = module_stack(node)
    return stack[-1] if stack else ""


def operands_of(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two tensors that `node` adds with factor one, or None if it is no such addition."""
    is_add = (node.op == "call_function" and node.target in ADDITIONS) or (
        node.op == "call_method" and node.target in _ADD_METHODS
    )
    if not is_add or node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("out") is not None:
        return None
    values = [*node.args, *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs)]
    if len(values) != 2 or not all(isinstance(value, fx.Node) for value in values):
        return None
    first, second = values
    return None if first is second else (first, second)  # type: ignore[return-value]


def additions_by_owner(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """Return the additions of two graph values, in order, by the module whose forward does them."""
    found: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if operands_of(node) is not None:
            found.setdefault(owner_of(node), []).append(node)
    return found


class _Measuring(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.infos: dict[fx.Node, TensorInfo] = {}
        self.values: dict[fx.Node, int] = {}
        self.recorder: Recorder | None = None

    def recorded(self, recorder: Recorder, inputs: tuple[Any, ...]) -> Any:
        self.recorder = recorder
        return self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        if self.recorder is not None:
            self.recorder.origin = n
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.infos[n] = TensorInfo(result)
            value = None if self.recorder is None else self.recorder.value_of(result)
            if value is not None:
                self.values[n] = value
        return result


@torch.no_grad()
def measure(graph_module: fx.GraphModule, *inputs: Any) -> dict[fx.Node, TensorInfo]:
    """Run the graph once on `inputs` and return what each tensor of it is like."""
    interpreter = _Measuring(graph_module)
    interpreter.run(*inputs)
    return interpreter.infos


@dataclass(frozen=True)
class Recording:
    """A run of a deep graph: its steps, whose `origin` is the node, and the value of each node's tensor."""

    trace: Trace
    values: dict[fx.Node, int]


@torch.no_grad()
def record_graph(graph_module: fx.GraphModule, *inputs: Any) -> Recording:
    """Run the graph once and record it as any module is recorded; sizes are of one example.

    Args:
        graph_module: from `trace_deep`.
        inputs: the first dimension of each tensor is the batch.
    """
    batch = next((value.shape[0] for value in inputs if isinstance(value, Tensor) and value.dim()), 1)
    interpreter = _Measuring(graph_module)
    trace = record(graph_module, *inputs, run=lambda r: interpreter.recorded(r, inputs), batch=batch)
    return Recording(trace, interpreter.values)
