"""Exported networks on emulated microcontrollers: instructions, flash, RAM, and whether every logit is right.

    python benchmarks/edge.py measure --out results/edge [--cmsis-nn FOLDER] [--pictures 1000] [NETWORK ...]
    python benchmarks/edge.py write-docs --results results/edge --docs docs/edge.md

`measure` writes one JSON file a network; `write-docs` makes the tables of docs/edge.md from them. CMSIS-NN is
a clone of github.com/ARM-software/CMSIS-NN outside this repository.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from edge_networks import NETWORKS, RESULTS, UNTRAINED, smallest_arena
from edge_tables import MARKS, tables
from emulator import BOARDS, code_size, count_cmsis_nn, run_on_board
from host_compilers import COMPILERS, wrong_pictures

from bitskip.backends.c99 import TARGET
from bitskip.backends.c99.counts import features, kernel_of
from bitskip.backends.c99.placement import steps_of
from bitskip.backends.reference import run_reference
from bitskip.files import read_json, write_json
from bitskip.program import Conv2d, Program, conv_precision, op_outputs

COUNTS = RESULTS.parent.parent / "src" / "bitskip" / "backends" / "c99" / "counts.json"

app = typer.Typer(add_completion=False)


def pictures_for(program: Program, count: int) -> npt.NDArray[np.uint8]:
    """Return test pictures of CIFAR-10 in the size of `program`, from $BITSKIP_DATA or the bundled set."""
    from bitskip.cli.options import read_images

    pictures = smaller(read_images(None).test_images, program.input_shape[0])
    more = -(-count // len(pictures))  # the bundled set has 500
    return np.ascontiguousarray(np.concatenate([pictures] * more)[:count])


def smaller(pictures: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return pictures of `side` x `side` pixels, each the rounded mean of a square of the given ones."""
    by = pictures.shape[1] // side
    if by == 1:
        return pictures
    blocks = pictures.reshape(len(pictures), side, by, side, by, 3).astype(np.uint32).sum(axis=(2, 4))
    return ((blocks + by * by // 2) // (by * by)).astype(np.uint8)


def measured_accuracy(program: Program) -> tuple[float, int] | None:
    """Return the share of the whole test set `program` gets right; None where only the bundled set is."""
    from bitskip.cli.options import read_images
    from bitskip.runtime import Model

    images = read_images(None)
    if len(images.test_images) != 10_000:
        return None
    logits = Model(program).predict(smaller(images.test_images, program.input_shape[0]))
    return float((logits.argmax(axis=1) == images.test_labels).mean()), len(images.test_labels)


def _kind(op: Conv2d, program: Program) -> str:
    """Return the row of a convolution: its precision, and whether it is depthwise or grouped."""
    precision = conv_precision(op, program.tensors)
    if op.groups == 1:
        return precision
    return f"{precision} {'depthwise' if op.groups == len(op.weight) else 'grouped'}"


def precision_macs(program: Program) -> dict[str, int]:
    """Return the multiply-accumulates of a program by precision, those of depthwise layers apart."""
    found: dict[str, int] = {}
    for op in program.ops:
        if isinstance(op, Conv2d):
            outputs = int(np.prod(program.tensors[op_outputs(op)[0]].shape))
            taps = op.kernel[0] * op.kernel[1] * program.tensors[op.input].shape[2] // op.groups
            found[_kind(op, program)] = found.get(_kind(op, program), 0) + taps * outputs
    return found


LEVELS = ("-O3", "-O2", "-Os")
_SIZED = ("cortex-m4", "cortex-m0plus")  # cores whose code is measured, and run in the smallest arena


def measure_network(name: str, pictures: int, work: Path) -> dict[str, Any]:
    """Return what one network takes on every board, each logit compared with the reference."""
    program = NETWORKS[name]()
    batch = pictures_for(program, pictures)
    expected = run_reference(program, batch)
    rows = {}
    for core, board in BOARDS.items():
        folder = work / name / core
        facts = dict(TARGET.export(program, folder, {"name": "net", "cpu": core}).facts)
        steps = [(at, steps_of(op, program.tensors)) for at, op in enumerate(program.ops)]
        ran = run_on_board(board, folder, facts, batch, program.classes, work / "build", steps=steps)
        macs = precision_macs(program)
        by_precision = {key: 0 for key in macs}
        for op, count in zip(program.ops, ran.ops, strict=True):
            if isinstance(op, Conv2d):
                by_precision[_kind(op, program)] += count
        rows[core] = {
            "instructions": ran.instructions,
            "instructions_by_precision": by_precision,
            "instructions_by_op": list(ran.ops),
            "stack_bytes": ran.stack_bytes,
            "arena_bytes": facts["arena_bytes"],
            "constant_bytes": facts["constant_bytes"],
            "pictures": pictures,
            "pictures_with_a_wrong_bit": _wrong(ran.logits, expected),
        }
        if core in _SIZED:
            shutil.rmtree(folder)
            rows[core] |= _sizes(program, core, name, batch[:10], expected[:10], work)
        wrong = rows[core]["pictures_with_a_wrong_bit"]
        typer.echo(f"{name} {core}: {ran.instructions:,} instructions, {wrong} of {pictures} pictures wrong")
    accuracy = measured_accuracy(program) if name not in UNTRAINED else None
    return {
        "network": name,
        "accuracy": None if accuracy is None else accuracy[0],
        "test_images": None if accuracy is None else accuracy[1],
        "input_shape": program.input_shape,
        "macs": precision_macs(program),
        "cores": rows,
        **provenance(),
    }


def _wrong(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> int:
    return int((got.view(np.uint32) != expected.view(np.uint32)).any(axis=1).sum())


def _sizes(
    program: Program,
    core: str,
    name: str,
    batch: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float32],
    work: Path,
) -> dict[str, Any]:
    """Return sizes and instructions by level of optimisation, and what the smallest arena takes."""
    board, folder, smallest = BOARDS[core], work / name / f"{core}-bands", smallest_arena(program, core)
    exported, sizes = _compiled(program, core, work / name / core, work / "build")
    whole = work / name / core
    counted = {
        level: run_on_board(
            board, whole, exported, batch[:1], program.classes, work / "build", level=level
        ).instructions
        for level in LEVELS
    }
    facts = TARGET.export(program, folder, {"name": "net", "cpu": core, "arena-bytes": smallest}).facts
    ran = run_on_board(board, folder, facts, batch, program.classes, work / "build")
    return sizes | {
        "instructions_by_level": counted,
        "smallest_arena_bytes": smallest,
        "instructions_in_smallest_arena": ran.instructions,
        "pictures_in_smallest_arena": len(batch),
        "pictures_with_a_wrong_bit_in_bands": _wrong(ran.logits, expected),
    }


def _compiled(
    program: Program, core: str, folder: Path, build: Path
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Export a network into `folder`; return what the export says, and the sizes of its code by level."""
    exported = TARGET.export(program, folder, {"name": "net", "cpu": core}).facts
    found = {level: code_size(BOARDS[core], folder, "net", build, level) for level in LEVELS}
    return exported, {
        "level": exported["level"],
        "code_bytes": {level: sizes["text"] for level, sizes in found.items()},
        "flash_bytes": {level: sum(sizes.values()) for level, sizes in found.items()},
    }


def measure_hosts(name: str, pictures: int, work: Path) -> dict[str, Any]:
    """Return how many pictures have a wrong bit on this machine, by compiler, level and width."""
    program = NETWORKS[name]()
    batch = pictures_for(program, pictures)
    TARGET.export(program, work / f"{name}-host", {"name": "net", "cpu": "cortex-m4"})
    wrong = wrong_pictures(work / f"{name}-host", batch, run_reference(program, batch))
    versions = {compiler: _first_line(compiler, "--version") for compiler in COMPILERS}
    return {"network": name, "pictures": pictures, "wrong": wrong, "compilers": versions}


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def provenance() -> dict[str, str]:
    """Return date and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "arm_gcc": _first_line("arm-none-eabi-gcc", "--version"),
        "riscv_gcc": _first_line("riscv64-unknown-elf-gcc", "--version"),
        "qemu": _first_line("qemu-system-arm", "--version"),
    }


@app.command()
def measure(
    networks: Annotated[list[str] | None, typer.Argument(help="Which.  [default: all]")] = None,
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("results/edge"),
    pictures: Annotated[int, typer.Option(help="How many pictures each board classifies.")] = 1000,
    cmsis_nn: Annotated[Path | None, typer.Option(help="A clone of CMSIS-NN, to count it too.")] = None,
) -> None:
    """Run networks on every emulated board and write what was counted."""
    with tempfile.TemporaryDirectory() as folder:
        for name in networks or NETWORKS:
            write_json(out / f"{name}.json", measure_network(name, pictures, Path(folder)))
        if cmsis_nn is not None:
            counted = {
                core: count_cmsis_nn(board, cmsis_nn, Path(folder) / "cmsis")
                for core, board in BOARDS.items()
                if core.startswith("cortex")
            }
            commit = subprocess.run(
                ["git", "-C", cmsis_nn, "rev-parse", "HEAD"], capture_output=True, text=True
            ).stdout.strip()
            write_json(out / "cmsis-nn-resnet8.json", {"commit": commit, "cores": counted, **provenance()})


@app.command()
def sizes(
    networks: Annotated[list[str] | None, typer.Argument(help="Which.  [default: all]")] = None,
    out: Annotated[Path, typer.Option(help="What `measure` wrote; its sizes are written anew.")] = Path(
        "results/edge"
    ),
    count: Annotated[bool, typer.Option(help="Also run them in the emulator.")] = True,
) -> None:
    """Compile networks at every level of optimisation and count the first picture at each."""
    with tempfile.TemporaryDirectory() as folder:
        for name in networks or NETWORKS:
            program, found = NETWORKS[name](), read_json(out / f"{name}.json")
            batch = pictures_for(program, 10 if count else 1)
            expected = run_reference(program, batch) if count else None
            for core in _SIZED:
                row, work = found["cores"][core], Path(folder)
                if expected is None:
                    row |= _compiled(program, core, work / name / core, work / "build")[1]
                    row["instructions_by_level"] = {"-O3": row["instructions"]}
                else:
                    row |= _sizes(program, core, name, batch, expected, work)
                typer.echo(f"{name} {core}: flash {found['cores'][core]['flash_bytes']}")
            write_json(out / f"{name}.json", found)


@app.command()
def hosts(
    networks: Annotated[list[str] | None, typer.Argument(help="Which.  [default: edge-16k]")] = None,
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("results/edge"),
    pictures: Annotated[int, typer.Option(help="How many pictures each classifies.")] = 1000,
) -> None:
    """Run networks on this machine with every compiler, level and width, and write what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        found = [measure_hosts(name, pictures, Path(folder)) for name in networks or ["edge-16k"]]
    write_json(out / "hosts.json", {"networks": found, "date": datetime.date.today().isoformat()})


@app.command()
def calibrate(
    results: Annotated[Path, typer.Option(help="What `measure` wrote.")] = Path("results/edge"),
    out: Annotated[Path, typer.Option(help="The file to write.")] = COUNTS,
) -> None:
    """Fit what the exported README predicts with to every op that `measure` counted."""
    from scipy.optimize import nnls

    samples: dict[str, dict[str, list[tuple[npt.NDArray[np.float64], int]]]] = {}
    for name in (name for name in NETWORKS if (results / f"{name}.json").exists()):
        program = NETWORKS[name]()
        for core, row in read_json(results / f"{name}.json")["cores"].items():
            for op, count in zip(program.ops, row["instructions_by_op"], strict=True):
                of_core = samples.setdefault(core, {})
                of_core.setdefault(kernel_of(op, program), []).append((features(op, program), count))
    fitted: dict[str, dict[str, list[float]]] = {}
    for core, kernels in samples.items():
        fitted[core] = {}
        for kernel, pairs in sorted(kernels.items()):
            x, y = np.array([f for f, _ in pairs]), np.array([c for _, c in pairs], np.float64)
            weight = 1 / np.maximum(y, 1)  # the relative error counts
            fitted[core][kernel] = [float(f"{c:.4g}") for c in nnls(x * weight[:, None], y * weight)[0]]
        typer.echo(f"{core}: {fitted[core]}")
    write_json(out, fitted)


@app.command()
def write_docs(
    results: Annotated[Path, typer.Option(help="What `measure` wrote.")] = Path("results/edge"),
    docs: Annotated[Path, typer.Option(help="Its tables are written anew.")] = Path("docs/edge.md"),
    readme: Annotated[Path, typer.Option(help="Its table is written anew.")] = Path("README.md"),
) -> None:
    """Write the tables of docs/edge.md and the README from the results: those that a page has marks for."""
    made = tables(results)
    for page in (docs, readme):
        text = page.read_text(encoding="utf-8")
        for name, table in made.items():
            start, end = (mark.format(name) for mark in MARKS)
            if start in text:
                before, _, rest = text.partition(start)
                text = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    app()
