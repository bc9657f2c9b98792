"""Forms of a network that hold its operators and no longer its layers."""

from __future__ import annotations

import torch
from torch import fx, nn


def foreign_form(module: nn.Module) -> str | None:
    """Say what `module` is where its layers cannot be read: TorchScript, or a program of `torch.export`.

    Both run as any module does. What looks for layers in them, or puts others in their place, finds nothing.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript"
    if isinstance(module, fx.GraphModule) and any(_is_aten(node) for node in module.graph.nodes):
        return "a program of torch.export"
    return None


def _is_aten(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
