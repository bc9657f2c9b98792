"""`bitskip export --to c99`: checks what was asked for, places tensors, and writes the folder."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.backends import Exported
from bitskip.backends.c99.cores import CORES, DEFAULT_CORE, Core
from bitskip.backends.c99.epilogues import ACTIVATIONS
from bitskip.backends.c99.kernels import scratch_bytes
from bitskip.backends.c99.placement import Placement, place_tensors
from bitskip.backends.c99.render import render
from bitskip.errors import LoweringError, RunError, check_one_of
from bitskip.program import (
    Bilinear,
    Concat,
    Conv2d,
    FloatEpilogue,
    GlobalAvgPool,
    Mul,
    Op,
    Program,
    Resize,
    op_outputs,
)

_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int "
    "long register restrict return short signed sizeof static struct switch typedef union unsigned void "
    "volatile while main class new delete template this operator private public protected virtual bool true "
    "false arena bsk".split()
)
_MOST_W1_INPUTS = 2**20  # sums of them stay below 2^31
_MOST_W1A1_INPUTS = 2**16 - 1  # counts are 16-bit


def choose_placement(program: Program, core: Core, arena_bytes: int | None = None) -> tuple[Placement, Core]:
    """Return where `program` lies on a device, and the core with as many pixels a table as fit.

    Args:
        program: what runs.
        core: whose kernels are chosen.
        arena_bytes: what there is; as few ops as fit it run in bands. None: layer by layer.

    Raises:
        LoweringError: if no placement fits, naming the smallest.
    """
    external = frozenset({*range(len(program.inputs)), program.output})
    first = 2 if len(program.ops) > 2 and program.ops[0].kind == "quantize_input" else 0
    last = _rows_in_turn(program)
    placements = []
    for tile in _tiles(program):
        chosen = replace(core, tile=tile)
        scratch = [scratch_bytes(op, program, chosen) for op in program.ops]
        for bands in (first, *range(first + 1, last + 1)):
            placement = place_tensors(program, scratch, bands, external=external)
            if arena_bytes is None or placement.arena_bytes <= arena_bytes:
                return placement, chosen
            placements.append(placement)
    best = min(placements, key=lambda placement: placement.arena_bytes)
    raise LoweringError(
        f"--arena-bytes is {arena_bytes}, but the smallest arena of '{program.name}' is "
        f"{best.arena_bytes} bytes"
    )


def _tiles(program: Program) -> list[int]:
    """Return how many pixels share a table of 1-bit weights: first what takes fewest instructions."""
    layers = [
        (op, program.tensors[op_outputs(op)[0]].shape)
        for op in program.ops
        if isinstance(op, Conv2d) and op.weight_dtype == "w1" and program.tensors[op.input].dtype == "i8"
    ]

    def cost(tile: int) -> float:
        per_mac = {8: 0.3, 4: 0.43, 2: 0.75}[tile]
        return sum(
            height * -(-width // tile) * tile * op.kernel[0] * op.kernel[1] * (5 + per_mac * channels)
            for op, (height, width, channels) in layers
        )

    fastest = min((8, 4), key=cost)
    return [tile for tile in (8, 4, 2) if tile <= fastest]


def _rows_in_turn(program: Program) -> int:
    """Return how many of the first ops can run in bands: none of them reads what needs all rows before it."""
    pooled = {op.output for op in program.ops if isinstance(op, GlobalAvgPool)}
    for at, op in enumerate(program.ops):
        if isinstance(op, Concat | Mul | Resize) or op.input in pooled:
            return at
    return len(program.ops) - 1


def unsupported(op: Op) -> str:
    """Return why there is no C for `op`, and what to do; an empty string if there is."""
    if isinstance(op, Conv2d) and op.groups != 1 and op.weight_dtype != "i8":
        return f"has {op.groups} groups in float, expected int8; pack with --activations int8 --dense int8"
    if isinstance(op, Conv2d) and op.dilation != (1, 1):
        return f"has dilation {op.dilation}, expected 1; run it with the native runtime, or train it without"
    if isinstance(op, Bilinear):
        return (
            "is a bilinear resize, for which there is no C; resize to the nearest pixel, or after the network"
        )
    epilogue = getattr(op, "epilogue", None)
    if isinstance(epilogue, FloatEpilogue):
        for activation in (epilogue.pre, epilogue.post):
            if activation.kind not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                return f"has the activation {activation.kind}, expected {known}; train it with one of them"
    return ""


class C99Target:
    """A packed model as a folder of C99."""

    name = "c99"
    summary = "C99 for microcontrollers: a folder that compiles alone"
    options = frozenset({"name", "cpu", "arena-bytes", "flash-bytes"})

    def supports(self, program: Program) -> tuple[str, ...]:
        """Return which layers are beyond the kernels."""
        if not program.is_classifier:
            return ("it does not give logits alone, expected a classifier; pack the part that classifies",)
        reasons = []
        for op in program.ops:
            reason = unsupported(op)
            if reason:
                reasons.append(f"layer '{op.name}' {reason}")
            if reason or not isinstance(op, Conv2d) or op.weight_dtype != "w1":
                continue
            dtype = program.tensors[op.input].dtype
            inputs = op.kernel[0] * op.kernel[1] * program.tensors[op.input].shape[2]
            most = {"i8": _MOST_W1_INPUTS, "bits": _MOST_W1A1_INPUTS}.get(dtype, inputs)
            if inputs > most:
                reasons.append(
                    f"layer '{op.name}' sums {inputs} 1-bit products, expected at most {most}; give it fewer "
                    "input channels"
                )
        return tuple(reasons)

    def export(self, program: Program, out: Path, options: Mapping[str, Any]) -> Exported:
        """Write the folder `out`: whole, or not at all.

        Args:
            program: what to write.
            out: a folder that does not exist, or is empty.
            options: `name` (a C identifier), `cpu` (of `CORES`), `arena-bytes` and `flash-bytes` (what there
                is).

        Raises:
            LoweringError: for a value of `options` that cannot be; no placement fits.
            RunError: if `out` holds something, or cannot be written.
        """
        name = str(options.get("name", _default_name(program.name)))
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in _KEYWORDS:
            raise LoweringError(
                f"--name is '{name}', expected a C identifier that begins with a letter, such as "
                f"'{_default_name(name)}'"
            )
        core_name = str(options.get("cpu") or DEFAULT_CORE)
        check_one_of(core_name, CORES, "--cpu is", LoweringError)
        arena, flash = options.get("arena-bytes"), options.get("flash-bytes")
        for option, value in (("arena-bytes", arena), ("flash-bytes", flash)):
            if value is not None and value < 1:
                raise LoweringError(f"--{option} is {value}, expected at least 1 byte")
        core = CORES[core_name]
        placement, core = choose_placement(program, core, arena)
        files, facts = render(program, placement, core, name, *_test_picture(program), flash_bytes=flash)
        _write_folder(out, files)
        lines = (
            f"{facts['constant_bytes']:,} bytes of constants (flash), "
            f"{facts['arena_bytes']:,} bytes of working memory",
            *facts.pop("notes"),
        )
        order = ("README.md", *(path for path in files if path != "README.md"))
        return Exported(tuple(out / path for path in order), lines, facts)


def _default_name(name: str) -> str:
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    return word if word and word[0].isalpha() and word not in _KEYWORDS else f"net_{word}".rstrip("_")


def _test_picture(program: Program) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the bytes of every input one after the other, and what they are.

    A picture of the size of the bundled CIFAR-10 pictures is one of them.
    """
    if len(program.inputs) > 1:
        waves = [_waves(source.shape).reshape(-1) for source in program.inputs]
        return np.concatenate(waves), "A pattern of waves for each input"
    height, width, channels = program.input_shape
    if (height, width, channels) in ((32, 32, 3), (16, 16, 3)):
        with resources.as_file(resources.files("bitskip") / "data" / "mini_cifar10.npz") as path:
            pictures = np.load(path)
            picture = pictures["test_images"][0]
        if height == 16:
            blocks = picture.reshape(16, 2, 16, 2, 3).astype(np.uint16)
            picture = ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
        return picture.reshape(-1), "A test picture of CIFAR-10"
    return _waves(program.input_shape).reshape(-1), "A pattern of waves"


def _waves(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    y, x, c = np.ogrid[: shape[0], : shape[1], : shape[2]]
    waves: npt.NDArray[np.float64] = 128 + 60 * np.sin(x / (5 + c)) + 60 * np.cos(y / (3 + c))
    return waves.astype(np.uint8)


def _write_folder(out: Path, files: Mapping[str, str]) -> None:
    """Write everything into a folder beside `out`, then rename it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder; name another with -o")
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        for path, text in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; name another with -o") from None
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


TARGET = C99Target()
