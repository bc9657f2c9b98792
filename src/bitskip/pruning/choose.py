"""Choosing what becomes of each shortcut: the paper's presets, a number, or greedily under a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from bitskip.errors import PruningError, check_one_of, nearest
from bitskip.memory import EXECUTORS
from bitskip.pruning.plan import Action, Plan, PlannedShortcut, fingerprint
from bitskip.pruning.score import Score
from bitskip.pruning.shortcut import Analysis

PRESETS = ("all", "middle", "none")


def plan_shortcuts(
    model: nn.Module,
    analysis: Analysis,
    keep: str | int | Iterable[str] | None = None,
    *,
    scores: Mapping[str, Score] | None = None,
    max_accuracy_drop: float | None = None,
    target_peak: int | None = None,
    executor: str = "naive",
    shorten: bool | None = None,
) -> Plan:
    """Choose what becomes of each shortcut.

    Args:
        model: the model.
        analysis: of it, from `analyse`.
        keep: `all`, `middle` (those of the first and last stage go, the paper's choice), `none`, the number
            of shortcuts to keep (those whose closing changes the outputs most; needs `scores`), or the ids
            to keep. None with a budget below: greedy, fewest change per byte first.
        scores: from `score_shortcuts`.
        max_accuracy_drop: share, 0..1; shortcuts go while the sum of their single drops stays within it.
        target_peak: bytes of activations for one example; shortcuts go until the peak is no larger.
        executor: whose peak: `naive` or `in_place` (see `bitskip.memory`).
        shorten: whether what goes is shortened where it can be. None: around 1-bit activations only,
            where shortcuts matter most (Bi-Real Net).

    Raises:
        PruningError: if the model has no shortcuts, an id does not exist, scores are missing, or no
            choice reaches the target.
    """
    known = analysis.by_id()
    if not known:
        raise PruningError(
            f"{type(model).__name__} has no shortcuts: no addition joins a main path with an identity or a "
            "projection of its input"
        )
    check_one_of(executor, EXECUTORS, "unknown executor", PruningError)
    budget = max_accuracy_drop is not None or target_peak is not None
    if keep is None and not budget:
        keep = "middle"
    if keep is not None and budget:
        raise PruningError("got both what to keep and a budget; give one of them")
    shorter = {
        shortcut.id
        for shortcut in analysis.shortcuts
        if shortcut.shortenable and (shortcut.binary_input if shorten is None else shorten)
    }
    if keep is None:
        gone = _greedy(analysis, scores, max_accuracy_drop, target_peak, executor, shorter)
        parts = [] if max_accuracy_drop is None else [f"accuracy drop at most {max_accuracy_drop:g}"]
        parts += [] if target_peak is None else [f"peak at most {target_peak} bytes ({executor})"]
        rule = "greedy: " + ", ".join(parts)
    else:
        gone, rule = _by_keep(analysis, keep, scores)
    entries = []
    notes = []
    for shortcut in analysis.shortcuts:
        action: Action = "keep"
        if shortcut.id in gone:
            action = "shorten" if shortcut.id in shorter else "remove"
            if shortcut.binary_input and action == "remove":
                notes.append(
                    f"'{shortcut.id}' stands around 1-bit activations, where removal costs most accuracy"
                )
        entries.append(PlannedShortcut.of(shortcut, action))
    return Plan(fingerprint(model), rule, tuple(entries), tuple(notes))


def _by_keep(
    analysis: Analysis, keep: str | int | Iterable[str], scores: Mapping[str, Score] | None
) -> tuple[set[str], str]:
    known = analysis.by_id()
    if isinstance(keep, bool):
        raise PruningError(f"keep is {keep}, expected a preset, a number or ids")
    if isinstance(keep, int):
        if not 0 <= keep <= len(known):
            raise PruningError(f"keep is {keep}, but the model has {len(known)} shortcuts")
        ranked = sorted(known, key=lambda name: _need(scores, name).kl, reverse=True)
        return set(ranked[keep:]), f"keep the {keep} that matter most"
    if isinstance(keep, str):
        if keep not in PRESETS:
            raise PruningError(
                f"keep is '{keep}', expected {', '.join(PRESETS)}, a number or ids{nearest(keep, PRESETS)}"
            )
        stages = {shortcut.stage for shortcut in analysis.shortcuts}
        outer = {min(stages), max(stages)}
        gone = {
            shortcut.id
            for shortcut in analysis.shortcuts
            if keep == "none" or (keep == "middle" and shortcut.stage in outer)
        }
        return gone, f"keep {keep}"
    kept = set(keep)
    for name in sorted(kept):
        if name not in known:
            raise PruningError(
                f"the model has no shortcut '{name}'{nearest(name, known)} "
                "(`bitskip shortcuts list` names them)"
            )
    return set(known) - kept, "keep " + (", ".join(sorted(kept)) or "none")


def _need(scores: Mapping[str, Score] | None, name: str) -> Score:
    if scores is None or name not in scores:
        raise PruningError(
            f"this choice needs a score of '{name}'; run score_shortcuts or `bitskip shortcuts score` first"
        )
    return scores[name]


def _greedy(
    analysis: Analysis,
    scores: Mapping[str, Score] | None,
    max_accuracy_drop: float | None,
    target_peak: int | None,
    executor: str,
    shorter: set[str],
) -> set[str]:
    """Take shortcuts away, or shorten those in `shorter`, least change of the outputs per byte first."""
    known = analysis.by_id()
    activations = analysis.activations
    if target_peak is not None and activations is None:
        raise PruningError(f"a target peak needs the whole model's graph: {'; '.join(analysis.notes)}")

    def cost(name: str) -> float:
        shortcut = known[name]
        freed = max(shortcut.peak_bytes or 0, shortcut.bytes, 1)
        if scores is None:
            return -float(freed)  # unscored: the largest first
        return max(_need(scores, name).kl, 0.0) / freed

    if max_accuracy_drop is not None:
        for name in known:
            _need(scores, name)
    gone: set[str] = set()
    spent = 0.0
    while len(gone) < len(known):
        candidates = set(known) - gone
        if target_peak is not None and activations is not None:
            if activations.peak(gone - shorter, executor, gone & shorter).size <= target_peak:
                break
            # Only what is alive at the peak can lower it.
            candidates &= activations.alive_at_peak(gone - shorter, executor, gone & shorter, shorter)
        if max_accuracy_drop is not None:
            candidates = {
                name
                for name in candidates
                if spent + max(-_need(scores, name).accuracy_change, 0.0) <= max_accuracy_drop
            }
        if not candidates:
            break
        chosen = min(sorted(candidates), key=cost)
        if max_accuracy_drop is not None:
            spent += max(-_need(scores, chosen).accuracy_change, 0.0)
        gone.add(chosen)
    if target_peak is not None and activations is not None:
        reached = activations.peak(gone - shorter, executor, gone & shorter)
        if reached.size > target_peak:
            within = "" if max_accuracy_drop is None else " within the accuracy budget"
            raise PruningError(
                f"removing shortcuts brings the {executor} peak to {reached.size} bytes at '{reached.op}'"
                f"{within}, not to {target_peak}; choose a target of at least {reached.size}"
            )
    return gone
