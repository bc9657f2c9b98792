"""Kernels for instruction sets that no machine at hand has, executed by Bochs: AVX-512 and its parts, AMX."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bare_x86 import AVX, EVERY_STATE, SSE, TILES, ZMM, build_board, find_bochs, missing, run_program

from bitskip.backends.native import feature_bits
from bitskip.backends.reference import run_reference
from bitskip.program import Program
from bitskip.zoo import model_path

ROOT = Path(__file__).parents[2]
LOOKUP, WINOGRAD = 1 << 24, 1 << 25  # of native/include/bitskip.h
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the emulated board, and parity and logits as static programs."""
    work = tmp_path_factory.mktemp("x86")
    build_board(work / "board")
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    configure = [cmake, "-S", str(ROOT), "-B", str(work / "c"), "-DBITSKIP_PYTHON=OFF", "-DBITSKIP_TESTS=ON"]
    build = [cmake, "--build", str(work / "c"), "--target", "bitskip_parity", "bitskip_logits"]
    for words in ([*configure, "-DCMAKE_EXE_LINKER_FLAGS=-static -no-pie"], build):
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1800)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return work


def has(model: str) -> bool:
    """Whether this Bochs emulates the processor, AMX included where it has it."""
    done = subprocess.run(
        [str(find_bochs()), "--help", "cpu"], capture_output=True, text=True, check=False, timeout=60
    )
    return model in (done.stdout + done.stderr).split()


def features(names: Iterable[str]) -> int:
    """Return the mask of these instruction sets, with the methods that every build has."""
    return sum(feature_bits()[name] for name in names) | LOOKUP | WINOGRAD


EVERY_KERNEL = 4  # a seed of parity: its first 40 rounds have at least 5 shapes of each type of convolution
KERNELS = {  # what must have run, by name
    "amx": (
        "conv_bits_w1_amx",
        "conv_i8_w1_amx",
        "conv_i8_i8_amx",
        "conv_bits_w1_avx512",
        "conv_f32_w1_avx512",
    ),
    "avx-512 with vnni": (
        "conv_i8_w1_avx512",
        "conv_i8_i8_avx512",
        "conv_bits_w1_avx512",
        "conv_f32_f32_avx512",
    ),
    "avx-512 without vnni": ("conv_f32_w1_avx512", "conv_f32_f32_avx512"),
    "avx-vnni without avx-512": ("conv_i8_w1_avxvnni", "conv_i8_i8_avxvnni"),
}


def parity(built: Path, model: str, state: int, rounds: int, seed: int = 1) -> tuple[int, int, int, str]:
    """Run parity and return comparisons, differences, features and what it printed."""
    if not has(model):
        pytest.skip(f"{find_bochs()} does not emulate {model}")
    done = run_program(
        built / "c" / "bitskip_parity", [str(rounds), str(seed)], built / "board", model=model, state=state,
        seconds=3000,
    )  # fmt: skip
    found = re.search(
        r"(\d+) comparisons, \d+ batches, (\d+) differences, processor features 0x([0-9a-f]+)", done.output
    )
    assert found, done.output
    return int(found[1]), int(found[2]), int(found[3], 16), done.output


AVX2 = ("avx2",)
SERVER = ("avx2", "avx512", "vpopcntdq", "vnni")
PROCESSORS = {  # what is found, of what the processor has, under what the system allows
    "amx": ("sapphire_rapids", EVERY_STATE, (*SERVER, "avxvnni", "amx")),
    "system without tiles": ("sapphire_rapids", EVERY_STATE & ~TILES, (*SERVER, "avxvnni")),
    "system without zmm": ("sapphire_rapids", SSE | AVX | TILES, (*AVX2, "avxvnni")),
    "system without ymm": ("sapphire_rapids", SSE, ()),
    "avx-512 with vnni": ("tigerlake", EVERY_STATE, SERVER),
    "avx-512 without vnni": ("corei7_skylake_x", EVERY_STATE, ("avx2", "avx512")),
    "avx-vnni without avx-512": ("arrow_lake", EVERY_STATE, (*AVX2, "avxvnni")),
    "avx2": ("corei7_haswell_4770", SSE | AVX | ZMM, AVX2),
    "avx": ("corei7_sandy_bridge_2600k", EVERY_STATE, ()),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_the_processor_and_the_system_allow_is_found(built: Path, name: str) -> None:
    model, state, expected = PROCESSORS[name]
    _, _, found, _ = parity(built, model, state, rounds=0)
    assert found == features(expected)


@pytest.mark.parametrize(
    "name", ["amx", "avx-512 with vnni", "avx-512 without vnni", "avx-vnni without avx-512"]
)
def test_every_kernel_gives_the_scalar_integers(built: Path, name: str) -> None:
    model, state, expected = PROCESSORS[name]
    compared, different, found, output = parity(built, model, state, rounds=40, seed=EVERY_KERNEL)
    assert found == features(expected)
    assert compared >= 40 * 5
    assert different == 0, output
    times = {kernel: int(count) for kernel, count in re.findall(r"^(conv_\w+): (\d+)$", output, re.M)}
    assert all(times.get(kernel, 0) >= 3 for kernel in KERNELS[name]), times


def pictures(count: int, side: int) -> npt.NDArray[np.uint8]:
    """The formula of native/tests/logits.c."""
    i = np.arange(count * side * side * 3, dtype=np.uint64)
    return ((i * 2654435761 & 0xFFFFFFFF) >> 13 & 255).astype(np.uint8).reshape(count, side, side, 3)


@pytest.mark.parametrize(
    ("name", "isa", "kernel"),
    [
        ("resnet14-binary-all-x0.25-int8", "amx", "conv_i8_w1_amx"),
        ("resnet14-binary-all-x0.25-int8", "avx512", "conv_i8_w1_avx512"),
        ("resnet14-hybrid-all-x0.25-int8", "amx", "conv_i8_i8_amx"),
        ("resnet14-hybrid-all-x0.25-int8", "avx512", "conv_i8_i8_avx512"),
        ("resnet14-w1a1-int8", "amx", "conv_bits_w1_amx"),
        ("resnet14-w1a1-int8", "avx512", "conv_bits_w1_avx512"),
    ],
)
def test_packed_networks_give_the_logits_of_the_reference(
    built: Path, name: str, isa: str, kernel: str
) -> None:
    path = model_path(name)
    done = run_program(
        built / "c" / "bitskip_logits", ["model", isa, "1"], built / "board", file=path, seconds=1200
    )
    kernels, *lines = done.output[done.output.index("kernels: ") :].splitlines()
    if isa == "amx" and not any("_amx" in word for word in kernels.split()):
        pytest.skip("this Bochs has no AMX: `make test-x86` builds one that has")
    assert kernel in kernels
    logits = np.array([[float.fromhex(word) for word in line.split()] for line in lines if line], np.float32)
    np.testing.assert_array_equal(logits, run_reference(Program.load(path), pictures(1, 32)))


def test_a_fault_ends_the_run_and_is_named(built: Path) -> None:
    source = built / "fault.c"
    source.write_text("int main(void) { return *(volatile int *)8; }\n")
    subprocess.run(
        ["gcc", "-O1", "-static", "-no-pie", str(source), "-o", str(built / "fault")], check=True, timeout=120
    )
    done = run_program(built / "fault", [], built / "board", model="corei7_haswell_4770", seconds=300)
    assert done.status == 128 + 14
    assert "[exception 14" in done.output
    assert "address 0x0000000000000008" in done.output
