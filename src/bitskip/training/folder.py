"""What a run left behind, read without Lightning: result, weights, their metadata, the trained network.

Torch is loaded with the weights, not before: a result, and what a weights file says of itself, need none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitskip.errors import FileFormatError, RunError, in_one_line
from bitskip.files import read_json
from bitskip.results.codec import Amount, Count, Loss, Share, Text, decode
from bitskip.spec import NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bitskip.data import ImageSet
    from bitskip.nn.baselines import Baseline

EARLIER_RULE = "every fifth by name"  # of choosing test pictures in a folder, in runs that name none


@dataclass(frozen=True)
class RunResult:
    """What a finished run yields. Accuracies are shares, 0..1, of the last epoch's network."""

    model: Text
    seed: Count
    recipe: Text
    epochs: Count
    data: Text
    train_images: Count
    validation_images: Count
    test_images: Count
    test_accuracy: Share
    test_loss: Loss
    seconds: Amount  # of all epochs over all sessions, with their validation, without the final test
    history: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    precision: str = "32-true"  # arithmetic of training, in Lightning's words
    teacher: str | None = None
    warm_start: str | None = None
    start_kept: bool = False  # the network as it started did better on held-out pictures, and was kept
    epochs_before: Count = 0  # epochs that the weights it started from had been trained for
    test_rule: str = ""  # how its test pictures were chosen among all; empty where they came as such
    changes: dict[str, Any] = field(default_factory=dict)  # recipe keys that differ from the named recipe's

    @classmethod
    def load(cls, folder: Path | str) -> RunResult:
        """Read `folder/result.json`."""
        path = Path(folder) / "result.json"
        try:
            return decode(cls, read_json(path), str(path))
        except FileFormatError as error:
            raise FileFormatError(f"{path} is no run's result: {error}") from None


def trained_on_tests(folder: Path, images: ImageSet) -> str:
    """Return one sentence if test pictures of `images` may be among those that a run was trained on, else "".

    So it is after a run by another rule of choosing test pictures from the same folder.
    """
    before = folder / "run.json"
    if not images.test_rule or not before.is_file():
        return ""
    known = read_json(before)
    rule = known.get("test_rule") or EARLIER_RULE
    if known.get("data") != images.name or rule == images.test_rule:
        return ""
    return (
        f"{folder} was trained when other pictures of {images.name} were the test pictures ({rule}), so it "
        "knows some of today's: accuracies of what begins from it come out too high; train it anew"
    )


def weights_file(folder: Path) -> Path:
    """Return the weights file of a finished run, or `folder` itself if it is one; raises RunError if not."""
    path = folder / "weights.safetensors" if folder.is_dir() else folder
    if not path.is_file():
        raise RunError(f"{folder} holds no weights.safetensors; is the run finished?")
    return path


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # safetensors raises an error type of its own for a damaged file
        raise FileFormatError(f"{path} cannot be read: {error}") from None


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a finished run left, by parameter name."""
    from safetensors.torch import load_file

    path = weights_file(folder)
    with _readable(path):
        weights: dict[str, torch.Tensor] = load_file(path)
    return weights


def weights_metadata(folder: Path) -> dict[str, str]:
    """Return what a finished run's weights file says beside the weights: spec, normalisation, classes."""
    from safetensors import safe_open

    path = weights_file(folder)
    with _readable(path), safe_open(path, framework="numpy") as stream:
        return dict(stream.metadata() or {})


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes that a run was trained on, by its `weights_metadata`; nothing if it does not say."""
    text = metadata.get("class_names")
    return tuple(text.split("\n")) if text else ()


def class_names_of(folder: Path) -> tuple[str, ...]:
    """Return the classes that a run was trained on, in the order of its outputs; empty if it names none."""
    return class_names(weights_metadata(folder))


def load_run(folder: Path | str) -> tuple[NetworkSpec | Baseline, nn.Module]:
    """Return the spec (or the baseline) and the trained network, in evaluation mode, of a finished run.

    Raises:
        RunError: if the folder holds no finished run.
        FileFormatError: if its weights do not fit its spec.
    """
    from bitskip.nn import binary_layers, build
    from bitskip.nn.baselines import Baseline

    folder = Path(folder)
    weights = load_weights(folder)
    path = weights_file(folder)
    metadata = weights_metadata(folder)
    if "pruned_from" in metadata:
        raise FileFormatError(
            f"{path} holds a pruned network that no spec describes; `bitskip pack` and `bitskip shortcuts` "
            "take it"
        )
    spec: NetworkSpec | Baseline
    if "baseline" in metadata:
        spec = Baseline.from_json(metadata["baseline"], str(path))
    elif "spec" in metadata:
        spec = NetworkSpec.from_json(metadata["spec"], str(path))
    else:
        raise FileFormatError(f"{path} carries no network spec; was it written by bitskip?")
    model = build(spec) if isinstance(spec, NetworkSpec) else spec.build()
    if metadata.get("standardise") == "true":
        for layer in binary_layers(model).values():
            layer.standardise = True
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise FileFormatError(f"{path} does not fit its spec: {in_one_line(error, 200)}") from None
    return spec, model.eval()
