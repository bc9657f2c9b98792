"""How commands end when the world is not as they need it: no output, no home, no package, odd JSON."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitskip.cli.endings import missing_package

Run = Callable[..., Any]

_MAIN = "from bitskip.cli import main; main()"


def shell(words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `bitskip WORDS` through a shell, with its redirections, in an environment with `changes`."""
    command = f'exec "{sys.executable}" -c "{_MAIN}" {words}'
    environment = {key: value for key, value in (os.environ | changes).items() if value}
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60, env=environment
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
@pytest.mark.parametrize("words", ["models", "models --json", "zoo list", "--help", "count resnet14"])
def test_an_output_that_is_closed_or_full(words: str) -> None:
    closed = shell(f"{words} >&-")
    assert (closed.returncode, closed.stdout) == (2, "")
    assert closed.stderr.startswith("bitskip: error: stdout is closed")
    assert closed.stderr.count("\n") == 1
    if Path("/dev/full").exists():
        full = shell(f"{words} >/dev/full")
        assert full.returncode == 2
        assert (
            full.stderr
            == "bitskip: error: cannot write the output: No space left on device; send it somewhere else\n"
        )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
def test_a_reader_that_leaves_and_a_closed_stderr() -> None:
    ran = shell("models --json | head -1")
    assert (ran.stdout, ran.stderr) == ("[\n", "")
    ran = shell("count nothing 2>&-")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="homes are found otherwise")
def test_without_a_home(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    code = "import os, pwd; os.environ.pop('HOME', None); pwd.getpwuid = {}.__getitem__; "
    code += "import sys; sys.argv = ['bitskip', *sys.argv[1:]]; " + _MAIN
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "BITSKIP_DATA")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True, text=True, check=False, timeout=60, env=environment,
        )  # fmt: skip

    ran = run("run", "resnet14-binary-all-x0.25-int8", str(tmp_path / "a.png"))
    assert (ran.returncode, ran.stderr) == (0, "")
    ran = run("eval", "resnet14-binary-all-x0.25-int8", "--limit", "10", "--json")
    assert ran.returncode == 0
    assert "there is no home folder to keep CIFAR-10 in; set $XDG_CACHE_HOME" in ran.stderr
    assert json.loads(ran.stdout)["data"].startswith("bundled mini set")
    ran = run("eval", "resnet14-binary-all-x0.25-int8", "--data", "~/photos")
    assert (ran.returncode, "home folder in '~/photos' is not known" in ran.stderr) == (2, True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_with_a_byte_order_mark(bitskip: Run, tmp_path: Path, encoding: str) -> None:
    from bitskip.spec import named_spec

    path = tmp_path / "spec.json"
    path.write_bytes(named_spec("resnet14-hybrid-none").to_json().encode(encoding))
    assert path.read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16)) == (encoding != "utf-8")
    given = json.loads(bitskip("count", str(path), "--json").out)
    assert (
        given["parameters"]
        == json.loads(bitskip("count", "resnet14-hybrid-none", "--json").out)["parameters"]
    )


# What each command is given, and the package that it cannot do without.
NEED = {
    "train": (("train", "resnet14-hybrid-none", "--data", "mini"), "torch"),
    "pack": (("pack", "runs/nothing"), "torch"),
    "count": (("count", "torchvision:resnet18"), "torch"),
    "shortcuts": (("shortcuts", "list", "torchvision:resnet18"), "torch"),
    "ablate": (("ablate", "resnet14-hybrid-none", "--out", "a", "--data", "mini"), "torch"),
    "study": (("study", "--data", "mini"), "torch"),
}


@pytest.mark.parametrize("command", NEED)
def test_a_missing_extra_is_one_sentence(command: str, tmp_path: Path) -> None:
    words, package = NEED[command]
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['bitskip', *sys.argv[1:]]; " + _MAIN
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("bitskip: error: ")
    assert ran.stderr.count("\n") == 1
    assert 'pip install "torch>=' in ran.stderr
    assert "bitskip[" not in ran.stderr  # which pip finds only where bitskip is on an index


def test_drawing_a_png_without_matplotlib(
    bitskip: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = bitskip("draw", "resnet14-hybrid-none", "-o", str(tmp_path / "a.png"))
    assert (ran.code, ran.err.endswith("; pip install matplotlib\n")) == (2, True)


def test_which_packages_are_named() -> None:
    assert "of bitskip's extra `train`" in str(
        missing_package(ModuleNotFoundError(name="yaml.x"), "bitskip train")
    )
    assert "pyyaml" in str(missing_package(ModuleNotFoundError(name="yaml"), "bitskip train"))
    assert missing_package(ModuleNotFoundError(name="timm"), "bitskip pack").endswith(
        'pip install "timm>=1.0"'
    )  # type: ignore[union-attr]
    assert missing_package(ModuleNotFoundError(name="bitskip.nothing"), "bitskip") is None  # a bug: traceback


def test_names_that_the_terminal_cannot_show() -> None:
    code = (
        "from bitskip.cli.endings import check_streams; from bitskip.terminal import print_table; "
        "check_streams(); print_table('T', ['name'], [['\u72ac']])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (ran.returncode, ran.stdout.split()[-1]) == (0, b"\\u72ac")


@pytest.mark.parametrize("word", ["''", "-", "https://example.org/cat.jpg"])
def test_what_is_no_file_is_told_so(word: str) -> None:
    ran = shell(f"run edge-m4-w1 {word}")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "expected a file or a folder" in ran.stderr


def test_ctrl_c_while_the_command_is_loading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bitskip.__main__ import main as command

    class Interrupting:
        def find_spec(self, name: str, *further: object) -> None:
            if name == "bitskip.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "bitskip.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        command()
    assert (end.value.code, capsys.readouterr().err) == (130, "bitskip: interrupted\n")
