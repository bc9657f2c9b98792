"""Shortcuts of any torch model: find, score, plan, close, remove, and get the accuracy back.

    analysis = analyse(model, example)
    plan = plan_shortcuts(model, analysis, keep="middle")
    pruned = remove_shortcuts(model, plan)

`bitskip.pruning.lightning` has the Lightning callback; it is not imported here, since Lightning is slow to.
"""

from __future__ import annotations

from bitskip.nn.batch_norm import reestimate_batch_norm
from bitskip.pruning.choose import plan_shortcuts
from bitskip.pruning.find import analyse, find_shortcuts
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import Plan, PlannedShortcut, fingerprint
from bitskip.pruning.recover import Recovery, recover
from bitskip.pruning.refit import ZeroTraining, prune_without_training
from bitskip.pruning.remove import load_pruned, remove_shortcuts, save_pruned, settle
from bitskip.pruning.report import Gain, compare
from bitskip.pruning.schedule import GateSchedule, RecoverySettings, distillation_loss
from bitskip.pruning.score import Score, load_scores, score_shortcuts
from bitskip.pruning.shortcut import Analysis, Shortcut

__all__ = [
    "Analysis",
    "Gain",
    "GateSchedule",
    "Plan",
    "PlannedShortcut",
    "Recovery",
    "RecoverySettings",
    "Score",
    "Shortcut",
    "ShortcutGates",
    "ZeroTraining",
    "analyse",
    "compare",
    "distillation_loss",
    "find_shortcuts",
    "fingerprint",
    "load_pruned",
    "load_scores",
    "plan_shortcuts",
    "prune_without_training",
    "recover",
    "reestimate_batch_norm",
    "remove_shortcuts",
    "save_pruned",
    "score_shortcuts",
    "settle",
]
