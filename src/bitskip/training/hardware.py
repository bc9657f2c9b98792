"""What a run is computed on and with, known without loading Lightning, which takes longer than torch."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from bitskip import __version__
from bitskip.nn.narrow import is_narrow
from bitskip.spec import NetworkSpec

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as Lightning reads them


@dataclass(frozen=True)
class Hardware:
    """Lightning's own flags: which devices a run uses."""

    accelerator: str = "auto"  # auto, cpu, gpu, ...
    devices: str = "auto"  # number of devices, or auto
    nodes: int = 1  # number of machines
    strategy: str = "auto"  # auto, ddp, ...
    precision: str = "auto"  # auto: bf16-mixed where the processor computes in it, else 32-true
    capture: bool = True  # on one GPU, run the whole training step as a CUDA graph
    compile: bool = False  # train through torch.compile: faster steps, a slower start, needs a C++ compiler

    def lightning_precision(self, network: NetworkSpec | nn.Module) -> Any:
        """Return the precision flag for Lightning to train `network` with."""
        if self.precision != "auto":
            return self.precision
        if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        fast = any(
            getattr(torch.cpu, probe, lambda: False)()
            for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        return "bf16-mixed" if fast and not is_narrow(network) else "32-true"


def is_first_process() -> bool:
    """Whether this is the process that writes and prints; the others of a distributed run keep silent."""
    if "lightning" in sys.modules:
        from lightning.pytorch.utilities import rank_zero_only

        return int(getattr(rank_zero_only, "rank", 0) or 0) == 0
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), "0")) == 0


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "bitskip": __version__,
        "torch": str(torch.__version__),  # plain text, which checkpoints may hold
        "lightning": version("lightning"),
        "python": platform.python_version(),
    }


def merged(sessions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return what several sessions, or runs, were computed with; values that differ stand side by side."""
    found: dict[str, list[str]] = {}
    for session in sessions:
        for key, value in session.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: ", ".join(values) for key, values in found.items()}
