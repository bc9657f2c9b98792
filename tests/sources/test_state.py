"""State dicts as people keep them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bitskip.errors import FileFormatError
from bitskip.sources.state import classes_in, fit, load_into, read_state

State = dict[str, Tensor]


def network(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


WRAPPERS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, ""),
    "DataParallel": (prefixed("module."), "without 'module.'"),
    "compiled": (prefixed("_orig_mod."), "without '_orig_mod.'"),
    "compiled and parallel": (prefixed("module._orig_mod."), "without 'module.'"),
    "a checkpoint": (lambda state: {"epoch": 3, "state_dict": state}, "taken from 'state_dict'"),
    "a checkpoint of DataParallel": (
        lambda state: {"model": prefixed("module.")(state), "optimizer": {"lr": 0.1}},
        "without 'module.'",
    ),
    "Lightning": (
        lambda state: {"state_dict": prefixed("model.")(state) | {"loss.weight": torch.ones(3)}},
        "without 'model.'",
    ),
    "averaged": (
        lambda state: prefixed("module.")(state) | {"n_averaged": torch.tensor(3)},
        "without 'module.'",
    ),
    "a part of another": (prefixed("encoder.net."), "without 'encoder.net.'"),
    "from before torch counted batches": (
        lambda state: {name: v for name, v in state.items() if "num_batches" not in name},
        "",
    ),
    "under a key of one's own": (lambda state: {"ema": state, "step": 3}, "taken from 'ema'"),
    "a head after dropout": (
        lambda state: {name.replace("3.", "3.1."): value for name, value in state.items()},
        "'3.1' is taken as '3'",
    ),
    "with an auxiliary head": (
        lambda state: state | {"aux_classifier.0.weight": torch.ones(3)},
        "auxiliary",
    ),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrappers_and_prefixes(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, path = network(), tmp_path / "w.pt"
    wrap, note = WRAPPERS[case]
    torch.save(wrap(trained.state_dict()), path)
    model = network()
    fitted = fit(read_state(path), model, path)
    load_into(model, fitted, path)
    assert (note in " ".join(fitted.notes)) if note else not fitted.notes
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_head_says_how_many_classes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(network(3).state_dict(), path)
    ten = network(10)
    fitted = fit(read_state(path), ten, path)
    assert classes_in(fitted, ten, 10) == 3
    assert classes_in(fitted, network(3), 3) == 3
    with pytest.raises(FileFormatError, match=r"'3.weight' is \(3, 4\), expected \(10, 4\); .* --classes"):
        load_into(ten, fitted, path)


def test_a_wider_layer_is_not_a_number_of_classes(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
    path = tmp_path / "w.pt"
    torch.save(other.state_dict(), path)
    assert classes_in(fit(read_state(path), network(), path), network(), 10) is None


def _pickled(path: Path) -> None:
    torch.save(network(), path)


def _cut(path: Path) -> None:
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pickled model": (_pickled, "holds Python objects, not tensors only"),
    "half a file": (_cut, "cannot be read as weights"),
    "a list": (lambda path: torch.save([1, 2], path), "holds a list, expected a state dict"),
    "another network": (
        lambda path: torch.save({"a.weight": torch.ones(2)}, path),
        r"7 tensors are missing|tensors are missing \(0.weight, 0.bias, ...\) and 1 are not the model's",
    ),
    "nothing": (lambda path: None, "there is no weights file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(case: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    make, said = BAD[case]
    make(path)
    with pytest.raises(FileFormatError, match=said):
        fit(read_state(path), network(), path)
