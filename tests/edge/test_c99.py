"""Exported C beside the reference: compiled by the host's compilers, to the bit where sums are integers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_programs import PROGRAMS, small_network, two_inputs
from host_compilers import WARNINGS, compile_driver, missing, run_driver, wrong_pictures
from PIL import Image

from bitskip.backends import export_target
from bitskip.backends.c99.cores import CORES
from bitskip.backends.c99.placement import place_tensors
from bitskip.backends.c99.target import choose_placement
from bitskip.backends.reference import run_reference
from bitskip.errors import LoweringError, RunError
from bitskip.program import Program


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")


def export(program: Program, folder: Path, **options: Any) -> dict[str, Any]:
    given = {"name": "net", **{key.replace("_", "-"): value for key, value in options.items()}}
    return dict(export_target("c99").export(program, folder, given).facts)


def pictures_for(
    program: Program, count: int = 8, seed: int = 0, shape: tuple[int, int, int] | None = None
) -> Any:
    """Return random pictures, with the darkest and the brightest first."""
    size = (count, *(shape or program.input_shape))
    pictures = np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)
    pictures[0], pictures[1] = 0, 255
    return pictures


def assert_as_reference(program: Program, got: Any, pictures: Any) -> None:
    expected = run_reference(program, pictures)
    if program.name.startswith("float"):  # sums of floats have an order of their own
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    else:
        assert_same_bits(got, expected)


def assert_same_bits(got: Any, expected: Any) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize(
    "cpu", ["cortex-m0plus", "cortex-m4", *(slow(cpu) for cpu in ("cortex-m3", "rv32imc"))]
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_exported_c_agrees_with_the_reference(name: str, cpu: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]()
    export(program, tmp_path / "net", cpu=cpu)
    binary = compile_driver(tmp_path / "net", "gcc", "-O0")
    pictures = pictures_for(program)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)


@pytest.mark.parametrize(("name", "most"), [("w1", 0.75), ("w1a1", 1.0), ("mixed", 1.0)])
def test_bands_give_the_same_bits_in_less_memory(name: str, most: float, tmp_path: Path) -> None:
    program = PROGRAMS[name]()
    with pytest.raises(LoweringError, match=r"the smallest arena of '.*' is \d+ bytes") as refused:
        export(program, tmp_path / "none", arena_bytes=1)
    smallest = int(str(refused.value).split()[-2])
    whole = export(program, tmp_path / "whole")
    facts = export(program, tmp_path / "net", arena_bytes=smallest)
    assert facts["arena_bytes"] == smallest
    assert smallest <= most * whole["arena_bytes"]
    binary = compile_driver(tmp_path / "net", "gcc", *SANITIZERS)
    pictures = pictures_for(program)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)
    with pytest.raises(LoweringError, match="smallest"):
        export(program, tmp_path / "less", arena_bytes=smallest - 1)


@pytest.mark.parametrize("bands", [False, True])
def test_several_inputs_lie_one_after_the_other(bands: bool, tmp_path: Path) -> None:
    program = two_inputs()
    options: dict[str, Any] = {}
    if bands:
        with pytest.raises(LoweringError, match="smallest arena") as refused:
            export(program, tmp_path / "none", arena_bytes=1)
        options["arena_bytes"] = int(str(refused.value).split()[-2])
    facts = export(program, tmp_path / "net", **options)
    assert (facts["bands"] > 3) is bands
    given = [pictures_for(program, shape=source.shape, seed=source.tensor) for source in program.inputs]
    blocks = np.concatenate([pictures.reshape(len(pictures), -1) for pictures in given], axis=1)
    binary = compile_driver(tmp_path / "net", "gcc", *SANITIZERS)
    expected = run_reference(program, tuple(given))
    assert_same_bits(run_driver(binary, blocks, program.classes), expected)
    given[1] = given[1][::-1]
    assert (run_reference(program, tuple(given)) != expected).any()  # the second input is read
    header = (tmp_path / "net" / "src" / "net.h").read_text()
    assert f"#define NET_INPUT_1_AT {8 * 6 * 3} /* where right begins */" in header
    assert f"#define NET_INPUT_BYTES {8 * 6 * 3 + 16 * 12}\n" in header
    command = next(
        line.strip()
        for line in (tmp_path / "net" / "README.md").read_text().splitlines()
        if "gcc -std" in line
    )
    ran = subprocess.run(command, cwd=tmp_path / "net", shell=True, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "as the reference"), ran


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=[needs_clang, pytest.mark.slow])])
@pytest.mark.parametrize("name", ["w1", "w1a1", "int8", "odd-w1", "mixed", "float-residual"])
def test_sanitizers_find_nothing_in_fuzzed_runs(name: str, compiler: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]()
    export(program, tmp_path / "net")
    binary = compile_driver(tmp_path / "net", compiler, *SANITIZERS)
    pictures = pictures_for(program, 40, seed=5)
    assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=needs_clang)])
@pytest.mark.parametrize("flags", [("-O3", "-m64"), ("-O1", "-m32")])
def test_levels_and_widths_give_the_same_bits(compiler: str, flags: tuple[str, str], tmp_path: Path) -> None:
    if missing(compiler, flags[1]):
        pytest.skip(f"{missing(compiler, flags[1])} is not installed; `make test-edge` installs it")
    for name in ("mixed", "deep-w1"):
        program = PROGRAMS[name]()
        export(program, tmp_path / name)
        binary = compile_driver(tmp_path / name, compiler, *flags)
        pictures = pictures_for(program)
        assert_as_reference(program, run_driver(binary, pictures, program.classes), pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w1", "w1a1", "mixed", "int8", "edge-16k"])
def test_a_thousand_pictures_with_every_compiler_level_and_width(name: str, tmp_path: Path) -> None:
    trained = Path(__file__).parents[2] / "results" / "edge" / f"{name}.bitskip"
    program = Program.load(trained) if trained.exists() else PROGRAMS[name]()
    export(program, tmp_path / "net")
    pictures = pictures_for(program, 1000)
    wrong = wrong_pictures(tmp_path / "net", pictures, run_reference(program, pictures))
    assert wrong
    assert wrong == dict.fromkeys(wrong, 0)


def test_the_readmes_command_compiles_the_folder_alone(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    packed, folder = tmp_path / "w1.bitskip", tmp_path / "c"
    program = PROGRAMS["w1"]()
    program.save(packed)
    ran = bitskip("export", str(packed), "--to", "c99", "--name", "net", "-o", str(folder), "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["arena_bytes"] > 0
    assert all(Path(path).is_file() for path in facts["files"])
    readme = (folder / "README.md").read_text()
    command = next(line for line in readme.splitlines() if line.startswith("    gcc"))
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("as the reference\n")

    (folder / "M.bitskip").write_bytes(packed.read_bytes())
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (70, 45, 3), dtype=np.uint8)).save(
        folder / "picture.png"
    )
    own_picture = readme.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", own_picture], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    picture = np.fromfile(folder / "picture.bin", np.uint8).reshape(1, -1)
    logits = run_driver(compile_driver(folder, "gcc"), picture, program.classes)
    assert done.stdout.strip() == str(logits)
    ran = bitskip("run", str(packed), str(folder / "picture.png"), "--json")
    assert json.loads(ran.out)["results"][0]["logits"] == logits[0].tolist()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_folder_is_a_part_of_a_larger_c_plus_plus_project(tmp_path: Path) -> None:
    export(PROGRAMS["w1"](), tmp_path / "net")
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.13)
project(whole C CXX)
add_subdirectory(net)
add_executable(whole whole.cpp)
target_compile_options(whole PRIVATE -Wall -Wextra -pedantic -Werror)
target_link_libraries(whole PRIVATE net)
""")
    (tmp_path / "whole.cpp").write_text("""
#include "net.h"
static uint64_t arena[(NET_ARENA_BYTES + 7) / 8];
static uint8_t picture[NET_INPUT_BYTES];
int main()
{
    net_context network;
    float logits[NET_CLASSES];
    return net_init(&network, arena, sizeof arena) != NET_OK || net_run(&network, picture, logits) != NET_OK;
}
""")
    for command in (("cmake", "-S", ".", "-B", "build"), ("cmake", "--build", "build"), ("build/whole",)):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("build/net/net_example*"))  # the example is built only alone


def test_an_integer_network_has_no_float_arithmetic_and_calls_memcpy_and_memset_alone(tmp_path: Path) -> None:
    export(PROGRAMS["w1"](), tmp_path / "net", cpu="host")
    code = (tmp_path / "net" / "src" / "net.c").read_text()
    assert "malloc" not in code
    assert not [line for line in code.splitlines() if "(float)" in line or ".0f" in line]
    subprocess.run(["gcc", "-std=c99", "-O0", "-Isrc", "-c", "src/net.c"], cwd=tmp_path / "net", check=True)
    listed = subprocess.run(
        ["nm", "-u", "net.o"], cwd=tmp_path / "net", capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) - {"U", "memcpy", "memset"} == set()


def test_status_of_wrong_calls(tmp_path: Path) -> None:
    export(PROGRAMS["w1"](), tmp_path / "net")
    (tmp_path / "net" / "wrong.c").write_text("""
#include "net.h"
static uint64_t arena[NET_ARENA_BYTES / 8 + 1];
static uint8_t picture[NET_INPUT_BYTES];
int main(void)
{
    net_context n;
    float out[NET_CLASSES];
    if (net_init(NULL, arena, sizeof arena) != NET_NULL_POINTER) return 1;
    if (net_init(&n, NULL, sizeof arena) != NET_NULL_POINTER) return 2;
    if (net_init(&n, arena, NET_ARENA_BYTES - 1) != NET_SMALL_ARENA) return 3;
    if (net_run(&n, picture, out) != NET_NOT_READY) return 4;
    if (net_init(&n, (uint8_t *)arena + 4, NET_ARENA_BYTES) != NET_UNALIGNED) return 5;
    if (net_init(&n, arena, NET_ARENA_BYTES) != NET_OK) return 6;
    if (net_run(&n, NULL, out) != NET_NULL_POINTER) return 7;
    if (net_run(&n, picture, NULL) != NET_NULL_POINTER) return 8;
    return net_run(&n, picture, out) == NET_OK ? 0 : 9;
}
""")
    subprocess.run(
        ["gcc", *WARNINGS, "-Isrc", "src/net.c", "wrong.c", "-o", "wrong"], cwd=tmp_path / "net", check=True
    )
    assert subprocess.run([tmp_path / "net" / "wrong"]).returncode == 0


@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="cppcheck is not installed")
@pytest.mark.parametrize("name", ["w1", "mixed", "float-residual"])
def test_cppcheck_is_content(name: str, tmp_path: Path) -> None:
    export(PROGRAMS[name](), tmp_path / "net")
    done = subprocess.run(
        ["cppcheck", "--std=c99", "--enable=warning,portability,performance", "--error-exitcode=1", "-q",
         "--inline-suppr", "-Isrc", "src/net.c", "main.c"],
        cwd=tmp_path / "net", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_shortcuts_rows_are_written_over_rows() -> None:
    kept, removed = (choose_placement(small_network(keep), CORES["cortex-m4"])[0] for keep in (True, False))
    assert removed.arena_bytes <= 0.7 * kept.arena_bytes
    assert any(removed.downward.values())  # one layer down, the next up


def test_tensors_of_a_plan_do_not_overlap_while_both_are_needed() -> None:
    """A second, slow account of what `place_tensors` promises: every row is intact when it is read."""
    from bitskip.backends.c99.placement import steps_of, window_of
    from bitskip.program import op_inputs, op_outputs

    for keep in (True, False):
        program = small_network(keep)
        placement = place_tensors(program, [64] * len(program.ops), external=frozenset({0, program.output}))
        memory: dict[int, tuple[int, int]] = {}  # byte of the arena: which row of which tensor it holds
        for at, op in enumerate(program.ops):
            steps = range(steps_of(op, program.tensors))
            for step in reversed(steps) if placement.downward[at] else steps:
                for number in (n for n in op_inputs(op) if n in placement.places):
                    window, place = window_of(op), placement.places[number]
                    height = program.tensors[number].shape[0]
                    rows = (
                        range(window.first(step), window.last(step, height) + 1)
                        if number == op.input and op.kind != "global_avg_pool"
                        else [step]
                    )
                    for row in rows:
                        start = place.offset + row * place.row_bytes
                        assert {memory[b] for b in range(start, start + place.row_bytes)} == {(number, row)}
                for number in (n for n in op_outputs(op) if n in placement.places):
                    place = placement.places[number]
                    row = 0 if op.kind == "global_avg_pool" else step
                    start = place.offset + row * place.row_bytes
                    memory.update(dict.fromkeys(range(start, start + place.row_bytes), (number, row)))


# -- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2nets", "my-net", "int", "", "a b", "é"])
def test_a_name_that_is_no_identifier_is_refused(
    name: str, bitskip: Callable[..., Any], tmp_path: Path
) -> None:
    packed = tmp_path / "w1.bitskip"
    PROGRAMS["w1"]().save(packed)
    ran = bitskip("export", str(packed), "--to", "c99", "-o", str(tmp_path / "c"), "--name", name)
    assert ran.code == 2
    assert f"--name is '{name}', expected a C identifier" in " ".join(ran.err.split())
    assert not (tmp_path / "c").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not an empty folder; name another with -o"):
        export(PROGRAMS["w1"](), tmp_path / "c")
    assert [path.name for path in tmp_path.rglob("*")] == ["c", "mine.txt"]


def test_an_unknown_core_and_a_wrong_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="--cpu is 'cortex-m5', expected one of .*did you mean"):
        export(PROGRAMS["w1"](), tmp_path / "c", cpu="cortex-m5")
    with pytest.raises(LoweringError, match="--arena-bytes is 0, expected at least 1 byte"):
        export(PROGRAMS["w1"](), tmp_path / "c", arena_bytes=0)


def test_the_folder_builds_with_what_fits_the_flash(tmp_path: Path) -> None:
    program = PROGRAMS["w1"]()
    constants = export(program, tmp_path / "whole")["constant_bytes"]
    for kib, level in ((None, "-O2"), (13, "-O2"), (20, "-O3"), (6, "-Os")):
        options = {} if kib is None else {"flash_bytes": constants + kib * 1024}
        folder = tmp_path / f"{kib}"
        assert export(program, folder, **options)["level"] == level
        for path in ("CMakeLists.txt", "README.md", "zephyr/CMakeLists.txt"):
            assert level in (folder / path).read_text()
    with pytest.raises(LoweringError, match=f"the constants of 'w1' alone are {constants} bytes"):
        export(program, tmp_path / "none", flash_bytes=constants)
    with pytest.raises(LoweringError, match="--flash-bytes is 0, expected at least 1 byte"):
        export(program, tmp_path / "none", flash_bytes=0)
    assert not (tmp_path / "none").exists()


def test_a_layer_beyond_the_kernels_is_named() -> None:
    from edge_programs import too_wide

    (reason,) = export_target("c99").supports(too_wide())
    assert reason == (
        "layer 'wide' sums 65600 1-bit products, expected at most 65535; give it fewer input channels"
    )


def test_class_names_of_any_language_are_c_strings(tmp_path: Path) -> None:
    import dataclasses

    program = PROGRAMS["w1"]()
    names = (
        'a "quoted" one',
        "back\\slash",
        "Flugzeug über Köln",
        "what??/",
        *map(str, range(program.classes)),
    )
    export(dataclasses.replace(program, class_names=names[: program.classes]), tmp_path / "net")
    (tmp_path / "net" / "names.c").write_text("""
#include "net.h"
#include <stdio.h>
int main(void)
{
    int k;
    for (k = 0; k < NET_CLASSES; k++) puts(net_class_names[k]);
    return 0;
}
""")
    subprocess.run(
        ["gcc", *WARNINGS, "-Isrc", "src/net.c", "names.c", "-o", "names"], cwd=tmp_path / "net", check=True
    )
    printed = subprocess.run([tmp_path / "net" / "names"], capture_output=True, text=True, encoding="utf-8")
    assert tuple(printed.stdout.splitlines()) == names[: program.classes]
