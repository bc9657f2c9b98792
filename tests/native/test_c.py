"""The native library without Python: one cc command, C99, C++, an installed copy, and sanitizers."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bitskip import _native
from bitskip.data import load_mini
from bitskip.runtime import load
from bitskip.zoo import model_path
from programs import every_op

ROOT = Path(__file__).parents[2]
MODEL = "resnet14-binary-all-x0.25-int8"
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, cwd=cwd, check=False,
        timeout=600, env={**os.environ, **env},
    )  # fmt: skip


def write_ppm(path: Path, picture: np.ndarray) -> Path:
    height, width, _ = picture.shape
    path.write_bytes(f"P6 {width} {height} 255\n".encode() + picture.tobytes())
    return path


def test_the_stub_names_what_the_extension_has() -> None:
    stub = ast.parse((ROOT / "src" / "bitskip" / "_native.pyi").read_text())
    (engine,) = (node for node in stub.body if isinstance(node, ast.ClassDef))

    def named(nodes: list[ast.stmt]) -> set[str]:
        return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}

    def public(value: object) -> set[str]:
        return {name for name in dir(value) if not name.startswith("_")}

    assert named(stub.body) == public(_native)
    assert named(engine.body) - {"__init__"} == public(_native.Engine)


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by the command in its README."""
    text = (ROOT / "examples" / "c" / "README.md").read_text()
    (command,) = re.findall(r"```sh\n(cc .*)\n```", text)
    out = tmp_path_factory.mktemp("c") / "classify"
    end = run("sh", "-c", command.replace("-o classify", f"-Werror -Wall -o {out}"))
    assert end.returncode == 0, end.stderr
    return out


@needs_cc
def test_the_example_classifies_as_python_does(classify: Path, tmp_path: Path) -> None:
    model = load(model_path(MODEL))
    pictures = load_mini().test_images[:4]
    for number, picture in enumerate(pictures):
        end = run(classify, model_path(MODEL), write_ppm(tmp_path / f"{number}.ppm", picture))
        assert end.returncode == 0, end.stderr
        index, name, logit = end.stdout.split()
        logits = model.predict(picture[None])[0]
        assert (int(index), name) == (int(logits.argmax()), model.class_names[int(logits.argmax())])
        assert float(logit) == pytest.approx(float(logits.max()), abs=1e-3)


@needs_cc
def test_the_example_says_what_is_wrong(classify: Path, tmp_path: Path) -> None:
    content = model_path(MODEL).read_bytes()
    picture = write_ppm(tmp_path / "p.ppm", np.zeros((32, 32, 3), np.uint8))
    small = write_ppm(tmp_path / "small.ppm", np.zeros((31, 32, 3), np.uint8))
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    for name, bytes_, shown, said in (
        ("cut", content[:-1], picture, "the file is cut off, or followed by other bytes"),
        ("damaged", bytes(damaged), picture, "the checksum does not match"),
        ("empty", b"", picture, "this is not a .bitskip file of format version 2"),
        ("sound", content, small, "the picture is not a binary PPM of the model's size"),
    ):
        (tmp_path / name).write_bytes(bytes_)
        end = run(classify, tmp_path / name, shown)
        assert (end.returncode, end.stderr) == (2, f"classify: {said}\n")


@needs_cc
def test_the_reader_is_c99_and_short_and_its_header_is_c_plus_plus(tmp_path: Path) -> None:
    strict = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Inative/include")
    for name in ("open.c", "program.c"):
        end = run("cc", *strict, "-c", f"native/core/{name}", "-o", tmp_path / "made.o")
        assert end.returncode == 0, end.stderr
    assert len((ROOT / "native" / "core" / "open.c").read_text().splitlines()) <= 400
    if shutil.which("c++"):
        source = tmp_path / "t.cpp"
        source.write_text('#include "bitskip.h"\nint main() { return bsk_cpu_features() > 0; }\n')
        end = run("c++", "-std=c++11", "-Wall", "-Werror", "-Inative/include", "-fsyntax-only", source)
        assert end.returncode == 0, end.stderr


@pytest.mark.slow
@needs_cc
def test_make_install_c_and_pkg_config(tmp_path: Path, cmake: str) -> None:
    prefix = tmp_path / "prefix"
    end = run("make", "install-c", f"PREFIX={prefix}", f"CMAKE={cmake}", f"C_BUILD={tmp_path / 'build'}")
    assert end.returncode == 0, end.stderr[-2000:]
    (folder,) = prefix.glob("lib*/pkgconfig")
    flags = run("pkg-config", "--cflags", "--libs", "bitskip", PKG_CONFIG_PATH=str(folder)).stdout.split()
    out = tmp_path / "classify"
    end = run("cc", "-O2", "examples/c/classify.c", *flags, "-o", out)
    assert end.returncode == 0, end.stderr
    picture = load_mini().test_images[0]
    words = (out, model_path(MODEL), write_ppm(tmp_path / "p.ppm", picture))
    end = run(*words, LD_LIBRARY_PATH=str(folder.parent))
    assert end.returncode == 0, end.stderr
    assert int(end.stdout.split()[0]) == load(model_path(MODEL)).predict(picture[None])[0].argmax()


@pytest.mark.slow
@needs_cc
def test_kernels_and_mutants_under_sanitizers(tmp_path: Path, cmake: str) -> None:
    build = tmp_path / "build"
    options = ("-DBITSKIP_PYTHON=OFF", "-DBITSKIP_TESTS=ON", "-DBITSKIP_SANITIZE=ON", "-DBITSKIP_WERROR=ON")
    for words in ((cmake, "-S", ROOT, "-B", build, *options), (cmake, "--build", build, "-j2")):
        end = run(*words)
        assert end.returncode == 0, end.stdout[-1000:] + end.stderr[-2000:]
    every_op().save(tmp_path / "every.bitskip")
    for words in (
        (build / "bitskip_parity", "100"),
        (build / "bitskip_mutants", "20000", "0", tmp_path / "every.bitskip"),
        (build / "bitskip_mutants", "2000", "0", model_path(MODEL)),
    ):
        end = run(*words)
        assert end.returncode == 0, end.stdout[-1000:] + end.stderr[-2000:]
