"""Let `import torchvision` work beside a torch that its compiled operators were not built for.

torchvision's wheels carry operators (non-maximum suppression and the like) compiled against one build of
torch. Beside another build, such as a CPU torch with torchvision's CUDA wheel, they do not load, and the
import fails because it registers shape rules for operators that then do not exist. Its models need none of
them, so declaring the two names is enough. Lightning and timm import torchvision too.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # operators live as long as their Library object


def ensure_torchvision_ops() -> None:
    """Call before importing torchvision, Lightning or timm; does nothing where the operators load."""
    if _declared:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    for compiled in Path(found.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(compiled)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)
