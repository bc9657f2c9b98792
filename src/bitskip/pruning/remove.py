"""Removing shortcuts for good, and keeping a pruned model as weights plus its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from bitskip.errors import FileFormatError, in_one_line
from bitskip.files import write_bytes
from bitskip.graph.working import unwrap
from bitskip.nn import BinaryLayer, ResNet, build
from bitskip.nn.resnet import follows_its_spec
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import Plan
from bitskip.spec import NetworkSpec, named_models, named_spec

WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"


def remove_shortcuts(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of `model` in which the plan is carried out; its output is that of closed gates.

    Additions, projections that nothing else uses, and their parameters are gone. A network of bitskip
    stays one, with a spec that says what is left, unless a shortcut is shortened.

    Raises:
        PruningError: if the plan is for another model, or a block cannot be rewired.
    """
    gates = ShortcutGates(model, plan)
    for name in plan.closed:
        gates.set(name, 0.0)
    return settle(model, gates)


def settle(model: nn.Module, gates: ShortcutGates) -> nn.Module:
    """Remove what the gates of a copy of `model` have closed, and return the result; uses up the gates.

    Args:
        model: the model that was gated.
        gates: each open or closed.
    """
    model = unwrap(model)
    closed = {name for name, value in gates.state().items() if value == 0}
    shortened = any(gates._short_gates[name] for name in closed)
    pruned = gates.remove()
    # What was rewired before is not what its spec says, so its spec cannot say what is left either.
    if isinstance(model, ResNet) and not shortened and follows_its_spec(model):
        return _as_resnet(model, pruned, closed)
    return pruned


def _as_resnet(model: ResNet, pruned: nn.Module, closed: set[str]) -> nn.Module:
    """Return `pruned` as a network of the spec that is left, or as it is if no spec says that."""
    left: dict[str, bool] = dict(model.spec.block_shortcuts)
    for block in model.spec.iter_blocks():
        if block.shortcut is None:
            continue
        own = {block.name} if model.spec.style != "per_conv" else {f"{block.name}:1", f"{block.name}:2"}
        if own <= closed:
            left[block.name] = False
        elif own & closed:
            return pruned
    spec = _named_if_known(dataclasses.replace(model.spec, block_shortcuts=left))
    network = build(spec)
    modules = dict(pruned.named_modules())
    for name, module in list(network.named_modules()):
        # Whole layers are taken over, with their settings; a 1-bit layer's children go with it.
        if name in modules and (isinstance(module, BinaryLayer) or next(module.children(), None) is None):
            network.set_submodule(name, modules[name])
    if network.state_dict().keys() != pruned.state_dict().keys():
        raise AssertionError("the pruned network has other parameters than its spec")
    return network.train(model.training)


def _named_if_known(spec: NetworkSpec) -> NetworkSpec:
    """Give the spec the name of the named model that it equals; else mark it as pruned."""
    for name in _candidates(spec.name):
        known = named_spec(name)
        if _shape_of(known) == _shape_of(spec):
            return known
    name = spec.name if spec.name.endswith("-pruned") else f"{spec.name}-pruned"
    return dataclasses.replace(spec, name=name)


def _candidates(name: str) -> list[str]:
    head, factor, width = name.rpartition("-x")
    base, suffix = (head, f"-x{width}") if factor else (name, "")
    parts = base.split("-")
    if parts[0] not in {known.split("-")[0] for known in named_models()} or len(parts) not in (1, 3):
        return []
    precision = parts[1] if len(parts) == 3 else "full"
    try:
        return [named_spec(f"{parts[0]}-{precision}-{policy}{suffix}").name for policy in ("middle", "none")]
    except Exception:
        return []


def _shape_of(spec: NetworkSpec) -> tuple[object, ...]:
    """Return what makes two specs the same network, whatever they are called."""
    values = dataclasses.replace(spec, name="x", shortcuts=(True,) * len(spec.blocks), block_shortcuts={})
    return (values, tuple(block.shortcut for block in spec.iter_blocks()))


# -- files --------------------------------------------------------------------------------------------


def save_pruned(
    folder: Path | str, pruned: nn.Module, plan: Plan, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `weights.safetensors` and `plan.json`: with the original's code they give the model back.

    Args:
        folder: created if need be.
        pruned: from `remove_shortcuts` or `recover`.
        plan: the one that was carried out.
        metadata: texts to keep in the weights file.
    """
    state = {name: value.detach().clone().contiguous() for name, value in pruned.state_dict().items()}
    folder = Path(folder)
    write_bytes(folder / WEIGHTS_FILE, save(state, None if metadata is None else dict(metadata)))
    plan.save(folder / PLAN_FILE)


def load_pruned(folder: Path | str, model: nn.Module) -> nn.Module:
    """Return the pruned model of `save_pruned`.

    Args:
        folder: with the weights and the plan.
        model: the original architecture with all shortcuts; its weights do not matter.

    Raises:
        PruningError: if the plan is for another model.
        FileFormatError: if the files are missing, damaged, or do not fit each other.
    """
    folder = Path(folder)
    pruned = remove_shortcuts(model, Plan.load(folder / PLAN_FILE))
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises an error type of its own for a damaged file
        raise FileFormatError(f"{path} cannot be read: {error}") from None
    try:
        pruned.load_state_dict(weights)
    except RuntimeError as error:
        detail = in_one_line(error, 200)
        raise FileFormatError(f"{path} does not fit the plan beside it: {detail}") from None
    return pruned
