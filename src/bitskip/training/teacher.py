"""What a network is distilled from: another network, or the outputs that it gave once for every picture.

Outputs given once are those of the original pictures and of their mirror images at full size, whatever the
student is shown: a step then costs nothing for the teacher, and small pictures do not mislead it (Shen and
Xing 2022, "A Fast Knowledge Distillation Framework"; what it forgoes is in Beyer et al. 2022, "Knowledge
distillation: A good teacher is patient and consistent").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bitskip.data.batches import Batches
from bitskip.data.resolve import cache_folder
from bitskip.errors import RunError
from bitskip.files import write_bytes


@torch.no_grad()
def outputs_of(
    network: nn.Module,
    pictures: Batches,
    *,
    weights: str,
    mirrored: bool,
    arithmetic: Callable[[], AbstractContextManager[None]],
    progress_bar: bool = False,
) -> Tensor:
    """Return the network's logits for every picture, from the cache if it has given them before.

    They are kept in `teachers/` of the cache folder, a file for each network and data set.

    Args:
        network: the teacher; is moved to the device of `pictures`.
        pictures: the training pictures as they are, in order.
        weights: digest of the teacher's weights.
        mirrored: whether mirror images are asked for too.
        arithmetic: context of a forward pass, e.g. autocast.
        progress_bar: show one.

    Returns:
        float32 (views, N, classes): views are the pictures and, if `mirrored`, their mirror images.
    """
    key = repr((weights, pictures.digest(), pictures.normalisation))
    file = cache_folder() / "teachers" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    views = 1 + mirrored
    known = _cached(file)
    if known is None or len(known) < views:
        network.to(pictures.device).eval()
        found: list[list[Tensor]] = [[] for _ in range(views)]
        for batch, _ in track(pictures, "Asking the teacher", disable=not progress_bar, transient=True):
            with arithmetic():
                for view, outputs in enumerate(found):
                    outputs.append(network(batch.flip(3) if view else batch).float())
        known = torch.stack([torch.cat(outputs) for outputs in found])
        try:
            write_bytes(file, save({"logits": known.cpu()}))
        except RunError:  # a cache that cannot be written to: the next run asks the teacher again
            pass
    return known[:views].to(pictures.device)


def _cached(file: Path) -> Tensor | None:
    try:
        logits: Tensor = load_file(file)["logits"]
    except (OSError, SafetensorError, KeyError):  # never asked, or a damaged file
        return None
    return logits
