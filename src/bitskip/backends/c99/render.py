"""A placed program to the files of its folder, through the templates."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from bitskip import __version__
from bitskip.backends.c99.bounds import room_above, shared_bias
from bitskip.backends.c99.cores import Core
from bitskip.backends.c99.counts import predict
from bitskip.backends.c99.epilogues import Written
from bitskip.backends.c99.kernels import Writer, scratch_bytes
from bitskip.backends.c99.placement import Placed, Placement, steps_of, window_of
from bitskip.backends.reference import run_reference
from bitskip.errors import LoweringError
from bitskip.program import Conv2d, IntegerEpilogue, Op, Program, op_inputs, op_outputs

# Flash that networks took at most besides their constants (docs/edge.md): code by level, fastest first, and
# what an op's calls read.
_CODE_BYTES = {"-O3": 13_312, "-O2": 6_400}
_OP_BYTES = 80

_FILES = {
    "src/{name}.h": "network.h.j2",
    "src/{name}.c": "network.c.j2",
    "src/{name}_weights.h": "weights.h.j2",
    "main.c": "main.c.j2",
    "test_picture.h": "test_picture.h.j2",
    "README.md": "README.md.j2",
    "CMakeLists.txt": "CMakeLists.txt.j2",
    "library.properties": "library.properties.j2",
    "idf_component.yml": "idf_component.yml.j2",
    "zephyr/module.yml": "module.yml.j2",
    "zephyr/CMakeLists.txt": "zephyr.cmake.j2",
}


# The entries of a lookup table in Gray code: (entry, the step from the one before).
_GRAY = tuple(
    (
        k ^ (k >> 1),
        "" if k == 1 else ("+" if (k ^ (k >> 1)) & (k & -k) else "-") + str((k & -k).bit_length() - 1),
    )
    for k in range(1, 16)
)


@dataclass(frozen=True)
class _PlacedOp:
    """One op as the templates see it."""

    number: int
    written: Written
    steps: int
    scratch: int
    banded: bool
    downward: bool
    needs: tuple[str, ...] = ()
    last: bool = False


@dataclass(frozen=True)
class _InputRow:
    """One input: its name, and where it begins in the block of bytes that the network takes."""

    name: str
    at: int
    shape: tuple[int, int, int]  # H, W, C

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _TensorRow:
    number: int
    place: Placed
    height: int
    comment: str


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bitskip.backends.c99", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(
    program: Program,
    placement: Placement,
    core: Core,
    name: str,
    picture: npt.NDArray[np.uint8],
    picture_words: str,
    *,
    flash_bytes: int | None = None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the folder's files, path to text, and facts about it as JSON values.

    Raises:
        LoweringError: if the constants alone take more than `flash_bytes`.
    """
    epilogues = [op.epilogue for op in program.ops if hasattr(op, "epilogue")]
    wide_bias = not core.long_multiply or any(
        shared_bias(e.bias.astype(np.int64) << room_above(e)) is None
        for e in epilogues
        if isinstance(e, IntegerEpilogue)
    )
    writer = Writer(program, placement, core, wide_bias)
    written = [writer.write(at) for at in range(len(program.ops))]
    ops = [
        _PlacedOp(
            at,
            written[at],
            steps_of(op, program.tensors),
            scratch_bytes(op, program, core),
            at < placement.bands,
            placement.downward[at],
            _needs(at, op, program) if at < placement.bands else (),
            at < placement.bands and _leaves_bands(op, placement, program),
        )
        for at, op in enumerate(program.ops)
    ]
    exact = not any(program.tensors[op.input].dtype == "f32" for op in program.ops if isinstance(op, Conv2d))
    exact = exact and not any(
        op.kind in ("avg_pool", "global_avg_pool") and program.tensors[op.input].dtype == "f32"
        for op in program.ops
    )
    has_float = bool(writer.uses & {"float", "conv_f32", "input_f32", "dequantize", "gap_f32", "avg_pool"})
    inputs = _inputs(program)
    pictures = [picture[i.at : i.at + i.size].reshape(1, *i.shape) for i in inputs]
    logits = run_reference(program, tuple(pictures))[0]
    constant_bytes = writer.constants.size
    level = _level(program, constant_bytes, flash_bytes)
    arena_bytes = max(placement.arena_bytes, 4)
    macs = sum(
        int(np.prod(op.weight.shape[:3]))
        * (program.tensors[op.input].shape[2] // op.groups)
        * int(np.prod(program.tensors[op_outputs(op)[0]].shape[:2]))
        for op in program.ops
        if isinstance(op, Conv2d)
    )
    float_words = (
        "Some layers compute in float: without a floating point unit they take many more instructions."
        if has_float
        else "All arithmetic is in integers; the logits are the float32 bits of bitskip's reference."
    )
    values: dict[str, Any] = {
        "title": program.name.replace("*/", "").replace("\n", " "),
        "version": __version__,
        "name": name,
        "NAME": name.upper(),
        "guard": name.upper(),
        "core": core,
        "tile": core.tile,
        "words": core.tile // 2,
        "paired": core.paired,
        "grouped_taps": writer.grouped_taps,
        "w1_groups": sorted(writer.groups, reverse=True),
        "gray": _GRAY,
        "shifts": sorted(writer.shifts, reverse=True),
        "dsp": core.dsp,
        "bias64": wide_bias,
        "rounded": "bsk_rounded" if "float" in writer.uses else "volatile float",
        "digits": writer.digits,
        "placement": placement,
        "uses": writer.uses,
        "inputs": inputs,
        "input_bytes": picture.size,
        "classes": program.classes,
        "class_names": [_c_text(n) for n in (program.class_names or map(str, range(program.classes)))],
        "constants": writer.constants.texts,
        "constant_bytes": constant_bytes,
        "level": level,
        "arena_bytes": arena_bytes,
        "macs": macs,
        "instructions": predict(program, core.name),
        "ops": ops,
        "bands": [op for op in ops if op.banded] if placement.bands > 1 else [],
        "loops": any(op.steps > 1 and not op.banded for op in ops),
        "tensors": [
            _TensorRow(
                n, place, program.tensors[n].shape[0], f"{t.name}, {t.dtype} {' x '.join(map(str, t.shape))}"
            )
            for n, place in sorted(placement.places.items())
            for t in (program.tensors[n],)
            if _addressed(n, program)
        ],
        "about": _about(placement, has_float),
        "float_words": float_words,
        "picture": _bytes(picture),
        "picture_words": picture_words,
        "logits": "    " + ", ".join(f"0x{int(bits):08x}u" for bits in logits.view(np.uint32)),
        "exact": exact,
        "best": int(logits.argmax()),
    }
    environment = _environment()
    files = {
        path.format(name=name): environment.get_template(template).render(values)
        for path, template in _FILES.items()
    }
    facts = {
        "name": name,
        "cpu": core.name,
        "constant_bytes": constant_bytes,
        "level": level,
        "arena_bytes": arena_bytes,
        "live_bytes": placement.live_bytes,
        "bands": placement.bands,
        "macs": macs,
        "instructions": predict(program, core.name),
        "float": has_float,
        "kernels": sorted(writer.uses & {"w1", "w1a1", "i8", "grouped", "depthwise", "conv_f32"}),
        "notes": [float_words] if has_float else [],
    }
    return files, facts


def _level(program: Program, constants: int, flash: int | None) -> str:
    """Return the level to compile at: the fastest whose code surely fits, else -Os.

    Without `flash` that is -O2 where code at -O3 could take more of it than the constants.

    Raises:
        LoweringError: if the constants alone do not fit.
    """
    if flash is not None and constants >= flash:
        raise LoweringError(
            f"--flash-bytes is {flash}, but the constants of '{program.name}' alone are {constants} bytes"
        )
    besides = {level: code + _OP_BYTES * len(program.ops) for level, code in _CODE_BYTES.items()}
    if flash is None:
        return "-O3" if constants >= besides["-O3"] else "-O2"
    return next((level for level, code in besides.items() if constants + code <= flash), "-Os")


def _inputs(program: Program) -> list[_InputRow]:
    found: list[_InputRow] = []
    for source in program.inputs:
        at = sum(row.size for row in found)
        found.append(_InputRow(source.name.replace("*/", ""), at, source.shape))
    return found


def _addressed(number: int, program: Program) -> bool:
    """Whether a tensor's place is named in the code."""
    return any(number in (*op_inputs(op), *op_outputs(op)) for op in program.ops)


def _needs(at: int, op: Op, program: Program) -> tuple[str, ...]:
    """Return the calls that make the rows which a step reads."""
    maker = {number: k for k, made in enumerate(program.ops[:at]) for number in op_outputs(made)}
    calls = []
    for number in op_inputs(op):
        if number not in maker:
            continue
        height = program.tensors[number].shape[0]
        window = window_of(op) if number == op.input else None
        if window is None or (window.kernel, window.stride, window.padding) == (1, 1, 0):
            rows = "y + 1"
        else:
            last = f"y * {window.stride} + {window.kernel - window.padding}"
            rows = f"{last} < {height} ? {last} : {height}"
        calls.append(f"need_{maker[number]}(b, {rows});")
    return tuple(calls)


def _leaves_bands(op: Op, placement: Placement, program: Program) -> bool:
    """Whether something after the bands reads what `op` writes, or nothing does."""
    within = {n for later in program.ops[: placement.bands] for n in op_inputs(later)}
    after = {n for later in program.ops[placement.bands :] for n in op_inputs(later)}
    outs = set(op_outputs(op))
    return bool(outs & after) or not outs & within


def _about(placement: Placement, has_float: bool) -> list[str]:
    lines = [
        "Tensors are (height, width, channels), channels last. int8 stands for (q - zero_point) * scale;",
        "bits lie in words of 32 channels, 1 meaning -1. An op computes a row at a time.",
    ]
    if placement.bands > 1:
        lines.append(
            f"The first {placement.bands} ops run in bands: rows are computed when needed, and few are kept."
        )
    if not has_float:
        lines.append("There is no float arithmetic in here.")
    return lines


def _c_text(text: str) -> str:
    """Return a class name inside the quotes of a C string."""
    return "".join(
        c
        if c.isascii() and c.isprintable() and c not in '"\\?'
        else "".join(f"\\{b:03o}" for b in c.encode())
        for c in text
    )


def _bytes(values: npt.NDArray[np.uint8]) -> str:
    flat = [str(int(v)) for v in values.reshape(-1)]
    return ",\n".join("    " + ", ".join(flat[at : at + 24]) for at in range(0, len(flat), 24))
