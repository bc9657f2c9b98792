"""What all tests share: torchvision made importable, and a run that does not depend on the user's data."""

from __future__ import annotations

from bitskip.nn.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()
