"""The parts of torchvision's detectors: backbone, pyramid, heads on maps, heads on proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bitskip.errors import SpecError

# Parts by the beginning of their parameters' names, the most special first.
PARTS = (
    ("backbone.body.", "backbone"),
    ("backbone.fpn.", "pyramid"),
    ("backbone.extra.", "pyramid"),
    ("backbone.", "backbone"),
    ("rpn.", "heads on maps"),
    ("head.", "heads on maps"),
    ("roi_heads.", "heads on proposals"),
    ("classifier.", "head"),  # of segmentation networks
)


def part_of(name: str) -> str:
    """Return the part that a parameter or layer of a detector belongs to, by its name."""
    return next((part for prefix, part in PARTS if f"{name}.".startswith(prefix)), "other")


def backbone_of(detector: nn.Module) -> nn.Module:
    """Return the part of a detector that turns pictures into feature maps.

    Raises:
        SpecError: if the module has no `backbone`, or is not a detector of torchvision's kinds.
    """
    backbone = getattr(detector, "backbone", None)
    heads = getattr(detector, "roi_heads", None) or getattr(detector, "head", None)
    if not isinstance(backbone, nn.Module) or not isinstance(heads, nn.Module):
        raise SpecError(
            f"{type(detector).__name__} is not a detector of torchvision's kinds; expected a `backbone` and "
            "`roi_heads` or `head`"
        )
    return backbone


class DenseParts(nn.Module):
    """What a detector does once a picture: backbone, pyramid and the heads that slide over maps.

    Parts keep the names that they have in the detector, and its modules: nothing is copied.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone_of(detector)
        rpn = getattr(detector, "rpn", None)
        if rpn is not None:
            self.rpn = nn.Module()
            self.rpn.head = rpn.head
        else:
            self.head = detector.head

    def forward(self, x: Tensor) -> Any:
        """Turn pictures (N, 3, H, W) into the heads' outputs."""
        maps = self.backbone(x)
        if isinstance(maps, list | tuple):
            raise SpecError(
                f"the backbone {type(self.backbone).__name__} gives a {type(maps).__name__}; expected a map "
                "or a dict of maps"
            )
        features = [maps] if isinstance(maps, Tensor) else list(maps.values())
        return self.get_submodule("rpn.head" if hasattr(self, "rpn") else "head")(features)


@dataclass(frozen=True)
class RegionHead:
    """A head that runs once a proposal, or once a detected object."""

    name: str  # box_head, mask_head or keypoint_head
    module: nn.Module  # takes (N, C, S, S) of N regions; its parts have the detector's names
    input_shape: tuple[int, int, int]
    regions: int  # a picture, at most, in inference
    unit: str  # what it runs on: proposal or detected object


class _RegionModule(nn.Module):
    """A head and its predictor under the names that they have in the detector."""

    def __init__(self, roi_heads: Any, kind: str) -> None:
        super().__init__()
        self.roi_heads = nn.Module()
        self._names = (f"{kind}_head", f"{kind}_predictor")
        for name in self._names:
            self.roi_heads.add_module(name, getattr(roi_heads, name))

    def forward(self, x: Tensor) -> Any:
        """Turn regions (N, C, S, S) into the predictor's outputs."""
        for name in self._names:
            x = self.roi_heads.get_submodule(name)(x)
        return x


def region_heads(detector: Any) -> tuple[RegionHead, ...]:
    """Return the heads of a two-stage detector that run on regions; nothing for one-stage detectors."""
    roi_heads = getattr(detector, "roi_heads", None)
    if roi_heads is None:
        return ()
    channels = int(detector.backbone.out_channels)
    proposals = int(detector.rpn._post_nms_top_n["testing"])
    found = []
    for kind in ("box", "mask", "keypoint"):
        if getattr(roi_heads, f"{kind}_head", None) is None:
            continue
        height, width = getattr(roi_heads, f"{kind}_roi_pool").output_size
        found.append(
            RegionHead(
                f"{kind}_head",
                _RegionModule(roi_heads, kind).eval(),
                (channels, int(height), int(width)),
                proposals if kind == "box" else int(roi_heads.detections_per_img),
                "proposal" if kind == "box" else "detected object",
            )
        )
    return tuple(found)
