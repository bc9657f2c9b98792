"""The state of a detector's training on disk, so that it goes on where it stopped.

One safetensors file: weights, the optimizer's moments, random numbers, and how far it is. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bitskip.errors import RunError
from bitskip.files import write_bytes

EVERY = 60.0  # seconds between two savings
_MODEL, _MOMENTS = "model.", "optimizer."


class TrainingState:
    """A model and its AdamW in a file.

    Args:
        path: where the state is kept; one found there is taken up by `load`.
        asked: what the training was asked for, a JSON object; a state kept with another is refused.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path = path
        self._asked = json.loads(json.dumps(asked))

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        seconds: float,
        entry: Mapping[str, float],
    ) -> None:
        """Keep everything, with the steps done, the seconds they took and what was last reported."""
        tensors = {f"{_MODEL}{name}": value for name, value in model.state_dict().items()}
        for at, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{_MOMENTS}{at}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        about = {
            "asked": json.dumps(self._asked),
            "step": str(step),
            "seconds": str(seconds),
            "entry": json.dumps(entry),
        }
        write_bytes(self.path, save({name: value.contiguous() for name, value in tensors.items()}, about))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float, dict[str, float]]:
        """Take up what is kept, in place.

        Returns:
            The steps done, their seconds, and what was last reported: 0, 0 and nothing without a file.

        Raises:
            RunError: if the file is damaged, or of another training.
        """
        if not self.path.is_file():
            return 0, 0.0, {}
        try:
            with safe_open(self.path, framework="pt") as stream:
                about = stream.metadata() or {}
            tensors = load_file(self.path)
            asked, entry = json.loads(about["asked"]), json.loads(about["entry"])
            step, seconds = int(about["step"]), float(about["seconds"])
        except Exception as error:  # safetensors raises an error type of its own for a damaged file
            raise RunError(f"{self.path} cannot be read ({error}); delete it to start again") from None
        if asked != self._asked:
            raise RunError(
                f"{self.path} is the state of another training (other settings or model); "
                "choose another folder or delete it"
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, _MOMENTS).items():
            at, _, key = name.partition(".")
            moments.setdefault(int(at), {})[key] = value
        model.load_state_dict(_part(tensors, _MODEL))
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return step, seconds, entry


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
