"""The documentation: generated parts are current, what it shows runs, the site builds without a warning."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bitskip.cost import cost_of
from bitskip.spec import NetworkSpec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _tool(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_spec_page_is_what_the_dataclass_says() -> None:
    tool = _tool("spec_page")
    text = (DOCS / "spec.md").read_text(encoding="utf-8")
    assert tool.page(text) == text, "run tools/spec_page.py"


def test_every_field_of_the_spec_is_explained() -> None:
    said = _tool("spec_page").comments()
    assert [f.name for f in dataclasses.fields(NetworkSpec) if not said.get(f.name)] == []


def test_the_spec_shown_is_a_network() -> None:
    (text,) = _blocks("spec.md", "json")
    spec = NetworkSpec.from_json(text)
    layers = {layer.name: layer for layer in spec.iter_layers()}
    assert layers["stage2.block1.shortcut.conv"].precision == "fp32"
    assert [block.name for block in spec.iter_blocks() if block.shortcut is None] == ["stage1.block2"]
    convolutions = 3 * 16 * 16 * 9 + 16 * 16 * 9 + 16 * 32 * 9 + 3 * 32 * 32 * 9
    assert cost_of(spec).binary_parameters == convolutions


@pytest.mark.parametrize("page", ["quantizers.md", "running.md", "spec.md"])
def test_python_of_a_page_runs(page: str) -> None:
    code = "\n".join(_blocks(page, "python"))
    end = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert end.returncode == 0, end.stderr


def _commands() -> list[tuple[str, str]]:
    shown = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        code = [*_blocks(path.name, "sh"), *re.findall(r"^    .*$", text, re.MULTILINE)]
        for line in "\n".join(code).splitlines():
            if line.strip().startswith("bitskip "):
                shown.append((path.name, line.strip()))
    return shown


def test_commands_of_all_pages_know_their_options() -> None:
    import typer.main

    from bitskip.cli import app

    group: Any = typer.main.get_command(app)
    unknown = []
    for page, line in _commands():
        words = re.findall(r"--[a-z-]+|[^ ]+", line.partition(" #")[0])[1:]
        command = group
        while words and hasattr(command, "commands"):
            command = command.commands.get(words.pop(0))
        if command is None:
            unknown.append(f"{page}: {line}")
            continue
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words:
            if re.match("--[a-z]", word) and word.partition("=")[0] not in options:
                unknown.append(f"{page}: {word} in {line}")
    assert len(_commands()) > 30
    assert unknown == []


def test_tutorial_shows_what_was_recorded() -> None:
    tool = _tool("tutorial")
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    record = json.loads((DOCS / "tutorial.json").read_text(encoding="utf-8"))
    assert [step["code"] for step in record["steps"]] == [code for _, code in tool.blocks(text)]
    assert tool.page(text, record) == text


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path) -> None:
    steps = _tool("tutorial").run_all(tmp_path)
    accuracy = next(
        re.search(r": ([\d.]+)% of \d+ test pictures", s["output"]) for s in steps if "eval" in s["code"]
    )
    assert accuracy is not None
    assert float(accuracy[1]) > 70
    assert "as the reference" in steps[-1]["output"].splitlines()


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "examples" / "own_pictures.ipynb",
        pytest.param(ROOT / "examples" / "shortcuts.ipynb", marks=pytest.mark.slow),
    ],
    ids=lambda path: path.stem,
)
def test_notebook_runs(path: Path) -> None:
    code = (
        "import sys, nbformat; from nbclient import NotebookClient; "
        "NotebookClient(nbformat.read(sys.argv[1], 4), timeout=600, "
        "resources={'metadata': {'path': sys.argv[2]}}).execute()"
    )
    words = [sys.executable, "-c", code, str(path), str(path.parent)]
    end = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert end.returncode == 0, end.stderr


def test_every_notebook_is_tried() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == {"own_pictures", "shortcuts"}


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    end = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    assert end.returncode == 0, end.stderr
    assert "WARNING" not in end.stderr
    for page in ("index.html", "tutorial/index.html", "commands/index.html", "api/index.html"):
        assert (tmp_path / "site" / page).is_file()
    assert "layer_precision" in (tmp_path / "site" / "spec" / "index.html").read_text(encoding="utf-8")


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    broken = _tool("docs_site").broken_links
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>', encoding="utf-8")
    page = tmp_path / "index.html"
    page.write_text(
        '<a href="other.html#here">x</a><img src="other.html"><a href="#top" id="top">x</a>', "utf-8"
    )
    assert broken(tmp_path) == []
    page.write_text('<a href="other.html#there">x</a><img src="none.png">', encoding="utf-8")
    assert broken(tmp_path) == ["index.html: other.html#there", "index.html: none.png"]
