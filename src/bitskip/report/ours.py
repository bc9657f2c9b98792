"""Our networks for the page of accuracy against size: from cards of the zoo, runs and studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitskip.cost import cost_of
from bitskip.errors import FileFormatError, SpecError
from bitskip.files import read_json
from bitskip.results.study import ResultRow, Results
from bitskip.runtime.accuracy import wilson_interval
from bitskip.spec import NetworkSpec, named_spec
from bitskip.zoo import Card

# What a card and `Ours` both have, under one name.
_OF_A_CARD = (
    *("name", "model", "recipe", "epochs", "seed", "data", "test_images", "trained_accuracy", "interval"),
    *("effective_parameters", "activations", "file_bytes", "epochs_before", "remark"),
)


@dataclass(frozen=True)
class Ours:
    """One of our networks: a model of the zoo or a finished run. Accuracies are shares, 0 to 1."""

    name: str
    model: str  # the network's name, with its width
    recipe: str
    epochs: int
    seed: int
    data: str
    test_images: int
    accuracy: float  # of the packed file, else of the trained network
    trained_accuracy: float  # of the trained network after the last epoch
    interval: tuple[float, float]  # 95 % interval of `accuracy`
    effective_parameters: float
    bits: str  # fp32, w1 or w1a1: the fewest that a layer has
    activations: str = "fp32"  # what the file computes in
    file_bytes: int | None = None  # None: not packed
    tta_accuracy: float | None = None
    tta_interval: tuple[float, float] | None = None
    treatment: str = ""  # how its training differs from the recipe alone: teacher, start, keys set otherwise
    epochs_before: int = 0  # epochs that the weights it started from had been trained for
    remark: str = ""  # what a reader of its accuracy should know

    @property
    def on_whole_test_set(self) -> bool:
        """Whether its accuracy is of the whole of CIFAR-10's test pictures, and so comparable."""
        return (self.data, self.test_images) == ("CIFAR-10", 10_000)


def ours_of_card(card: Card) -> Ours:
    """Return what the card of a zoo model says."""
    tta = card.tta or {}
    return Ours(
        **{name: getattr(card, name) for name in _OF_A_CARD},
        accuracy=card.test_accuracy,
        bits=_bits_of_card(card),
        tta_accuracy=tta.get("accuracy"),
        tta_interval=tuple(tta["interval_95"]) if tta else None,
        treatment=_treatment(dataclasses.asdict(card)),
    )


def _bits_of_card(card: Card) -> str:
    try:
        return _bits(named_spec(card.model))
    except SpecError:  # trained from a spec file, whose name says nothing
        return "w1" if card.binary_parameters else "fp32"


def ours_of_file(path: Path) -> list[Ours]:
    """Return the network of a card, the runs in a study's results file, or the one of a run's `result.json`.

    Raises:
        FileFormatError: if it is none of these, or a run's folder lacks its `spec.json`.
    """
    values = read_json(path)
    if isinstance(values, dict) and "bitskip_card" in values:
        return [ours_of_card(Card.from_dict(values, str(path)))]
    if isinstance(values, dict) and "bitskip_results" in values:
        results = Results.from_dict(values, str(path))
        return [_of_row(row, results) for row in results.rows]
    try:
        spec = NetworkSpec.from_dict(read_json(path.parent / "spec.json"), str(path.parent / "spec.json"))
        own = {key: values[key] for key in ("recipe", "epochs", "seed", "data", "test_images")}
        own |= {"treatment": _treatment(values), "epochs_before": int(values.get("epochs_before", 0))}
        return [_trained(spec, spec.name, float(values["test_accuracy"]), **own)]
    except (KeyError, TypeError, ValueError):
        raise FileFormatError(
            f"{path} is neither a study's results file nor a run's result.json; name one of the two"
        ) from None


def _of_row(row: ResultRow, results: Results) -> Ours:
    spec = named_spec(row.model).scaled(row.width)
    name = spec.name
    if row.estimator != "ste_sign" or row.l2 is not None:
        name += f" ({row.estimator}" + ("" if row.l2 is None else f", L2 {row.l2:g}") + ")"
    own = {key: getattr(row, key) for key in ("recipe", "epochs", "seed")}
    data = results.study.data
    return _trained(spec, name, row.test_accuracy, data=data.name, test_images=data.test_images, **own)


def _trained(spec: NetworkSpec, name: str, accuracy: float, **own: Any) -> Ours:
    cost = cost_of(spec)
    return Ours(
        name=name,
        model=name,
        accuracy=accuracy,
        trained_accuracy=accuracy,
        interval=wilson_interval(round(accuracy * own["test_images"]), own["test_images"]),
        effective_parameters=cost.effective_parameters or 0,
        bits=_bits(spec),
        **own,
    )


def _treatment(values: Mapping[str, Any]) -> str:
    """Say how a run (its card or `result.json`) differs from its recipe alone."""
    parts = [f"{key}={value}" for key, value in (values.get("changes") or {}).items()]
    if values.get("warm_start"):
        parts.insert(0, f"from {values['warm_start']}")
    if values.get("teacher"):
        parts.insert(0, f"teacher {values['teacher']}")
    return ", ".join(parts)


def _bits(spec: NetworkSpec) -> str:
    found = {layer.precision for layer in spec.iter_layers()}
    return next((bits for bits in ("w1a1", "w1") if bits in found), "fp32")
