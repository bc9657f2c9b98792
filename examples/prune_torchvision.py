"""Take the shortcuts of the first and last stage out of a torchvision ResNet, without training."""

import torch

from bitskip.nn.torchvision_ops import ensure_torchvision_ops
from bitskip.pruning import analyse, compare, plan_shortcuts, prune_without_training

ensure_torchvision_ops()  # does nothing where torchvision fits its torch
from torchvision.models import resnet50  # noqa: E402

model = resnet50(weights=None).eval()  # weights="DEFAULT" for the trained network
pictures = [torch.randn(4, 3, 64, 64) for _ in range(2)]  # a few hundred of your own

analysis = analyse(model, pictures[0])
plan = plan_shortcuts(model, analysis, keep="middle")
outcome = prune_without_training(model, plan, analysis, pictures)
for gain in compare(model, outcome.model, pictures[0]):
    print(f"{gain.name}: {gain.before} -> {gain.after} {gain.unit} {gain.remark}")
