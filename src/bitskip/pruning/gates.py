"""Gates: y = main(x) + g * skip(x) for each shortcut, with g between 1 (as it was) and 0 (gone).

A gated model has the parameters and buffers of the original under the same names. Blocks that hold gates
are torch.fx graph modules of their own children; all other modules stay what they were.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from torch import Tensor, fx, nn

from bitskip.errors import PruningError, nearest
from bitskip.graph.trace import additions_by_owner, operands_of, trace_block
from bitskip.graph.working import opened_copy
from bitskip.nn import LearnedThreshold
from bitskip.pruning.plan import Plan, PlannedShortcut
from bitskip.pruning.shortcut import Shortcut

_BEFORE_CONV = (nn.Dropout, nn.Dropout2d, nn.Identity, LearnedThreshold)


class Gate(nn.Module):
    """y = main + value * skip. A closed gate (0) returns `main` itself; it has no state."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, main: Tensor, skip: Tensor) -> Tensor:
        """Add the gated skip; shapes are equal."""
        if self.value == 0:
            return main
        return main + skip if self.value == 1 else main + self.value * skip

    def extra_repr(self) -> str:
        """Describe the gate in `print(model)`."""
        return f"value={self.value:g}"


class ShortcutGates:
    """A copy of a model with a gate on each of the given shortcuts, all open at first.

    A shortcut whose action is `shorten` fades over: as its gate closes, a skip around each of its
    convolutions opens.

    Args:
        model: left as it is.
        shortcuts: found shortcuts, planned ones, or a plan (checked against the model).

    Attributes:
        model: the gated copy.

    Raises:
        PruningError: if the plan is for another model, or a block cannot be rewired.
    """

    def __init__(self, model: nn.Module, shortcuts: Plan | Iterable[Shortcut | PlannedShortcut]) -> None:
        if isinstance(shortcuts, Plan):
            shortcuts.check(model)
            shortcuts = shortcuts.shortcuts
        entries = [s if isinstance(s, PlannedShortcut) else PlannedShortcut.of(s) for s in shortcuts]
        self.model = opened_copy(model)
        self._gates: dict[str, Gate] = {}
        self._short_gates: dict[str, list[Gate]] = {}
        self._originals: dict[str, nn.Module] = {}
        self._blocks: dict[str, list[str]] = {}
        for entry in entries:
            self._blocks.setdefault(entry.site.block, []).append(entry.id)
        by_id = {entry.id: entry for entry in entries}
        # Inner blocks first: an outer block is traced with its children closed.
        for block in sorted(self._blocks, key=lambda path: -path.count(".") if path else 1):
            self._gate_block(block, [by_id[name] for name in self._blocks[block]])

    # -- values -----------------------------------------------------------------------------------------

    @property
    def ids(self) -> tuple[str, ...]:
        """The gated shortcuts."""
        return tuple(self._gates)

    def value(self, name: str) -> float:
        """Return the gate's value."""
        self._check(name)
        return self._gates[name].value

    def set(self, name: str, value: float) -> None:
        """Set one gate, 0..1."""
        self._check(name)
        if not 0 <= value <= 1:
            raise PruningError(f"gate '{name}' cannot be set to {value}, expected 0 to 1")
        self._gates[name].value = float(value)
        for gate in self._short_gates[name]:
            gate.value = 1.0 - float(value)

    def state(self) -> dict[str, float]:
        """Return the value of every gate, JSON-serialisable."""
        return {name: gate.value for name, gate in self._gates.items()}

    def load_state(self, values: Mapping[str, float]) -> None:
        """Set the gates to what `state` returned."""
        for name, value in values.items():
            self.set(name, value)

    def gate(self, name: str) -> Gate:
        """Return the module that adds the shortcut `name`; its output is the block's sum."""
        self._check(name)
        return self._gates[name]

    def _check(self, name: str) -> None:
        if name not in self._gates:
            raise PruningError(f"the model has no gated shortcut '{name}'{nearest(name, self._gates)}")

    # -- rewiring ---------------------------------------------------------------------------------------

    def _gate_block(self, path: str, entries: list[PlannedShortcut]) -> None:
        block = self._module(path)
        opened = {part for entry in entries for part in _opened(path, entry.site.owner)}
        graph_module = trace_block(block, opened, path or type(block).__name__, entries[0].site.given)
        additions = additions_by_owner(graph_module.graph)
        joins = []
        for entry in entries:
            own = additions.get(_below(path, entry.site.owner), [])
            if entry.site.ordinal >= len(own):
                raise PruningError(
                    f"shortcut '{entry.id}' is not where the plan says; make the plan again for this model"
                )
            joins.append(own[entry.site.ordinal])
        for number, (entry, join) in enumerate(zip(entries, joins, strict=True), 1):
            operands = operands_of(join)
            if operands is None:  # additions_by_owner lists nothing else
                raise AssertionError(join)
            skip, main = operands[entry.site.skip_operand], operands[1 - entry.site.skip_operand]
            name = f"shortcut_gate{number}"
            gate = Gate()
            graph_module.add_submodule(name, gate)
            with graph_module.graph.inserting_before(join):
                gated = graph_module.graph.call_module(name, (main, skip))
            join.replace_all_uses_with(gated)
            graph_module.graph.erase_node(join)
            self._gates[entry.id] = gate
            self._short_gates[entry.id] = (
                _add_short_skips(graph_module, entry, path, skip, number) if entry.action == "shorten" else []
            )
        graph_module.graph.lint()
        graph_module.recompile()
        self._originals[path] = block
        self._replace(path, graph_module)

    def _module(self, path: str) -> nn.Module:
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            raise PruningError(f"the model has no module '{path}'; is the plan for another model?") from None

    def _replace(self, path: str, module: nn.Module) -> None:
        if not path:
            self.model = module
            return
        parent, _, name = path.rpartition(".")
        self.model.get_submodule(parent)._modules[name] = module

    def remove(self) -> nn.Module:
        """Take the closed gates out for good and return the model; the gates are used up.

        Additions, projections that nothing else uses, their parameters and buffers are gone. Blocks whose
        gates are all open get their own module back.

        Raises:
            PruningError: if a gate is neither open nor closed.
        """
        for name, value in self.state().items():
            if value not in (0.0, 1.0):
                raise PruningError(f"gate '{name}' is half open ({value:g}); set it to 0 or 1 first")
        for path in sorted(self._blocks, key=lambda path: -path.count(".") if path else 1):
            gated = self._module(path)
            if all(self._gates[name].value == 1 for name in self._blocks[path]):
                self._give_back(path, gated)
                continue
            if not isinstance(gated, fx.GraphModule):
                raise AssertionError(path)
            for node in list(gated.graph.nodes):
                if node.op == "call_module" and isinstance(gated.get_submodule(str(node.target)), Gate):
                    _settle(gated, node)
            gated.graph.eliminate_dead_code()
            gated.graph.lint()
            # A new graph module holds only what its graph refers to.
            settled = fx.GraphModule(gated, gated.graph, class_name=type(self._originals[path]).__name__)
            settled.training = gated.training
            self._replace(path, settled)
        self._gates, self._short_gates = {}, {}
        return self.model

    def _give_back(self, path: str, gated: nn.Module) -> None:
        original = self._originals[path]
        original.training = gated.training
        if not path:
            # Inner blocks may have been settled since: they are children of the gated root now.
            for name, child in gated.named_children():
                if name in original._modules:
                    original._modules[name] = child
        self._replace(path, original)


def _settle(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a gate by its main path if closed, else by an addition."""
    gate = graph_module.get_submodule(str(node.target))
    main, skip = node.args
    if isinstance(gate, Gate) and gate.value == 0:
        node.replace_all_uses_with(main)  # type: ignore[arg-type]
    else:
        with graph_module.graph.inserting_before(node):
            node.replace_all_uses_with(graph_module.graph.call_function(operator.add, (main, skip)))
    graph_module.graph.erase_node(node)


def _add_short_skips(
    graph_module: fx.GraphModule, entry: PlannedShortcut, path: str, skip: fx.Node, number: int
) -> list[Gate]:
    """Put a closed skip around each convolution of the main path, and return their gates.

    The first takes the long skip's own values (identity or projection), the others their input.
    """
    graph = graph_module.graph
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    if not entry.units:
        raise PruningError(
            f"shortcut '{entry.id}' cannot be shortened: its convolutions change the shape on the way"
        )
    gates = []
    for at, unit in enumerate(entry.units, 1):
        point = calls.get(_below(path, unit.add_after))
        conv = calls.get(_below(path, unit.conv))
        if point is None or conv is None:
            raise PruningError(
                f"shortcut '{entry.id}' cannot be shortened: '{unit.conv}' is not in its block"
            )
        if at == 1:
            source = skip
            _move_before(graph, skip, point)
        else:
            source = conv.all_input_nodes[0]
            while source.op == "call_module" and isinstance(
                graph_module.get_submodule(str(source.target)), _BEFORE_CONV
            ):
                source = source.all_input_nodes[0]
        gate = Gate(0.0)
        name = f"short_gate{number}_{at}"
        graph_module.add_submodule(name, gate)
        with graph.inserting_after(point):
            gated = graph.call_module(name, (point, source))
        point.replace_all_uses_with(gated, delete_user_cb=lambda user, own=gated: user is not own)
        gates.append(gate)
    return gates


def _move_before(graph: fx.Graph, skip: fx.Node, point: fx.Node) -> None:
    """Let the steps of a skip run before `point`."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    steps = []
    node = skip
    while order[node] > order[point]:
        steps.append(node)
        node = node.all_input_nodes[0]
    for step in reversed(steps):
        point.prepend(step)


def _below(path: str, name: str) -> str:
    """Return `name` relative to the module `path` that holds it."""
    if name == path:
        return ""
    return name[len(path) + 1 :] if path else name


def _opened(path: str, owner: str) -> list[str]:
    """Return the paths (relative to `path`) of the modules from below `path` down to `owner`."""
    parts = _below(path, owner).split(".") if owner != path else []
    return [".".join(parts[: at + 1]) for at in range(len(parts))]
