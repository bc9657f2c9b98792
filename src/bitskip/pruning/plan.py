"""Plans: which shortcuts of a model are removed, shortened or kept, as a small JSON file.

A plan says where each shortcut stands in the code, so that it can be carried out without an example input,
and carries a fingerprint of the model it was made for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bitskip.errors import FileFormatError, PruningError, nearest
from bitskip.files import read_json, write_json
from bitskip.pruning.find import Analysis, Shortcut, Site, Unit
from bitskip.pruning.memory import EXECUTORS

if TYPE_CHECKING:
    from bitskip.pruning.score import Score

__all__ = ["ACTIONS", "PRESETS", "Plan", "PlannedShortcut", "fingerprint", "plan_shortcuts", "weights_digest"]

FORMAT_VERSION = 1
ACTIONS = ("remove", "shorten", "keep")
PRESETS = ("all", "middle", "none")


@dataclass(frozen=True)
class PlannedShortcut:
    """One shortcut, where it stands, and what becomes of it."""

    id: str
    action: str  # remove, shorten or keep
    site: Site
    units: tuple[Unit, ...] = ()  # the convolutions that each get a skip when it is shortened

    @classmethod
    def of(cls, shortcut: Shortcut, action: str = "remove") -> PlannedShortcut:
        """Plan one found shortcut."""
        return cls(shortcut.id, action, shortcut.site, shortcut.units)


@dataclass(frozen=True)
class Plan:
    """What becomes of every shortcut of one model."""

    fingerprint: str  # of the model, see `fingerprint`
    rule: str  # how the choice was made, for readers
    shortcuts: tuple[PlannedShortcut, ...]
    notes: tuple[str, ...] = ()

    def ids(self, *actions: str) -> tuple[str, ...]:
        """Return the ids whose action is one of `actions`."""
        return tuple(entry.id for entry in self.shortcuts if entry.action in actions)

    @property
    def closed(self) -> tuple[str, ...]:
        """Ids of the shortcuts that do not stay as they are."""
        return self.ids("remove", "shorten")

    def with_kept(self, ids: Collection[str]) -> Plan:
        """Return the same plan with the shortcuts `ids` kept."""
        entries = tuple(
            dataclasses.replace(entry, action="keep") if entry.id in ids else entry
            for entry in self.shortcuts
        )
        return dataclasses.replace(self, shortcuts=entries)

    def check(self, model: nn.Module) -> None:
        """Raise PruningError unless the plan was made for a model of this structure."""
        found = fingerprint(model)
        if found != self.fingerprint:
            raise PruningError(
                f"the plan was made for another model (fingerprint {self.fingerprint}, this "
                f"{type(model).__name__} has {found}); make one for it with `bitskip shortcuts plan`"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-serialisable values."""
        return {
            "bitskip_shortcut_plan": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "rule": self.rule,
            "shortcuts": [dataclasses.asdict(entry) for entry in self.shortcuts],
            "notes": list(self.notes),
        }

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def from_dict(cls, values: Any, source: str = "plan") -> Plan:
        """Read the values of `to_dict`; raises FileFormatError if they are no plan."""
        if not isinstance(values, dict) or values.get("bitskip_shortcut_plan") != FORMAT_VERSION:
            raise FileFormatError(
                f"{source} is no shortcut plan of version {FORMAT_VERSION}; "
                "make one with `bitskip shortcuts plan`"
            )
        try:
            entries = tuple(
                PlannedShortcut(
                    id=str(entry["id"]),
                    action=str(entry["action"]),
                    site=Site(**entry["site"] | {"given": tuple(entry["site"].get("given", ()))}),
                    units=tuple(Unit(**unit) for unit in entry["units"]),
                )
                for entry in values["shortcuts"]
            )
            plan = cls(
                str(values["fingerprint"]), str(values["rule"]), entries, tuple(values.get("notes", ()))
            )
        except (KeyError, TypeError) as error:
            raise FileFormatError(
                f"{source} is a damaged shortcut plan ({error}); make it again with `bitskip shortcuts plan`"
            ) from None
        for entry in entries:
            if entry.action not in ACTIONS:
                raise FileFormatError(
                    f"{source}: action of '{entry.id}' is '{entry.action}', "
                    f"expected one of {', '.join(ACTIONS)}"
                )
        return plan

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan's JSON file."""
        return cls.from_dict(read_json(path), str(path))


def fingerprint(model: nn.Module) -> str:
    """Return a short hash of the names and shapes of the model's parameters and buffers."""
    text = "\n".join(f"{name} {tuple(value.shape)}" for name, value in sorted(model.state_dict().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """Return a short hash of the values of the model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


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
        executor: whose peak: `naive` or `in_place` (see `bitskip.liveness`).
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
    if executor not in EXECUTORS:
        raise PruningError(f"unknown executor '{executor}', expected one of {', '.join(EXECUTORS)}")
    budget = max_accuracy_drop is not None or target_peak is not None
    if keep is None and not budget:
        keep = "middle"
    if keep is not None and budget:
        raise PruningError("got both what to keep and a budget; give one of them")
    if keep is None:
        gone = _greedy(analysis, scores, max_accuracy_drop, target_peak, executor)
        parts = [] if max_accuracy_drop is None else [f"accuracy drop at most {max_accuracy_drop:g}"]
        parts += [] if target_peak is None else [f"peak at most {target_peak} bytes ({executor})"]
        rule = "greedy: " + ", ".join(parts)
    else:
        gone, rule = _by_keep(analysis, keep, scores)
    entries = []
    notes = []
    for shortcut in analysis.shortcuts:
        action = "keep"
        if shortcut.id in gone:
            wanted = shortcut.binary_input if shorten is None else shorten
            action = "shorten" if wanted and shortcut.shortenable else "remove"
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
) -> set[str]:
    """Take shortcuts away, least change of the outputs per byte first, until the budget is met."""
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
            if activations.peak(gone, executor).size <= target_peak:
                break
            # Only what is alive at the peak can lower it.
            candidates &= activations.alive_at_peak(gone, executor)
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
        reached = activations.peak(gone, executor)
        if reached.size > target_peak:
            within = "" if max_accuracy_drop is None else " within the accuracy budget"
            raise PruningError(
                f"removing shortcuts brings the {executor} peak to {reached.size} bytes at '{reached.op}'"
                f"{within}, not to {target_peak}; choose a target of at least {reached.size}"
            )
    return gone
