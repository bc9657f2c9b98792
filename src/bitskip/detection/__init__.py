"""Detectors: what they cost, their shortcuts, data to train them on, and their backbones in the runtime.

A detector is torchvision's: Faster R-CNN, RetinaNet, FCOS or SSD. Its backbone, with the feature pyramid,
is bitskip's business; non-maximum suppression and RoIAlign stay torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitskip.detection.packed import attach, pack_backbone

__all__ = ["attach", "pack_backbone"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bitskip.detection import packed

        return getattr(packed, name)
    raise AttributeError(f"module 'bitskip.detection' has no attribute '{name}'")
