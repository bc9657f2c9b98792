"""What a device installs: numpy, safetensors, msgspec run a packed model; the command says what it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Stands for packages that are not installed.
_WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
_EXTRA = {"typer", "rich", "PIL", "jinja2", "pydantic", "click", "torch", "torchvision", "lightning", "yaml"}


def _run(code: str, missing: set[str], *words: str) -> subprocess.CompletedProcess[str]:
    text = _WITHOUT.format(names=missing) + code
    return subprocess.run(
        [sys.executable, "-c", text, *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_device_needs_three_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [line.partition(">")[0] for line in project["dependencies"]] == ["numpy", "safetensors", "msgspec"]


def test_a_packed_model_runs_with_these() -> None:
    code = """
import numpy, bitskip
from bitskip.zoo import card_of, model_path
model = bitskip.load(model_path("edge-m4-w1"))
logits = model.predict(numpy.zeros((2, 32, 32, 3), numpy.uint8))
print(logits.shape, model.top(numpy.zeros((32, 32, 3), numpy.uint8))[0][0].name, card_of("edge-m4-w1").data)
try:
    model.predict("picture.png")
except bitskip.errors.BitskipError as error:
    print(error)
"""
    end = _run(code, _EXTRA)
    assert end.returncode == 0, end.stderr
    shape, said = end.stdout.splitlines()
    assert shape.startswith("(2, 10) ")
    assert said == "reading pictures needs Pillow; pip install pillow"


def test_the_command_says_what_it_needs() -> None:
    end = _run("from bitskip.__main__ import main; main()", {"typer"}, "models")
    assert end.returncode == 2, end.stderr
    assert end.stderr.startswith("bitskip: error: the command line needs typer, of bitskip's extra `cli`")
    assert end.stderr.count("\n") == 1
