"""Steps that change a tensor in place: what reads it, or a view of it, afterwards reads the change."""

from __future__ import annotations

import inspect
import operator

from torch import fx, nn

from bitskip.errors import PruningError

# `y += x` changes y itself; torch.fx alone would record it as `y = y + x`.
AUGMENTED = "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift".split()
_INPLACE_FUNCTIONS = tuple(getattr(operator, name) for name in AUGMENTED)
# Methods and functions that may return their input's memory, and attributes that do.
_VIEWS = frozenset(
    "adaptive_avg_pool2d alias as_strided broadcast_to bfloat16 chunk contiguous cpu cuda detach detach_ "
    "diagonal double dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout expand "
    "expand_as flatten float getitem half hsplit interpolate movedim moveaxis narrow pad permute "
    "positive ravel real requires_grad_ reshape reshape_as select split squeeze squeeze_ stochastic_depth "
    "swapaxes swapdims t tensor_split to transpose type type_as unbind unflatten unfold unsqueeze "
    "unsqueeze_ view view_as vsplit".split()
)
_VIEW_ATTRIBUTES = ("data", "T", "mT", "H", "mH", "real", "imag")
_NUMBERS = ("size", "dim", "numel", "ndimension", "nelement", "stride", "item", "element_size", "get_device")


def follow_inplace(graph_module: fx.GraphModule) -> None:
    """Let what reads a tensor after an in-place step on it read that step, as it does when run.

    Raises:
        PruningError: if it is read under another shape that was given to it before.
    """
    modules = dict(graph_module.named_modules())
    order = {node: at for at, node in enumerate(graph_module.graph.nodes)}
    for node in graph_module.graph.nodes:
        changed = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(changed, fx.Node) or not _is_inplace(node, modules) or _is_number(changed):
            continue
        for name, same in _names_of(changed, modules):
            later = [user for user in name.users if order[user] > order[node]]
            if order[name] >= order[node] or not later:
                continue
            if not same:
                raise PruningError(
                    f"'{node.name}' changes in place what '{name.name}' shares with it, and that is read "
                    "afterwards; write the step without inplace"
                )
            for user in later:
                user.replace_input_with(name, node)
    graph_module.recompile()


def _names_of(node: fx.Node, modules: dict[str, nn.Module]) -> list[tuple[fx.Node, bool]]:
    """Return the steps that share the memory of `node`'s result, and whether they surely are the same tensor.

    Both ways: what it was made from, and what was made from it.
    """
    origin, same = node, True
    while (kind := _shares(origin, modules)) is not None and isinstance(origin.args[0], fx.Node):
        origin, same = origin.args[0], same and kind
    found, at = [(origin, same)], 0
    while at < len(found):
        step, alike = found[at]
        for user in step.users:
            kind = _shares(user, modules)
            if kind is not None and user.args and user.args[0] is step:
                found.append((user, alike and kind))
        at += 1
    return found


def _shares(node: fx.Node, modules: dict[str, nn.Module]) -> bool | None:
    """Whether a step returns its input itself (True) or perhaps a view of it (False); None if neither."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        name = type(module).__name__
        if isinstance(module, nn.Identity) or ("Dropout" in name and getattr(module, "inplace", False)):
            return True
        # Layers that may give their input back, whatever kind; convolutions and the like never do.
        return False if isinstance(module, nn.Flatten | nn.Unflatten) or _gives_back(name) else None
    if node.target is getattr and isinstance(node.args[1], str):
        return False if node.args[1] in _VIEW_ATTRIBUTES else None
    if node.op in ("call_method", "call_function"):
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        return False if name in _VIEWS else None
    return None


def _gives_back(name: str) -> bool:
    return any(part in name for part in ("Dropout", "DropPath", "StochasticDepth", "Permute", "Upsample"))


def _is_number(node: fx.Node) -> bool:
    """Whether a step's result is surely no tensor: a size, or made of sizes."""
    if node.op == "call_method":
        return node.target in _NUMBERS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "itemsize", "nbytes")
    if node.target in (len, int, float):
        return True
    sources = node.all_input_nodes
    home = getattr(node.target, "__module__", "")
    return home in ("_operator", "math", "builtins") and bool(sources) and all(map(_is_number, sources))


def _is_inplace(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return getattr(modules.get(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        target = str(node.target)
        return target.endswith("_") and not target.endswith("__") and target != "requires_grad_"
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        named_so = name.endswith("_") and not name.endswith("__")  # torch.relu_
        return named_so or node.target in _INPLACE_FUNCTIONS or _asked_in_place(node)
    return False


def _asked_in_place(node: fx.Node) -> bool:
    """Whether a function is called with `inplace`, by name or by position."""
    if "inplace" in node.kwargs:
        return node.kwargs["inplace"] is True
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of C
        return False
    at = names.index("inplace") if "inplace" in names else len(node.args)
    return at < len(node.args) and node.args[at] is True
