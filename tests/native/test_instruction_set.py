"""The instruction set of CONTRIBUTING.md, built as it stands there: a folder and a line are all it takes."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bitskip import _native

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_folder_and_no_bit_or_number_twice() -> None:
    names, numbers, bits = zip(*_native.instruction_sets(), strict=True)
    folders = [folder for folder in (ROOT / "native" / "isa").iterdir() if any(folder.glob("*.c"))]
    assert sorted(names) == sorted(folder.name for folder in folders)
    assert all((folder / "isa.cmake").exists() and (folder / "kernels.inc").exists() for folder in folders)
    families = [number for number in numbers if number != -1]
    assert len(set(families)) == len(families)
    assert not {0, 99} & set(families)  # scalar and best
    assert len(set(bits)) == len(bits)
    assert all(bit.bit_count() == 1 and bit < 1 << 24 for bit in bits)  # above are methods


def run(*words: str | Path) -> str:
    end = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=600
    )
    assert end.returncode == 0, end.stdout[-1000:] + end.stderr[-2000:]
    return end.stdout


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The C sources with the example's folder and line, without the other sets of x86, which take minutes."""
    shutil.copytree(ROOT / "native", tmp_path / "native")
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:c|cmake)\n(.*?)```", text.split("## Example: an instruction set")[1], re.S)
    *files, line = blocks
    folder = tmp_path / "native" / "isa" / "sse41"
    folder.mkdir()
    for name, content in zip(("isa.cmake", "kernels.inc", "conv_i8_i8.c"), files, strict=True):
        (folder / name).write_text(content)
    table = tmp_path / "native" / "include" / "bitskip_isas.inc"
    others = re.compile(r"^BSK_\w+\(x86, .*\n", re.M)
    lines, times = others.subn("", table.read_text())
    assert times >= 6
    table.write_text(lines.replace("#undef BSK_FAMILY", line + "#undef BSK_FAMILY"))
    return tmp_path


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the example is for x86-64")
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_folder_and_a_line_add_an_instruction_set(sources: Path, cmake: str) -> None:
    build = sources / "build"
    run(
        cmake, "-S", sources, "-B", build, "-DBITSKIP_PYTHON=OFF", "-DBITSKIP_TESTS=ON", "-DBITSKIP_WERROR=ON"
    )
    run(cmake, "--build", build, "-j2", "--target", "bitskip_parity")
    out = run(build / "bitskip_parity", "40", "4")
    compared = dict(re.findall(r"^(conv_\w+): (\d+)$", out, re.M))
    assert [name for name in compared if not name.endswith("_scalar")] == ["conv_i8_i8_sse41"]
    assert int(compared["conv_i8_i8_sse41"]) >= 3
    features = re.search(r", 0 differences, processor features 0x([0-9a-f]+)$", out.strip())
    assert features, out
    assert int(features[1], 16) & 0xFFFFFF == 1 << 9  # of the example's line
