"""A small Faster R-CNN, and 1-bit stages for any detector."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from bitskip.errors import PruningError, SpecError, check_one_of
from bitskip.nn import BinaryConv2d
from bitskip.nn.torchvision_ops import ensure_torchvision_ops

PYRAMID = 128  # channels of each map of the small detector's pyramid, at full width
_STAGES = (64, 128, 256, 512)  # channels of the backbone's stages, at full width
_HEAD = 256  # features of its box head
# Anchors in pixels for each of the five maps (strides 4 to 64): objects of 24 to 180 pixels at 320.
_ANCHORS = ((24, 32), (45, 64), (90, 128), (128, 181), (256, 362))


def small_faster_rcnn(classes: int, size: int = 320, backbone: str = "resnet18", width: float = 1.0) -> Any:
    """Return a Faster R-CNN with a small backbone, pyramid and head; weights are random.

    Ren et al. 2015 with the feature pyramid of Lin et al. 2017, made of torchvision's parts: maps of 128
    channels where torchvision's have 256, two square anchors a place, and a box head of 256 features, so that
    the backbone is what costs.

    Args:
        classes: with the background, so one more than kinds of objects.
        size: height = width that pictures are brought to, in pixels.
        backbone: a ResNet of torchvision of two-convolution blocks: resnet18 or resnet34.
        width: factor on the channels of backbone and pyramid, 1/64 to 1.

    Raises:
        SpecError: for another backbone or width.
    """
    ensure_torchvision_ops()
    from torchvision import models
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    known = ("resnet18", "resnet34")
    check_one_of(backbone, known, "backbone is", SpecError)
    if not 1 / _STAGES[0] <= width <= 1:
        raise SpecError(f"width is {width}, expected 1/{_STAGES[0]} to 1")
    body = _narrow(models.get_model(backbone, weights=None), width)
    stages, maps = [int(width * channels) for channels in _STAGES], int(width * PYRAMID)
    layers = {f"layer{at}": str(at - 1) for at in (1, 2, 3, 4)}
    pyramid = BackboneWithFPN(body, layers, stages, maps)
    return FasterRCNN(
        pyramid,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(_ANCHORS, ((1.0,),) * len(_ANCHORS)),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=150,
        box_head=TwoMLPHead(maps * 7 * 7, _HEAD),
        box_predictor=FastRCNNPredictor(_HEAD, classes),
        box_batch_size_per_image=64,
        box_detections_per_img=50,
    )


def _narrow(body: nn.Module, width: float) -> nn.Module:
    """Scale the channels of a ResNet with random weights, in place, and return it."""
    if width == 1:
        return body
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.Conv2d):
            inputs = module.in_channels if module.in_channels == 3 else int(width * module.in_channels)
            conv = nn.Conv2d(
                inputs,
                int(width * module.out_channels),
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=False,
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            body.set_submodule(name, conv)
        elif isinstance(module, nn.BatchNorm2d):
            body.set_submodule(name, nn.BatchNorm2d(int(width * module.num_features)))
    return body


class _Classifier(nn.Module):
    def __init__(self, body: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn pictures (N, 3, H, W) into logits (N, classes)."""
        last = list(self.body(x).values())[-1]
        logits: torch.Tensor = self.head(last.mean((2, 3)))
        return logits


def classifier_of(detector: Any, classes: int) -> nn.Module:
    """Return a classifier that shares the small detector's backbone, to train that first."""
    last = detector.backbone.fpn.inner_blocks[-1][0]
    return _Classifier(detector.backbone.body, last.in_channels, classes)


def binarise(detector: nn.Module, stages: Collection[str]) -> list[str]:
    """Make the inner 3x3 convolutions of some stages 1-bit, in place; their latent weights are the old ones.

    Activations stay real (`w1`), each channel has the mean magnitude of its latent weights as its scale
    (XNOR-Net), and 1x1 projections stay as they are.

    Args:
        detector: with a ResNet in `backbone.body`.
        stages: names in `backbone.body`, such as `layer3`.

    Returns:
        The paths of the layers that are 1-bit now.

    Raises:
        PruningError: for an unknown stage, or one with nothing to make 1-bit.
    """
    body: Any = detector.get_submodule("backbone.body")
    changed = []
    for stage in stages:
        known = [name for name, _ in body.named_children()]
        check_one_of(stage, known, "the backbone has no part", PruningError)
        found = [
            name
            for name, module in body.get_submodule(stage).named_modules()
            if isinstance(module, nn.Conv2d)
            and module.kernel_size == (3, 3)
            and module.groups == 1
            and module.bias is None
            and module.dilation == (1, 1)
        ]
        if not found:
            raise PruningError(f"part '{stage}' has no 3x3 convolution without bias to make 1-bit")
        for name in found:
            conv = body.get_submodule(f"{stage}.{name}")
            layer = BinaryConv2d(
                conv.in_channels,
                conv.out_channels,
                3,
                conv.stride[0],
                conv.padding[0],
                weight_scale="channel",
            )
            with torch.no_grad():
                layer.weight.copy_(conv.weight)
            body.set_submodule(f"{stage}.{name}", layer.to(conv.weight.device))
            changed.append(f"backbone.body.{stage}.{name}")
    return changed
