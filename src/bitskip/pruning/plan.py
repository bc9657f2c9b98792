"""Plans: which shortcuts of a model are removed, shortened or kept, as a small JSON file.

A plan says where each shortcut stands in the code, so that it can be carried out without an example input,
and carries a fingerprint of the model it was made for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from bitskip.errors import FileFormatError, PruningError
from bitskip.files import read_json, write_json
from bitskip.graph.working import unwrap
from bitskip.pruning.shortcut import Shortcut, Site, Unit
from bitskip.results.codec import decode

FORMAT_VERSION = 1
Action = Literal["remove", "shorten", "keep"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class PlannedShortcut:
    """One shortcut, where it stands, and what becomes of it."""

    id: str
    action: Action
    site: Site
    units: tuple[Unit, ...] = ()  # the convolutions that each get a skip when it is shortened

    @classmethod
    def of(cls, shortcut: Shortcut, action: Action = "remove") -> PlannedShortcut:
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

    def save(self, path: Path | str) -> None:
        """Write the plan as JSON."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def from_dict(cls, values: Any, source: str = "plan") -> Plan:
        """Read the values of `to_dict`; raises FileFormatError if they are no plan."""
        try:
            return decode(cls, values, source, ("bitskip_shortcut_plan", FORMAT_VERSION))
        except FileFormatError as error:
            raise FileFormatError(f"{error}; make a plan with `bitskip shortcuts plan`") from None

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's JSON file."""
        return cls.from_dict(read_json(Path(path)), str(path))


def fingerprint(model: nn.Module) -> str:
    """Return a short hash of the names and shapes of the model's parameters and buffers."""
    state = unwrap(model).state_dict()
    text = "\n".join(f"{name} {tuple(value.shape)}" for name, value in sorted(state.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """Return a short hash of the values of the model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(unwrap(model).state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
