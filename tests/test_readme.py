"""What the README shows works: its Python runs, its commands exist, its files are there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[list[str]]:
    lines = "\n".join(_blocks("sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("bitskip ")]


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_runs(code: str) -> None:
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert "593,226 effective parameters" in end.stdout


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_commands_know_their_options(words: list[str]) -> None:
    end = subprocess.run(
        [sys.executable, "-m", "bitskip", words[1], "--help"], capture_output=True, text=True, timeout=120
    )
    assert end.returncode == 0, end.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in end.stdout


QUICK = [words for words in _commands() if words[1] in ("models", "count", "draw")]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_quick_commands_run(words: list[str], tmp_path: Path) -> None:
    end = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert end.returncode == 0, end.stderr


def test_the_first_command_prints_what_is_shown() -> None:
    words = next(words for words in _commands() if words[1] == "run")
    command = [sys.executable, "-m", *words]
    end = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert end.returncode == 0, end.stderr
    shown = next(line.strip() for line in README.splitlines() if line.startswith("    examples/"))
    assert end.stdout.startswith(shown)


def test_the_first_sentence_is_true_of_the_first_command() -> None:
    name = next(words for words in _commands() if words[1] == "run")[2]
    card = json.loads((ROOT / "src/bitskip/zoo/models" / f"{name}.json").read_text(encoding="utf-8"))
    share, size = f"{100 * card['test_accuracy']:.0f} %", f"{card['file_bytes'] / 1024:.0f} KiB"
    assert f"{share} of CIFAR-10 in {size}" in README


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_minutes_of_the_study_are_those_of_its_results() -> None:
    results = json.loads((ROOT / "results" / "quick" / "results.json").read_text(encoding="utf-8"))
    cores = results["study"]["machine"]["cores"]
    minutes = round(sum(row["seconds"] for row in results["rows"]) / 60 / cores)  # one network a core
    arithmetic = {"32-true": "float32"}[results["rows"][0]["extra"]["precision"]]
    assert f"(trained in {minutes} minutes on {({2: 'two'})[cores]} cores in {arithmetic})" in README


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
