"""Specs of networks by name or by file; what a spec is stands in `bitskip.network_spec`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitskip.errors import SpecError, nearest
from bitskip.files import read_text
from bitskip.network_spec import (
    PRECISIONS,
    SHORTCUT_POLICIES,
    WEIGHT_SCALES,
    BlockSpec,
    LayerSpec,
    NetworkSpec,
)

__all__ = [
    "PAPER_VARIANTS",
    "PRECISIONS",
    "SHORTCUT_POLICIES",
    "WEIGHT_SCALES",
    "BlockSpec",
    "LayerSpec",
    "NetworkSpec",
    "named_models",
    "named_spec",
    "resolve_spec",
]

PRECISION_POLICIES = ("full", "hybrid", "binary", "w1a1")


@dataclass(frozen=True)
class _Base:
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_width: int
    style: str = "standard"
    block: str = "basic"
    stem: str = "cifar"
    classes: int = 10
    input_size: int = 32


def _imagenet(blocks: tuple[int, ...], block: str) -> _Base:
    return _Base((64, 128, 256, 512), blocks, 64, block=block, stem="imagenet", classes=1000, input_size=224)


def _cifar(depth: int) -> _Base:
    per_stage = (depth - 2) // 6  # He et al. 2016, section 4.2: depth = 6n + 2
    return _Base((16, 32, 64), (per_stage,) * 3, 16)


_BASES: dict[str, _Base] = {
    "resnet14": _Base((64, 128, 256), (2, 2, 2), 64, style="paper"),
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    "resnet18": _imagenet((2, 2, 2, 2), "basic"),
    "resnet34": _imagenet((3, 4, 6, 3), "basic"),
    "resnet50": _imagenet((3, 4, 6, 3), "bottleneck"),
    "resnet101": _imagenet((3, 4, 23, 3), "bottleneck"),
}

PAPER_VARIANTS = tuple(
    f"resnet14-{precision}-{policy}"
    for precision in ("full", "hybrid", "binary")
    for policy in SHORTCUT_POLICIES
)


def _stage_policy(inner: Any, outer: Any, stages: int) -> tuple[Any, ...]:
    return tuple(outer if stage in (0, stages - 1) else inner for stage in range(stages))


def _named(base_name: str, precision: str, policy: str) -> NetworkSpec:
    base = _BASES[base_name]
    stages = len(base.widths)
    bits = {
        "full": ("fp32",) * stages,
        "hybrid": _stage_policy("fp32", "w1", stages),
        "binary": ("w1",) * stages,
        "w1a1": ("w1a1",) * stages,
    }[precision]
    kept = {
        "all": (True,) * stages,
        "middle": _stage_policy(True, False, stages),
        "none": (False,) * stages,
    }[policy]
    name = base_name if (precision, policy) == ("full", "all") and base_name != "resnet14" else None
    strong_w1a1: dict[str, Any] = {}
    if precision == "w1a1" and base.block == "basic":
        # Bi-Real's shortcut around every conv, ReActNet's thresholds and RPReLU, real downsampling.
        strong_w1a1 = {
            "style": "per_conv",
            "projection": "pool_conv",
            "activation": "rprelu",
            "before_binary": "threshold",
        }
        name = f"{base_name}-w1a1" if policy == "all" else None
    fields: dict[str, Any] = dataclasses.asdict(base) | strong_w1a1
    return NetworkSpec(
        name=name or f"{base_name}-{precision}-{policy}", precision=bits, shortcuts=kept, **fields
    )


def named_models() -> tuple[str, ...]:
    """Return the names that `named_spec` lists; the policies also combine with every other ResNet."""
    plain = tuple(name for name in _BASES if name != "resnet14")
    return (*PAPER_VARIANTS, "resnet14-w1a1", *plain)


def named_spec(name: str) -> NetworkSpec:
    """Return the spec of a named model.

    `<resnet>-<full|hybrid|binary|w1a1>-<all|middle|none>`, with an optional `-x<width factor>` and then an
    optional `-<input size>px` at the end; `<resnet>` alone is full precision with all shortcuts. In `hybrid`
    the first and last stage are 1-bit; in `middle` the first and last stage have no shortcuts.

    Raises:
        SpecError: for an unknown name, naming the nearest one.
    """
    head, _, size = name.rpartition("-")
    if size.endswith("px") and size[:-2].isdecimal():
        return named_spec(head).resized(int(size[:-2]))
    head, factor, width = name.rpartition("-x")
    if factor:
        try:
            scale = float(width)
        except ValueError:
            raise SpecError(
                f"model '{name}': '-x{width}' is not a width factor, expected e.g. -x0.5"
            ) from None
        return named_spec(head).scaled(scale)
    parts = name.split("-")
    if parts[0] in _BASES:
        match parts[1:]:
            case []:
                return _named(parts[0], "full", "all")
            case ["w1a1"]:
                return _named(parts[0], "w1a1", "all")
            case [precision, policy] if precision in PRECISION_POLICIES and policy in SHORTCUT_POLICIES:
                return _named(parts[0], precision, policy)
    raise SpecError(f"unknown model '{name}'{nearest(name, named_models())} (`bitskip models` lists them)")


def resolve_spec(model: str) -> NetworkSpec:
    """Return the spec for a name or for the path of a spec's JSON file.

    Raises:
        SpecError: if it is neither, or the file does not hold a valid spec.
    """
    path = Path(model)
    if path.suffix == ".json" or path.is_file():
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"cannot read spec '{model}': {error}") from None
        return NetworkSpec.from_json(text, source=model)
    return named_spec(model)
