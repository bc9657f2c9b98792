"""Cards, and packed models to and from a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_stand_in import Hub, running_hub

from bitskip.errors import FileFormatError, RunError
from bitskip.hub import push_to_hub
from bitskip.program import Program
from bitskip.runtime import load
from bitskip.zoo import card_of, model_path, zoo_names
from bitskip.zoo.model_card import file_card, zoo_card

NAME = "edge-m4-w1"
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as served:
        yield served


@pytest.fixture
def shell(hub: Hub, tmp_path: Path) -> Shell:
    """Run code or a command in its own process: huggingface_hub reads its settings when imported."""
    pytest.importorskip("huggingface_hub")

    def run(*words: str, code: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": hub.token,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        command = ["-c", code] if code else ["-m", "bitskip", "zoo", *words]
        return subprocess.run(
            [sys.executable, *command], env=environment | changes, cwd=tmp_path, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def _front(text: str) -> dict[str, Any]:
    begin, front, _ = text.split("---\n", 2)
    assert begin == ""
    values = yaml.safe_load(front)
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("name", zoo_names())
def test_the_card_says_what_the_zoo_knows(name: str) -> None:
    card, text = card_of(name), zoo_card(card_of(name))
    front = _front(text)
    assert (front["license"], front["library_name"]) == ("apache-2.0", "bitskip")
    assert front["pipeline_tag"] == "image-classification"
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == card.test_accuracy
    assert (result["dataset"]["name"], result["dataset"]["split"]) == (card.data, "test")
    for said in (f"{card.file_bytes:,} bytes", card.sha256, card.command, f"{card.test_accuracy:.2%}"):
        assert said in text


def test_the_hub_s_own_reader_takes_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(zoo_card(card_of(NAME)))
    result = read.data.eval_results[0]
    assert (result.metric_type, result.metric_value) == ("accuracy", card_of(NAME).test_accuracy)
    assert result.dataset_type == "uoft-cs/cifar10"


def test_a_file_without_a_card_claims_no_accuracy() -> None:
    text = file_card(Program.load(model_path(NAME)), "mine.bitskip", 12_345)
    assert "model-index" not in _front(text)
    assert "12,345 bytes" in text
    assert "does not say how it was trained" in text


def test_push_and_pull_give_the_same_file(hub: Hub, shell: Shell, tmp_path: Path) -> None:
    code = f"""
import sys, numpy
from bitskip.hub import fetch_from_hub, load_from_hub, push_to_hub
from bitskip.zoo import model_path
print(push_to_hub("{NAME}", "me/net"))
print(fetch_from_hub("me/net").read_bytes() == model_path("{NAME}").read_bytes())
push_to_hub("{NAME}", "me/net", card="my own words")
push_to_hub(model_path("{NAME}"), "me/net")
print(load_from_hub("me/net").predict(numpy.zeros((1, 32, 32, 3), numpy.uint8)).tolist())
print("torch" in sys.modules)
"""
    hub.repositories["me/net"] = {}
    end = shell(code=code)
    assert end.returncode == 0, end.stderr
    logits = load(model_path(NAME)).predict(np.zeros((1, 32, 32, 3), np.uint8)).tolist()
    address = f"{hub.address}/me/net/commit/{'0' * 40}"
    assert end.stdout.splitlines() == [address, "True", str(logits), "False"]
    files = hub.repositories["me/net"]
    assert files[f"{NAME}.bitskip"] == model_path(NAME).read_bytes()
    assert files["README.md"] == b"my own words"  # kept by the last push, which brought none
    kept = shell("pull", "me/net", f"{NAME}.bitskip", "-o", "kept.bitskip", HF_HUB_OFFLINE="1")
    assert kept.returncode == 0, kept.stderr
    assert (tmp_path / "kept.bitskip").read_bytes() == model_path(NAME).read_bytes()


def test_a_pushed_card_names_its_repository(hub: Hub, shell: Shell) -> None:
    pushed = shell("push", NAME, "me/new")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{hub.address}/me/new/commit/{'0' * 40}"
    assert 'load_from_hub("me/new"' in hub.repositories["me/new"]["README.md"].decode()


def test_a_repository_that_does_not_fit_is_named(hub: Hub, shell: Shell, tmp_path: Path) -> None:
    hub.repositories["me/none"] = {"README.md": b""}
    hub.repositories["me/two"] = {"a.bitskip": b"x", "b.bitskip": b"y"}
    cases: list[tuple[tuple[str, str | None, str | None], str]] = [
        (("me/nothing", None, None), f"there is no repository 'me/nothing' at {hub.address}"),
        (("a/b/c", None, None), "'a/b/c' is not the name of a repository; expected USER/NAME"),
        (("me/none", None, None), "repository 'me/none' has no file *.bitskip"),
        (("me/two", None, None), "has 2 packed files; name one of a.bitskip, b.bitskip"),
        (("me/two", "c.bitskip", None), "repository 'me/two' has no file 'c.bitskip'"),
        (("me/two", "a.bitskip", "old"), "repository 'me/two' has no revision 'old'"),
        (("me/two", "a.bitskip", None), "a.bitskip is not a sound .bitskip file"),
    ]
    code = f"""
from bitskip.errors import BitskipError
from bitskip.hub import load_from_hub
for repository, filename, revision in {[words for words, _ in cases]!r}:
    try:
        load_from_hub(repository, filename, revision=revision)
    except BitskipError as error:
        print(error)
"""
    end = shell(code=code)
    assert end.returncode == 0, end.stderr
    lines = end.stdout.splitlines()
    assert len(lines) == len(cases)
    for line, (_, said) in zip(lines, cases, strict=True):
        assert said in line
    refused = shell("pull", "me/two", "a.bitskip")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.glob("*.bitskip")] == []


def test_without_a_network_or_leave_a_sentence_says_so(hub: Hub, shell: Shell) -> None:
    offline = shell("pull", "me/far", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2, offline.stderr
    assert "cannot reach" in offline.stderr
    assert offline.stderr.count("\n") == 1
    refused = shell("push", NAME, "me/other", HF_TOKEN="wrong")
    assert refused.returncode == 2
    assert "no leave to write to 'me/other': set HF_TOKEN" in refused.stderr


@pytest.mark.slow  # huggingface_hub tries five times
def test_a_hub_that_does_not_answer_is_named(shell: Shell) -> None:
    end = shell("pull", "me/far", HF_ENDPOINT="http://127.0.0.1:9")
    assert end.returncode == 2, end.stderr
    assert end.stderr.splitlines()[-1].startswith(
        "bitskip: error: cannot reach http://127.0.0.1:9 for 'me/far'"
    )


def test_without_the_extra_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"push_to_hub needs huggingface_hub, of .* `hub`, .*pip install"):
        push_to_hub(NAME, "me/net")


def test_only_packed_models_are_pushed(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(FileFormatError, match=r"is not a packed model; expected a file \*\.bitskip"):
        push_to_hub("edge-m4", "me/net")
    broken = tmp_path / "broken.bitskip"
    broken.write_bytes(b"PK")
    with pytest.raises(FileFormatError):
        push_to_hub(broken, "me/net")
