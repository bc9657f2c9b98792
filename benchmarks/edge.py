"""Exported networks on emulated microcontrollers: instructions, flash, RAM, and whether every logit is right.

    python benchmarks/edge.py measure --out results/edge [--cmsis-nn FOLDER] [--pictures 1000] [NETWORK ...]
    python benchmarks/edge.py write-docs --results results/edge --docs docs/edge.md

`measure` writes one JSON file a network; `write-docs` makes the tables of docs/edge.md from them. CMSIS-NN is
a clone of github.com/ARM-software/CMSIS-NN outside this repository.
"""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from emulator import BOARDS, code_size, count_cmsis_nn, run_on_board
from host_compilers import COMPILERS, wrong_pictures

from bitskip.backends.c99 import TARGET
from bitskip.backends.c99.cores import CORES
from bitskip.backends.c99.counts import features, kernel_of
from bitskip.backends.c99.plan import steps_of
from bitskip.backends.c99.target import choose_plan
from bitskip.backends.reference import run_reference
from bitskip.errors import LoweringError
from bitskip.files import read_json, write_json
from bitskip.program import Conv2d, Program, conv_precision, op_outputs
from bitskip.zoo.catalog import models_folder

RESULTS = Path(__file__).parent.parent / "results" / "edge"
COUNTS = RESULTS.parent.parent / "src" / "bitskip" / "backends" / "c99" / "counts.json"
RESNET8 = "mlperf-resnet8"
MOBILENET = "mobilenet-32px"
MARKS = ("<!-- {}: made by benchmarks/edge.py -->", "<!-- end of {} -->")

app = typer.Typer(add_completion=False)


def _zoo(name: str) -> Callable[[], Program]:
    return lambda: Program.load(models_folder() / f"{name}.bitskip")


def _lowered(model: Any, shape: tuple[int, int, int], name: str) -> Program:
    from bitskip.lower import lower

    height, width, channels = shape
    pictures = np.random.default_rng(0).integers(0, 256, (64, height, width, channels)).astype(np.uint8)
    options = {"activations": "int8", "dense": "int8", "calibration": pictures, "name": name}
    return lower(
        model, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), input_shape=(channels, height, width), **options
    )


def _untrained_resnet8() -> Program:
    import torch

    from bitskip.nn.baselines import build_baseline

    torch.manual_seed(0)
    return _lowered(build_baseline("mlperf-resnet8").eval(), (32, 32, 3), RESNET8)


def _untrained_w1a1() -> Program:
    import torch

    from bitskip.nn import build
    from bitskip.spec import named_spec

    torch.manual_seed(0)
    spec = dataclasses.replace(named_spec("resnet14-binary-none"), name="w1a1-none", precision=("w1a1",) * 3)
    return _lowered(build(spec).eval(), (32, 32, 3), spec.name)


def _untrained_mobilenet() -> Program:
    """A MobileNetV1 (Howard et al. 2017) for 32 x 32 pictures, in int8."""
    import torch
    from torch import nn

    def conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    layers, width = conv(3, 16, 3, 1, 1), 16
    for outputs, stride in ((32, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1)):
        layers += conv(width, width, 3, stride, width) + conv(width, outputs, 1, 1, 1)
        width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return _lowered(model.eval(), (32, 32, 3), MOBILENET)


NETWORKS: dict[str, Callable[[], Program]] = {
    "edge-m4-w1": _zoo("edge-m4-w1"),
    "edge-m4-int8-first": _zoo("edge-m4-int8-first"),
    "edge-32k": _zoo("edge-32k"),
    "edge-16k": lambda: Program.load(RESULTS / "edge-16k.bitskip"),
    "resnet14-binary-all-x0.25": _zoo("resnet14-binary-all-x0.25-int8"),
    "resnet14-hybrid-all-x0.25": _zoo("resnet14-hybrid-all-x0.25-int8"),
    "resnet14-full-all-x0.25": _zoo("resnet14-full-all-x0.25-int8"),
    "resnet14-w1a1-none": _untrained_w1a1,
    RESNET8: _untrained_resnet8,
    MOBILENET: _untrained_mobilenet,
}


UNTRAINED = {"resnet14-w1a1-none", RESNET8, MOBILENET}  # their numbers count, their answers mean nothing


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


def smallest_arena(program: Program, core: str) -> int:
    """Return the smallest arena that `--arena-bytes` can ask for."""
    try:
        return choose_plan(program, CORES[core], 1)[0].arena_bytes
    except LoweringError as error:
        return int(str(error).split()[-2])


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
    """Return the code's size on a core, and what the network takes in the smallest arena."""
    board, folder, smallest = BOARDS[core], work / name / f"{core}-bands", smallest_arena(program, core)
    facts = TARGET.export(program, folder, {"name": "net", "cpu": core, "arena-bytes": smallest}).facts
    ran = run_on_board(board, folder, facts, batch, program.classes, work / "build")
    return {
        "code_bytes": {
            level: code_size(board, work / name / core, "net", work / "build", level)["text"]
            for level in ("-O3", "-Os")
        },
        "smallest_arena_bytes": smallest,
        "instructions_in_smallest_arena": ran.instructions,
        "pictures_in_smallest_arena": len(batch),
        "pictures_with_a_wrong_bit_in_bands": _wrong(ran.logits, expected),
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


def tables(results: Path) -> dict[str, str]:
    """Return the tables of docs/edge.md and the README by name, as Markdown."""
    known = {path.stem: read_json(path) for path in results.glob("*.json")}
    rows = [known[name] for name in NETWORKS if name in known]
    cmsis = known.get("cmsis-nn-resnet8")
    return {
        "devices": _devices_table(rows, cmsis),
        "networks": _networks_table(rows, cmsis),
        "instructions": _instructions_table(rows, cmsis),
        "per MAC": _per_mac_table(rows, cmsis),
        "memory": _memory_table(rows),
        "conditions": _conditions(rows, cmsis, known.get("hosts")),
    }


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(row: dict[str, Any]) -> str:
    return "untrained" if row["accuracy"] is None else f"{row['accuracy']:.2%}"


def _million(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _networks_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    head = [
        "network",
        "CIFAR-10 test",
        "MACs",
        "constants (flash)",
        "code -O3 / -Os",
        "arena",
        "least arena",
        "stack",
        "M4 instructions",
    ]
    body = []
    for row in rows:
        m4 = row["cores"]["cortex-m4"]
        code = m4["code_bytes"]
        body.append([
            row["network"], _accuracy(row), _million(sum(row["macs"].values())), f"{m4['constant_bytes']:,}",
            f"{code['-O3']:,} / {code['-Os']:,}", f"{m4['arena_bytes']:,}", f"{m4['smallest_arena_bytes']:,}",
            f"{m4['stack_bytes']:,}", _million(m4["instructions"]),
        ])  # fmt: skip
    if cmsis is not None:
        count = _million(cmsis["cores"]["cortex-m4"]["instructions"])
        body.append(["the same ResNet-8 through CMSIS-NN", "", "12.5 M", "", "", "", "", "", count])
    return _markdown(head, body)


# What the README shows: trained networks that fit small boards, and what int8 ResNet-8 takes there.
_ON_DEVICES = ("edge-16k", "edge-m4-w1", "edge-32k", "resnet14-hybrid-all-x0.25", RESNET8)


def _devices_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    head = ["network", "CIFAR-10 test", "flash -O3 / -Os", "RAM", "M4 instructions", "M0+ instructions"]
    by_name = {row["network"]: row for row in rows}
    body = []
    for row in (by_name[name] for name in _ON_DEVICES if name in by_name):
        m4, small = row["cores"]["cortex-m4"], row["cores"]["cortex-m0plus"]
        flash = " / ".join(
            f"{(m4['constant_bytes'] + m4['code_bytes'][level]) / 1024:.1f}" for level in ("-O3", "-Os")
        )
        ram = m4["arena_bytes"] + m4["stack_bytes"]
        body.append([
            row["network"], _accuracy(row), f"{flash} KiB", f"{ram / 1024:.1f} KiB",
            _million(m4["instructions"]), _million(small["instructions"]),
        ])  # fmt: skip
    if cmsis is not None:
        counts = (cmsis["cores"][core]["instructions"] for core in ("cortex-m4", "cortex-m0plus"))
        body.append(["the same ResNet-8 through CMSIS-NN", "", "", "", *map(_million, counts)])
    return _markdown(head, body)


def _instructions_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    cores = list(BOARDS)
    body = [
        [row["network"], *(_million(row["cores"][core]["instructions"]) for core in cores)] for row in rows
    ]
    if cmsis is not None:
        counted = cmsis["cores"]
        body.append(
            ["the same ResNet-8 through CMSIS-NN"]
            + [_million(counted[core]["instructions"]) if core in counted else "" for core in cores]
        )
    return _markdown(["network", *cores], body)


def _per_mac_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    cores = list(BOARDS)
    body = []
    for row in rows:
        total = sum(row["macs"].values())
        whole = (f"{row['cores'][core]['instructions'] / total:.2f}" for core in cores)
        body.append([f"{row['network']}, whole", *whole])
        for precision, macs in row["macs"].items():
            if macs < 0.02 * total:
                continue
            counts = (row["cores"][core]["instructions_by_precision"][precision] / macs for core in cores)
            body.append([f"its {precision} layers", *(f"{count:.2f}" for count in counts)])
    resnet8 = next((row for row in rows if row["network"] == RESNET8), None)
    if cmsis is not None and resnet8 is not None:
        total, counted = sum(resnet8["macs"].values()), cmsis["cores"]
        body.append(
            ["the same ResNet-8 through CMSIS-NN"]
            + [f"{counted[core]['instructions'] / total:.2f}" if core in counted else "" for core in cores]
        )
    return _markdown(["", *cores], body)


def _memory_table(rows: list[dict[str, Any]]) -> str:
    from bitskip.spec import named_spec

    body = []
    for policy in ("all", "middle", "none"):
        program = _random_network(named_spec(f"resnet14-binary-{policy}-x0.5"))
        plain = choose_plan(program, CORES["cortex-m4"])[0].arena_bytes
        body.append([policy, f"{plain:,}", f"{smallest_arena(program, 'cortex-m4'):,}"])
    first = int(body[0][1].replace(",", ""))
    for line in body:
        line.append(f"{int(line[1].replace(',', '')) / first:.2f}")
    return _markdown(
        ["shortcuts of resnet14-binary-*-x0.5", "arena, layer by layer", "least arena, in bands", "of `all`"],
        body,
    )


def _random_network(spec: Any) -> Program:
    import torch

    from bitskip.nn import build

    torch.manual_seed(0)
    side = spec.input_size
    return _lowered(build(spec).eval(), (side, side, spec.input_channels), spec.name)


def _conditions(
    rows: list[dict[str, Any]], cmsis: dict[str, Any] | None, hosts: dict[str, Any] | None
) -> str:
    row = rows[0]
    pictures = wrong = 0
    for core in (core for r in rows for core in r["cores"].values()):
        pictures += core["pictures"] + core.get("pictures_in_smallest_arena", 0)
        wrong += core["pictures_with_a_wrong_bit"] + core.get("pictures_with_a_wrong_bit_in_bands", 0)
    text = (
        f"{row['date']}; {row['arm_gcc']}; {row['riscv_gcc']}; {row['qemu']}; `-O3`. "
        f"{pictures:,} classifications on {len(row['cores'])} cores, each logit compared with the reference: "
        f"{wrong} with a wrong bit."
    )
    if cmsis is not None:
        text += f" CMSIS-NN: commit {cmsis['commit'][:12]}, compiled with the same flags."
    if hosts is not None:
        counts = [(n["pictures"], wrong) for n in hosts["networks"] for wrong in n["wrong"].values()]
        names = ", ".join(n["network"] for n in hosts["networks"])
        versions = "; ".join(hosts["networks"][0]["compilers"].values())
        text += (
            f" On the host, {names}: {sum(n for n, _ in counts):,} classifications by {len(counts)} builds "
            f"(-O0 to -O3, 64 and 32 bits), {sum(n for _, n in counts)} with a wrong bit: {versions}."
        )
    return text


if __name__ == "__main__":
    app()
