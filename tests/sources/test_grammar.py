"""The one word that says which network, told apart and turned into a spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from bitskip.errors import BitskipError, SpecError
from bitskip.program import Program
from bitskip.sources import Kind, parse, spec_of
from bitskip.spec import named_spec
from bitskip.zoo import model_path, zoo_names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.json").write_text(named_spec("resnet14-full-all").to_json())
    (tmp_path / "net.py").write_text("")
    (tmp_path / "run").mkdir()
    spec = named_spec("resnet14-hybrid-none")
    import numpy as np

    save_file({"x": np.zeros(1)}, tmp_path / "run" / "weights.safetensors", {"spec": spec.to_json()})
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("resnet20", Kind.NAMED, "resnet20"),
        ("net.json", Kind.SPEC_FILE, "net"),
        ("run", Kind.RUN, "run"),
        ("run/weights.safetensors", Kind.RUN, "run"),
        ("zoo:a", Kind.ZOO, "a"),
        ("baseline:xnor-nin", Kind.BASELINE, "xnor-nin"),
        ("torchvision:resnet18", Kind.TORCHVISION, "resnet18"),
        ("timm:resnet18.a1_in1k", Kind.TIMM, "resnet18.a1_in1k"),
        ("net.py:Net", Kind.PYTHON, "Net"),
    ],
)
def test_words_are_told_apart(folder: Path, text: str, kind: Kind, name: str) -> None:
    word = parse(text)
    assert (word.kind, word.name) == (kind, name)
    assert word.has_spec == (kind in (Kind.NAMED, Kind.SPEC_FILE, Kind.RUN, Kind.ZOO))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timmm:resnet18", "'timmm:' is not a source of networks; .* did you mean 'timm'"),
        ("timm:", "lacks a name; expected timm:NAME"),
        ("net.py", "expected net.py:CALLABLE"),
        ("net.py:", "does not name what to call"),
        ("no.py:Net", "there is no Python file"),
        ("m.bitskip", "is a packed model"),
        ("runs/none", "there is no run or spec file"),
        ("none.safetensors", "there is no weights file"),
    ],
)
def test_other_words_are_one_sentence(folder: Path, text: str, said: str) -> None:
    with pytest.raises(BitskipError, match=said):
        parse(text)


def test_specs_of_names_files_runs_and_the_zoo(folder: Path) -> None:
    assert spec_of("net.json") == spec_of("resnet14-full-all") == named_spec("resnet14-full-all")
    assert spec_of("run") == spec_of("run/weights.safetensors") == named_spec("resnet14-hybrid-none")
    name = zoo_names()[0]
    assert spec_of(f"zoo:{name}").to_dict() == Program.load(model_path(name)).spec
    assert (spec_of("run", classes=3).classes, spec_of("run", input_size=64).input_size) == (3, 64)


@pytest.mark.parametrize("text", ["torchvision:resnet18", "baseline:xnor-nin", "net.py:Net"])
def test_other_networks_have_no_spec(folder: Path, text: str) -> None:
    with pytest.raises(SpecError, match="is not a network of bitskip's own"):
        spec_of(text)


def test_a_zoo_name_alone_is_pointed_to() -> None:
    name = zoo_names()[0]
    with pytest.raises(SpecError, match=f"its architecture is zoo:{name}"):
        spec_of(name)
