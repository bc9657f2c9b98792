"""How much each shortcut matters: close one gate alone, re-estimate batch norm, and see what changes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitskip.errors import FileFormatError, PruningError
from bitskip.files import read_json, write_json
from bitskip.nn.batch_norm import inputs_of, keeping_statistics, reestimate_batch_norm
from bitskip.pruning.gates import ShortcutGates
from bitskip.pruning.plan import PlannedShortcut, fingerprint, weights_digest
from bitskip.pruning.shortcut import Shortcut
from bitskip.results.codec import decode

FORMAT_VERSION = 1

# 97.5% quantiles of Student's t for 1 to 30 degrees of freedom (any table of the distribution).
_T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """What closing one shortcut does, the others open, after re-estimating batch norm.

    Changes are means over evaluation batches of (closed - open); each `_ci` is the half width of their 95%
    confidence interval (Student's t over batches), None for fewer than two batches.
    """

    id: str
    loss_change: float  # of the cross-entropy, nats
    loss_ci: float | None
    kl: float  # KL divergence of the outputs, open to closed, nats
    kl_ci: float | None
    accuracy_change: float  # share, -1..1; negative is a drop
    accuracy_ci: float | None


def student_t(degrees: int) -> float:
    """Return the 97.5% quantile of Student's t for that many degrees of freedom."""
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    return 1.96 + 2.4 / degrees  # within 0.003 beyond 30 degrees


@torch.no_grad()
def score_shortcuts(
    model: nn.Module,
    shortcuts: Iterable[Shortcut | PlannedShortcut],
    batches: Iterable[Any],
    *,
    calibration: Iterable[Any] | None = None,
    max_batches: int = 50,
    calibration_batches: int = 50,
    cache: Path | str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, Score]:
    """Score each shortcut of a classifier; the model is left as it is.

    Args:
        model: returns logits (N, classes).
        shortcuts: which to score.
        batches: (pictures, labels) to judge on; iterated once for each shortcut, so no generator.
        calibration: batches for batch norm statistics, e.g. training pictures; `batches` if None.
        max_batches: judge on this many at most.
        calibration_batches: re-estimate on this many at most.
        cache: JSON file; scores in it from the same weights and data are taken over, and each new score is
            written at once, so an interrupted scoring goes on where it stopped.
        progress: called before each shortcut and at the end with how many are done, of how many, and the
            next one's id.

    Raises:
        PruningError: if there are no shortcuts or no batches.
        FileFormatError: if the cache is no scores file.
    """
    wanted = list(shortcuts)
    if not wanted:
        raise PruningError(f"{type(model).__name__} has no shortcuts to score")
    for name, count in (("max_batches", max_batches), ("calibration_batches", calibration_batches)):
        if count < 1:
            raise PruningError(f"{name} is {count}, expected at least 1")
    key = _key(model, batches, max_batches, calibration_batches)
    cache = None if cache is None else Path(cache)
    known = _cached(cache, key)
    gates = ShortcutGates(model, wanted)
    gates.model.eval()
    calibration = batches if calibration is None else calibration
    with keeping_statistics(gates.model):
        # The open network is judged with re-estimated statistics too: only the shortcut differs.
        reestimate_batch_norm(gates.model, calibration, calibration_batches)
        reference = [_outputs(gates.model, batch) for batch in islice(batches, max_batches)]
    if not reference:
        raise PruningError("scoring needs at least one batch; got none")
    for done, entry in enumerate(wanted):
        progress(done, len(wanted), entry.id)
        if entry.id in known:
            continue
        with keeping_statistics(gates.model):
            gates.set(entry.id, 0.0)
            reestimate_batch_norm(gates.model, calibration, calibration_batches)
            pairs = zip(reference, islice(batches, max_batches), strict=True)
            changes = [_changes(before, _outputs(gates.model, batch)) for before, batch in pairs]
            gates.set(entry.id, 1.0)
        known[entry.id] = _summary(entry.id, changes)
        if cache is not None:
            _write(cache, key, known)
    progress(len(wanted), len(wanted), "")
    return {entry.id: known[entry.id] for entry in wanted}


def _outputs(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    logits = model(inputs_of(batch))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise PruningError(
            "scoring needs a classifier that returns logits (N, classes); wrap the model in one"
        )
    return logits.float(), batch[1]


def _changes(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    (old, labels), (new, _) = before, after
    loss = F.cross_entropy(new, labels) - F.cross_entropy(old, labels)
    kl = F.kl_div(F.log_softmax(new, 1), F.log_softmax(old, 1), reduction="batchmean", log_target=True)
    accuracy = (new.argmax(1) == labels).float().mean() - (old.argmax(1) == labels).float().mean()
    return float(loss), float(kl), float(accuracy)


def _summary(name: str, changes: list[tuple[float, float, float]]) -> Score:
    count = len(changes)
    figures: list[tuple[float, float | None]] = []
    for values in zip(*changes, strict=True):
        mean = sum(values) / count
        if count < 2:
            figures.append((mean, None))
            continue
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
        figures.append((mean, student_t(count - 1) * deviation / math.sqrt(count)))
    (loss, loss_ci), (kl, kl_ci), (accuracy, accuracy_ci) = figures
    return Score(name, loss, loss_ci, kl, kl_ci, accuracy, accuracy_ci)


# -- files --------------------------------------------------------------------------------------------


def _key(
    model: nn.Module, batches: Iterable[Any], max_batches: int, calibration_batches: int
) -> dict[str, Any]:
    """Return what scores depend on, as far as it can be told without reading all data."""
    first = next(iter(batches), None)
    data = "none"
    if first is not None:
        data = hashlib.sha256(inputs_of(first).cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return {
        "fingerprint": fingerprint(model),
        "weights": weights_digest(model),
        "first_batch": data,
        "max_batches": max_batches,
        "calibration_batches": calibration_batches,
    }


def _write(path: Path, key: dict[str, Any], scores: Mapping[str, Score]) -> None:
    rows = [dataclasses.asdict(score) for score in scores.values()]
    write_json(path, {"bitskip_shortcut_scores": FORMAT_VERSION, "key": key, "scores": rows})


def write_scores(path: Path, model: nn.Module, scores: Mapping[str, Score]) -> None:
    """Write scores of `model` that something else than `score_shortcuts` measured, for `load_scores`."""
    _write(path, {"fingerprint": fingerprint(model), "weights": weights_digest(model)}, scores)


def _cached(path: Path | None, key: dict[str, Any]) -> dict[str, Score]:
    if path is None or not path.is_file():
        return {}
    found, scores = _read(path)
    return scores if found == key else {}


def load_scores(path: Path | str, model: nn.Module) -> dict[str, Score]:
    """Return the scores in a file; raises PruningError if they are those of another model."""
    key, scores = _read(Path(path))
    if key.get("fingerprint") != fingerprint(model):
        raise PruningError(
            f"{path} holds scores of another model; score this one with `bitskip shortcuts score`"
        )
    return scores


@dataclass(frozen=True)
class _ScoreFile:
    key: Mapping[str, Any]  # what the scores depend on
    scores: tuple[Score, ...]


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Score]]:
    """Return what the scores in a file depend on, and the scores by shortcut."""
    try:
        found = decode(_ScoreFile, read_json(path), str(path), ("bitskip_shortcut_scores", FORMAT_VERSION))
    except FileFormatError as error:
        raise FileFormatError(
            f"{error}, so it is no file of shortcut scores; delete it or give another path"
        ) from None
    return found.key, {score.id: score for score in found.scores}
