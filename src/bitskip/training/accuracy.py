"""Accuracy and loss of a network on labelled pictures."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from bitskip.data.batches import Batches


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Return accuracy (0..1) and mean cross-entropy of `model` in float32 over `batches`."""
    was_training = model.training
    model.eval()
    sums, count = torch.zeros(2, dtype=torch.float64, device=batches.device), 0
    for pictures, labels in batches:
        logits = model(pictures).float()
        hits = (logits.argmax(1) == labels).sum()
        sums += torch.stack([hits, F.cross_entropy(logits, labels, reduction="sum")])
        count += len(labels)
    model.train(was_training)
    hits_in_all, loss = sums.tolist()
    return hits_in_all / count, loss / count
