"""Finding shortcuts by structure: what they are called in the code does not matter.

A shortcut is an addition of two tensors of one shape, one of which (the skip) comes from a fork by no step
or by projection steps only (1x1 convolution, batch norm, average pool, activation, padding, slicing), while
the other (the main path) computes on that fork alone, with at least one layer that mixes channels or
positions. So squeeze-excite gates (products) and concatenations are none, and neither are lateral additions
of feature pyramids, whose main path upsamples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from bitskip.errors import PruningError, in_one_line
from bitskip.graph.foreign_forms import foreign_form
from bitskip.graph.trace import (
    TensorInfo,
    additions_by_owner,
    measure,
    module_stack,
    operands_of,
    owner_of,
    record_graph,
    trace_deep,
)
from bitskip.graph.working import undisturbed, unwrap, working_copy
from bitskip.nn import BinaryConv2d, BinaryLayer
from bitskip.pruning.memory import ActivationGraph
from bitskip.pruning.node_kinds import (
    ACTIVATIONS,
    is_elementwise,
    is_mixing,
    is_norm,
    is_projection_step,
    is_upsampling,
    skip_kind,
)
from bitskip.pruning.shortcut import Analysis, Shortcut, Site, Unit


def find_shortcuts(model: nn.Module, example_input: Any) -> tuple[Shortcut, ...]:
    """Return the shortcuts of `model` in the order they run.

    Args:
        model: any module; left as it is.
        example_input: a tensor whose first dimension is the batch, or a tuple of the forward's arguments.

    Raises:
        PruningError: if torch.fx can trace neither the model nor any module in it, or the model is
            TorchScript or a program of torch.export, whose layers cannot be rewired.
    """
    return analyse(model, example_input).shortcuts


def analyse(model: nn.Module, example_input: Any) -> Analysis:
    """Return the shortcuts of `model` with its activation memory; arguments and errors as `find_shortcuts`.

    A model that torch.fx cannot trace as a whole is analysed module by module; peak memory and traffic of
    the whole are then unknown.
    """
    form = foreign_form(unwrap(model))
    if form is not None:
        raise PruningError(
            f"the model is {form}, in which shortcuts cannot be read; give the module that it was made of"
        )
    closed = _closed_modules(model)
    with undisturbed(), working_copy(model) as twin:
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
        inputs = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, inputs)
        try:
            found, graph = _analyse_module(twin, inputs, "")
        except Exception as error:
            analysis = _module_by_module(twin, inputs, error)
            return replace(analysis, notes=(*analysis.notes, *closed))
        try:
            recording = record_graph(graph, *inputs)
        except Exception as error:  # whatever a stranger's operator raises when torch shows it
            reason = in_one_line(error)
            unknown = f"peak memory and traffic are unknown ({reason})"
            return Analysis(_describe(found), None, (unknown, *closed))
        joins = dict(zip(_ids(found), found, strict=True))
        activations = ActivationGraph(
            recording,
            {name: item.join for name, item in joins.items()},
            {name: item.skip_operand for name, item in joins.items()},
            {name: [(u.conv, u.add_after) for u in item.shortcut.units] for name, item in joins.items()},
        )
        return Analysis(_describe(found, activations), activations, closed)


def _closed_modules(model: nn.Module) -> tuple[str, ...]:
    """Say which modules no shortcut is seen in: what the user made them of is gone."""
    notes = []
    closed: list[str] = []
    for path, module in model.named_modules():
        form = foreign_form(module)
        if form is not None and not any(path.startswith(above + ".") for above in closed):
            closed.append(path)
            notes.append(f"'{path}' is {form}: shortcuts in it are not seen")
    return tuple(notes)


# -- one graph ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """An addition that is a shortcut's; id, stage and what it costs the whole are not known yet."""

    join: fx.Node
    skip_operand: int  # which operand of the addition is the skip
    shortcut: Shortcut


def _analyse_module(
    module: nn.Module, inputs: tuple[Any, ...], prefix: str
) -> tuple[list[_Found], fx.GraphModule]:
    graph_module = trace_deep(module, len(inputs))
    infos = measure(graph_module, *inputs)
    return _Finder(graph_module, infos, prefix).find(), graph_module


class _Finder:
    """Searches one deep graph."""

    def __init__(self, graph_module: fx.GraphModule, infos: dict[fx.Node, TensorInfo], prefix: str) -> None:
        self.infos, self.prefix = infos, prefix
        self.nodes = list(graph_module.graph.nodes)
        self.at = {node: at for at, node in enumerate(self.nodes)}
        self.modules = dict(graph_module.named_modules())
        self.graph = graph_module.graph
        self.given: dict[str, tuple[str, ...]] = graph_module.meta["given"]
        self.before: list[int] = []  # bit sets of each node's ancestors
        self.constant: list[bool] = []  # whether a node depends on no input of the network
        for node in self.nodes:
            bits, constant = 0, node.op != "placeholder"
            for source in node.all_input_nodes:
                bits |= self.before[self.at[source]] | (1 << self.at[source])
                constant = constant and self.constant[self.at[source]]
            self.before.append(bits)
            self.constant.append(constant)

    def find(self) -> list[_Found]:
        ordinals = {
            node: (owner, ordinal)
            for owner, additions in additions_by_owner(self.graph).items()
            for ordinal, node in enumerate(additions)
        }
        found = []
        for node in self.nodes:
            if node in ordinals and (item := self._shortcut(node, *ordinals[node])) is not None:
                found.append(item)
        return found

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _is_before(self, earlier: fx.Node, later: fx.Node) -> bool:
        return bool(self.before[self.at[later]] >> self.at[earlier] & 1)

    def _shortcut(self, join: fx.Node, owner: str, ordinal: int) -> _Found | None:
        if "@" in "".join(module_stack(join)):
            return None  # a module called again: its first call stands for all
        operands = operands_of(join)
        if operands is None or join not in self.infos:
            return None
        shape = self.infos[join].shape
        if len(shape) < 3 or not self.infos[join].is_float:
            return None
        if any(node not in self.infos or self.infos[node].shape != shape for node in operands):
            return None
        candidates = []
        for position in (1, 0):
            skip, main = operands[position], operands[1 - position]
            chain = self._chain(skip, main)
            if chain is None:
                continue
            fork, steps = chain
            region = self._region(fork, main)
            if region is not None:
                weight = sum(is_mixing(node, self.module(node)) for node in steps)
                candidates.append((weight, position, fork, steps, region))
        candidates.sort(key=lambda item: item[0])
        if not candidates or (len(candidates) == 2 and candidates[0][0] == candidates[1][0]):
            return None
        _, position, fork, steps, region = candidates[0]
        block = _common(
            [module_stack(join), *(module_stack(node) for node in (*region, *steps))], self.prefix
        )
        main = operands[1 - position]
        layers = [module for node in region if (module := self.module(node)) is not None]
        info, site_owner = self.infos[join], _join_paths(self.prefix, owner)
        last_conv, last_norm = self._last_conv(main)
        shortcut = Shortcut(
            id="",
            kind=skip_kind([(node, self.module(node)) for node in steps]),
            stage=0,
            shape=info.shape[1:],
            bytes=info.bytes_per_example,
            parameters=sum(
                parameter.numel()
                for node in steps
                if (module := self.module(node)) is not None and len(node.args) == 1
                for parameter in module.parameters()
            ),
            peak_bytes=None,
            traffic_bytes=None,
            site=Site(
                block, site_owner, ordinal, position, self.given.get(_relative(block, self.prefix), ())
            ),
            last_conv=last_conv,
            last_norm=last_norm,
            binary_input=any(
                isinstance(layer, BinaryLayer) and layer.precision == "w1a1" for layer in layers
            ),
            units=self._units(join, main, fork, shape, block),
            projection=tuple(self.prefix + str(node.target) for node in steps if node.op == "call_module"),
        )
        return _Found(join, position, shortcut)

    def _chain(self, skip: fx.Node, main: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
        """Walk back from the skip to the fork; None if a step is no projection step."""
        steps: list[fx.Node] = []
        node = skip
        while not self._is_before(node, main):
            source = self._projection_source(node)
            if source is None:
                return None
            steps.append(node)
            node = source
        if self.constant[self.at[node]] or node not in self.infos:
            return None
        return node, steps[::-1]

    def _projection_source(self, node: fx.Node) -> fx.Node | None:
        sources = [source for source in node.all_input_nodes if not self.constant[self.at[source]]]
        if len(sources) != 1 or node not in self.infos or not is_projection_step(node, self.module(node)):
            return None
        return sources[0]

    def _region(self, fork: fx.Node, main: fx.Node) -> list[fx.Node] | None:
        """Return the steps between fork and join; None unless they compute on the fork alone."""
        if main is fork:
            return None
        inside = self.before[self.at[main]] | (1 << self.at[main])
        region = [
            node
            for node in self.nodes[self.at[fork] + 1 : self.at[main] + 1]
            if inside >> self.at[node] & 1 and self._is_before(fork, node)
        ]
        members = set(region)
        for node in region:
            for source in node.all_input_nodes:
                if source is not fork and source not in members and not self.constant[self.at[source]]:
                    return None
        layers = [(node, self.module(node)) for node in region]
        if not any(is_mixing(*step) for step in layers) or any(is_upsampling(*step) for step in layers):
            return None
        return region

    def _last_conv(self, main: fx.Node) -> tuple[str | None, str | None]:
        node, norm = main, None
        while True:
            module = self.module(node)
            if isinstance(module, nn.Conv2d | BinaryConv2d):
                return self.prefix + str(node.target), norm
            if module is None or len(node.all_input_nodes) != 1 or len(node.users) != 1:
                return None, None
            is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if (is_batch_norm or type(module).__name__ == "FrozenBatchNorm2d") and norm is None:
                norm = self.prefix + str(node.target)
            elif not (isinstance(module, nn.ReLU) and norm is None) and not (
                is_elementwise(module) and not isinstance(module, ACTIVATIONS)
            ):
                return None, None
            node = node.all_input_nodes[0]

    def _units(
        self, join: fx.Node, main: fx.Node, fork: fx.Node, shape: tuple[int, ...], block: str
    ) -> tuple[Unit, ...]:
        """Split a plain chain of layers into convolutions; empty unless each can carry a skip of its own."""
        chain: list[fx.Node] = []
        node = main
        while node is not fork:
            if self.module(node) is None or len(node.all_input_nodes) != 1 or len(node.users) != 1:
                return ()
            chain.append(node)
            node = node.all_input_nodes[0]
        chain.reverse()
        convs = [
            at for at, node in enumerate(chain) if isinstance(self.module(node), nn.Conv2d | BinaryConv2d)
        ]
        if len(convs) < 2 or any(owner_of(node) != _relative(block, self.prefix) for node in (*chain, join)):
            return ()
        after_activation = isinstance(self.module(chain[-1]), ACTIVATIONS)
        units, previous = [], fork
        for number, start in enumerate(convs):
            end = convs[number + 1] if number + 1 < len(convs) else len(chain)
            point = start
            for at in range(start + 1, end):
                module = self.module(chain[at])
                if module is not None and (
                    is_norm(module) or (after_activation and isinstance(module, ACTIVATIONS))
                ):
                    point = at
            source = shape if number == 0 else self.infos[previous].shape
            once = sum(node.target == chain[point].target for node in self.nodes) == 1
            if self.infos[chain[point]].shape != source or not once:
                return ()
            if self.infos[chain[end - 1]].shape != self.infos[chain[point]].shape:
                return ()
            units.append(Unit(*(self.prefix + str(chain[at].target) for at in (start, point))))
            previous = chain[end - 1]
        return tuple(units)


def _join_paths(prefix: str, path: str) -> str:
    return prefix + path if path else prefix.removesuffix(".")


def _relative(path: str, prefix: str) -> str:
    return path[len(prefix) :] if path and path + "." != prefix else ""


def _common(stacks: list[tuple[str, ...]], prefix: str) -> str:
    shared = ""
    for level in zip(*stacks, strict=False):
        if len(set(level)) > 1:
            break
        shared = level[0]
    return _join_paths(prefix, shared)


# -- results ------------------------------------------------------------------------------------------


def _ids(found: list[_Found]) -> list[str]:
    """Return each shortcut's block, with its number where the block holds several."""
    blocks = [item.shortcut.site.block for item in found]
    numbers: dict[str, int] = {}
    ids = []
    for block in blocks:
        numbers[block] = numbers.get(block, 0) + 1
        name = block or "model"
        ids.append(name if blocks.count(block) == 1 else f"{name}:{numbers[block]}")
    return ids


def _describe(found: list[_Found], activations: ActivationGraph | None = None) -> tuple[Shortcut, ...]:
    stage, size = 0, None
    whole = 0 if activations is None else activations.traffic()
    shortcuts = []
    for name, item in zip(_ids(found), found, strict=True):
        spatial = _spatial(item.shortcut.shape)
        if spatial != size:
            stage, size = stage + 1, spatial
        shortcut = replace(item.shortcut, id=name, stage=stage)
        if activations is not None:
            shortcut = replace(
                shortcut,
                peak_bytes=activations.block_peak_bytes(name),
                traffic_bytes=whole - activations.traffic([name]),
            )
        shortcuts.append(shortcut)
    return tuple(shortcuts)


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return height and width of (C, H, W) or (H, W, C), or the length of a sequence (L, C)."""
    if len(shape) != 3:
        return shape[:-1]
    return shape[1:] if shape[1] == shape[2] else shape[:2]


# -- module by module -----------------------------------------------------------------------------------


def _module_by_module(model: nn.Module, inputs: tuple[Any, ...], whole: Exception) -> Analysis:
    """Analyse the largest traceable modules, with the inputs that they get in a run of the whole model."""
    calls: dict[str, tuple[Any, ...]] = {}
    hooks = []
    for name, module in model.named_modules():
        closed = foreign_form(module) is not None
        if name and not closed and next(module.children(), None) is not None:

            def note(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                calls.setdefault(name, args)

            hooks.append(module.register_forward_pre_hook(note))
    stopped = ""
    try:
        model(*inputs)
    except Exception as error:
        stopped = in_one_line(error)
    finally:
        for hook in hooks:
            hook.remove()
    reason = in_one_line(whole)
    found: list[_Found] = []
    done: list[str] = []
    for name, args in calls.items():
        if any(name.startswith(parent + ".") for parent in done):
            continue
        if not args or not all(isinstance(value, Tensor) for value in args):
            continue
        try:
            items, _ = _analyse_module(model.get_submodule(name), args, name + ".")
        except Exception:
            continue
        done.append(name)
        found.extend(items)
    if not done and stopped:
        raise PruningError(
            f"{type(model).__name__} does not run on the example input ({stopped}); give one that its "
            "forward takes"
        )
    if not done:
        raise PruningError(
            f"torch.fx can trace neither {type(model).__name__} nor a module in it ({reason}); "
            "shortcuts are found in code without branches on tensor values"
        )
    note_text = (
        f"torch.fx cannot trace {type(model).__name__} as a whole ({reason}), so {len(done)} of its modules "
        "were analysed one by one; peak memory and traffic are unknown, and shortcuts between those modules "
        "are not seen"
    )
    notes = [note_text]
    if stopped:
        notes.append(f"the run stopped early ({stopped}); modules after that point were not seen")
    return Analysis(_describe(found), None, tuple(notes))
