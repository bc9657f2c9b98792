"""What the tool finds in a whole model library, as JSON and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitskip.errors import PruningError
from bitskip.nn.batch_norm import reestimate_batch_norm
from bitskip.pruning.choose import plan_shortcuts
from bitskip.pruning.find import analyse
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.remove import settle
from bitskip.pruning.shortcut import KINDS

LARGEST_PROVEN = 100_000_000  # parameters; beyond, structure alone is read, on torch's meta device


def library_versions() -> dict[str, str]:
    """Return the versions that a coverage depends on."""
    from importlib.metadata import version

    return {"torch": torch.__version__, "torchvision": version("torchvision")}


def torchvision_classifiers() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from torchvision import models

    return sorted(models.list_models(module=models))


@torch.no_grad()
def prove_removal(model: nn.Module, pictures: Tensor) -> dict[str, float]:
    """Remove every shortcut and compare with closed gates, on batch norm statistics of `pictures`.

    Returns the largest absolute differences of the outputs, relative to their largest value: `removed`
    (closed gates to removal; must be near 0), `open` (original to open gates; must be near 0) and `effect`
    (original to removal; a removal without effect would prove nothing).
    """
    reestimate_batch_norm(model, [pictures], 1)
    model.eval()
    analysis = analyse(model, pictures)
    plan = plan_shortcuts(model, analysis, "none", shorten=False)
    gates = ShortcutGates(model, plan)
    original, opened = model(pictures), gates.model(pictures)
    for name in plan.closed:
        gates.set(name, 0.0)
    closed = gates.model(pictures)
    removed = settle(model, gates)(pictures)

    def difference(a: Tensor, b: Tensor, scale: Tensor) -> float:
        return float((a - b).abs().max() / scale.abs().max().clamp_min(1e-12))

    return {
        "removed": difference(closed, removed, closed),
        "open": difference(original, opened, original),
        "effect": difference(original, removed, original),
    }


def cover(names: Iterable[str], progress: Callable[[str], None] = lambda name: None) -> list[dict[str, Any]]:
    """Analyse torchvision classifiers; returns one JSON-serialisable row each.

    Sizes are read at the model's usual input, on torch's meta device; removal is proven on the CPU at a
    smaller input where the model takes one. Steps that fail say why in `note`.
    """
    rows = []
    for name in names:
        progress(name)
        rows.append(_row(name))
    return rows


def _row(name: str) -> dict[str, Any]:
    size = 299 if name == "inception_v3" else 224
    # Made on the CPU first: some constructors compute with tensors.
    model = _create(name).eval().to("meta")
    example = torch.empty(1, 3, size, size, device="meta")
    row: dict[str, Any] = {"model": name, "input_size": size, "shortcuts": None, "note": ""}
    parameters = sum(p.numel() for p in model.parameters())
    try:
        analysis = analyse(model, example)
    except PruningError as error:
        return row | {"note": str(error)}
    ids = [shortcut.id for shortcut in analysis.shortcuts]
    kinds = Counter(shortcut.kind for shortcut in analysis.shortcuts)
    row |= {
        "shortcuts": len(ids),
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "shortenable": sum(shortcut.shortenable for shortcut in analysis.shortcuts),
        "parameters": parameters,
        "projection_parameters": sum(shortcut.parameters for shortcut in analysis.shortcuts),
        "note": "; ".join(analysis.notes),
    }
    if analysis.activations is not None:
        activations = analysis.activations
        for executor in ("naive", "in_place"):
            before, after = activations.peak((), executor), activations.peak(ids, executor)
            row[f"peak_{executor}"] = [before.size, after.size]
            row[f"peak_{executor}_at"] = after.op
        row["traffic"] = [activations.traffic(), activations.traffic(ids)]
    if ids and parameters <= LARGEST_PROVEN:
        row["proof"] = _prove(name, size)
    return row


def _create(name: str) -> nn.Module:
    from bitskip.nn.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from torchvision import models

    special = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"init_weights": False, "aux_logits": False} if special else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _prove(name: str, usual: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = _create(name).eval()
    for head in model.modules():  # some heads start at zero, which would hide every difference
        if isinstance(head, nn.Linear) and not bool(head.weight.any()):
            nn.init.normal_(head.weight, std=0.02)
    for size in (64, usual):
        pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            return {"input_size": size} | prove_removal(model, pictures)
        except Exception:  # transformers take one size only
            if size == usual:
                raise
    raise AssertionError(name)


def coverage_page(values: dict[str, Any]) -> str:
    """Return the Markdown page of a coverage JSON: `{"versions": {...}, "rows": [...]}`."""
    lines = [
        "# Shortcuts in torchvision's classifiers",
        "",
        "Generated by `bitskip shortcuts coverage` from the JSON beside it; "
        + ", ".join(f"{name} {version}" for name, version in values["versions"].items())
        + ".",
        "",
        "Shortcuts are identity + projection + pooled projection. Peaks are activations of one picture in",
        "float32, in KiB, with all shortcuts and with none, for an executor that writes new buffers (naive)",
        "and one that adds in place; `=` means that the peak does not move. Traffic is what removing all",
        "shortcuts changes in bytes of activations read and written. Proof is the largest difference between",
        "closed gates and removal, relative to the largest output; `-`: nothing to remove, or above 100",
        "million parameters, where only the structure is read.",
        "",
        "| model | shortcuts | parameters gone | peak, naive | peak, in place | traffic | proof |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in values["rows"]]
    noted = [row for row in values["rows"] if row["note"]]
    if noted:
        lines += ["", "## Notes", "", *(f"- {row['model']}: {row['note']}" for row in noted)]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    if row["shortcuts"] is None:
        return f"| {row['model']} | ? | ? | ? | ? | ? | - |"
    kinds = row["kinds"]
    count = f"{row['shortcuts']} = " + " + ".join(str(kinds[kind]) for kind in KINDS)
    cells = [row["model"], count if row["shortcuts"] else "none", f"{row['projection_parameters']:,}"]
    for key in ("peak_naive", "peak_in_place"):
        cells.append(_change(row[key]) if key in row else "?")
    if "traffic" in row:
        before, after = row["traffic"]
        cells.append(f"{after / before - 1:+.1%}" if after != before else "=")
    else:
        cells.append("?")
    cells.append(f"{row['proof']['removed']:.1e}" if "proof" in row else "-")
    return "| " + " | ".join(cells) + " |"


def _change(pair: list[int]) -> str:
    before, after = (size / 1024 for size in pair)
    return (
        f"{before:,.0f} ="
        if before == after
        else f"{before:,.0f} to {after:,.0f} ({after / before - 1:+.0%})"
    )
