"""An op as the columns of the file's record, and back; the table of `bitskip.program.schema` says where."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitskip.errors import FileFormatError
from bitskip.program.ops import (
    Activation,
    Array,
    Binarize,
    FloatEpilogue,
    IntegerEpilogue,
    Op,
    ThresholdEpilogue,
    op_inputs,
    op_outputs,
)
from bitskip.program.schema import (
    ACTIVATIONS,
    COLUMNS,
    CONSTANTS,
    EPILOGUES,
    NONE,
    OPS,
    WEIGHT_DTYPES,
    row_of,
)

_VECTORS = ("slope", "shift_in", "shift_out")
_BY_CODE = {row.code: row for row in OPS.values()}
_ACTIVATION_OF = {code: kind for kind, (code, _, _) in ACTIVATIONS.items()}
_EPILOGUE_OF = {row.code: kind for kind, row in EPILOGUES.items()}
_WEIGHT_OF = {code: name for name, code in WEIGHT_DTYPES.items()}
_SWITCHES = ("in_place", "count_padding")
# fields of each op's dataclass, and whether they must be given
_FIELDS = {
    kind: {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(row.cls)}
    for kind, row in OPS.items()
}


@dataclass(frozen=True)
class Flat:
    """An op without its dataclasses: the values of its columns, and its constants by name."""

    epilogue: str
    values: dict[str, Any]
    constants: dict[str, Array]


def flatten(op: Op) -> Flat:
    """Return the columns of a checked op; what it does not use is not there."""
    row = row_of(op)
    assert row is not None
    values: dict[str, Any] = {"inputs": op_inputs(op), "outputs": op_outputs(op)}
    constants: dict[str, Array | None] = {}
    for name in row.attributes:
        (constants if name in CONSTANTS else values)[name] = getattr(op, name)
    kind = ""
    if isinstance(op, Binarize):
        kind = "float" if op.q_threshold is None and op.flip is None else "threshold"
        constants |= {"threshold": op.threshold if kind == "float" else op.q_threshold, "flip": op.flip}
    elif (epilogue := getattr(op, "epilogue", None)) is not None:
        kind = epilogue.kind
        _flatten_epilogue(epilogue, values, constants)
    return Flat(kind, values, {name: array for name, array in constants.items() if array is not None})


def _flatten_epilogue(epilogue: Any, values: dict[str, Any], constants: dict[str, Any]) -> None:
    if isinstance(epilogue, FloatEpilogue):
        constants |= {name: getattr(epilogue, name) for name in ("scale", "bias", "threshold")}
        for at in ("pre", "post"):
            activation = getattr(epilogue, at)
            values[at] = activation.kind
            constants |= {f"{at}_{name}": getattr(activation, name) for name in _VECTORS}
    elif isinstance(epilogue, ThresholdEpilogue):
        constants |= {"threshold": epilogue.threshold, "flip": epilogue.flip}
    else:
        values |= {
            "pre": "relu" if epilogue.pre_relu else "none",
            "post": "relu" if epilogue.post_relu else "none",
            "shift": epilogue.shift,
            "residual_multiplier": epilogue.residual_multiplier,
        }
        constants |= {"multiplier": epilogue.multiplier, "bias": epilogue.bias}


def to_columns(flat: Flat, kind: str) -> dict[str, Any]:
    """Return the record's values by column, constants apart; columns that the op does not use are absent."""
    found = dict(flat.values)
    found["kind"] = OPS[kind].code
    found["epilogue"] = EPILOGUES[flat.epilogue].code
    for at in ("pre", "post"):
        if at in found:
            found[at] = ACTIVATIONS[found[at]][0]
    if "weight_dtype" in found:
        found["weight_dtype"] = WEIGHT_DTYPES[found["weight_dtype"]]
    if "stride" in found:
        between = [value - 1 for value in found.get("dilation", (1, 1))]
        found["steps"] = (found["stride"][0], between[0], found["stride"][1], between[1])
    for column in COLUMNS:
        if column.count > 1 and column.name in found:
            values = tuple(found[column.name])
            found[column.name] = values + (column.unused,) * (column.count - len(values))
    return found


def from_columns(columns: dict[str, Any], where: str) -> tuple[str, Flat]:
    """Return the op's kind and its flat form, without constants, from a record's columns.

    Raises:
        FileFormatError: if a code is unknown.
    """

    def known(table: dict[int, Any], column: str) -> Any:
        if columns[column] not in table:
            raise FileFormatError(f"{where}: {column} is {columns[column]}, which is unknown")
        return table[columns[column]]

    row = known(_BY_CODE, "kind")
    values = {name: columns[name] for name in row.attributes if name in columns and name not in CONSTANTS}
    if "stride" in row.attributes:
        values["stride"] = columns["steps"][0::2]
    if "dilation" in row.attributes:
        values["dilation"] = tuple(between + 1 for between in columns["steps"][1::2])
    for name in ("inputs", "outputs"):
        values[name] = tuple(number for number in columns[name] if number != NONE)
    if "weight_dtype" in values:
        values["weight_dtype"] = known(_WEIGHT_OF, "weight_dtype")
    for name in _SWITCHES:
        if name in values:
            values[name] = known({0: False, 1: True}, name)
    epilogue = known(_EPILOGUE_OF, "epilogue")
    if epilogue in ("float", "integer"):
        values |= {at: known(_ACTIVATION_OF, at) for at in ("pre", "post")}
        values |= {name: columns[name] for name in ("shift", "residual_multiplier")}
    return row.kind, Flat(epilogue, values, {})


def unflatten(kind: str, name: str, flat: Flat, where: str) -> Op:
    """Return the op that `flatten` turned into `flat`.

    Raises:
        FileFormatError: if something that its dataclass needs is not there.
    """
    row, values, constants = OPS[kind], flat.values, flat.constants
    inputs, outputs = values["inputs"], values["outputs"]
    if not inputs or not outputs:
        raise FileFormatError(f"{where}: has {len(inputs)} inputs and {len(outputs)} outputs")
    fields: dict[str, Any] = {"name": name}
    names = _FIELDS[kind]
    fields |= {key: values[key] for key in row.attributes if key in names and key in values}
    fields |= {key: constants.get(key) for key in row.attributes if key in names and key in CONSTANTS}
    rest = inputs[1:]
    if "inputs" in names:
        fields["inputs"], rest = inputs, ()
    else:
        fields["input"] = inputs[0]
    if "factor" in names and rest:
        fields["factor"], rest = rest[0], rest[1:]
    residual = None
    if row.residual != "none" and rest:
        residual, rest = rest[0], rest[1:]
    if rest:
        raise FileFormatError(f"{where}: '{kind}' reads {len(inputs)} tensors, which is too many")
    if "outputs" in names:
        fields["outputs"] = outputs
    elif len(outputs) == 1:
        fields["output"] = outputs[0]
    else:
        raise FileFormatError(f"{where}: '{kind}' writes {len(outputs)} tensors, expected 1")
    if row.cls is Binarize:
        threshold = "threshold" if flat.epilogue == "float" else "q_threshold"
        fields |= {threshold: constants.get("threshold"), "flip": constants.get("flip")}
    elif "epilogue" in names:
        fields["epilogue"] = _epilogue(flat, residual, where)
    missing = [name for name, needed in names.items() if needed and name not in fields]
    missing += [key for key in ("weight",) if key in fields and fields[key] is None]
    if missing:
        raise FileFormatError(f"{where}: '{kind}' lacks its field '{missing[0]}'")
    op: Op = row.cls(**fields)
    return op


def _epilogue(flat: Flat, residual: int | None, where: str) -> Any:
    values, constants = flat.values, flat.constants
    if flat.epilogue == "float":
        plain: dict[str, Any] = {name: constants.get(name) for name in ("scale", "bias", "threshold")}
        pre, post = (
            Activation(values[at], *(constants.get(f"{at}_{name}") for name in _VECTORS))
            for at in ("pre", "post")
        )
        return FloatEpilogue(**plain, pre=pre, residual=residual, post=post)
    needed = EPILOGUES[flat.epilogue].needs
    for name in needed:
        if name not in constants:
            raise FileFormatError(f"{where}: a {flat.epilogue} epilogue lacks its {name}")
    if flat.epilogue == "threshold":
        return ThresholdEpilogue(constants["threshold"], constants["flip"])
    if flat.epilogue == "integer":
        relu = {at: values[at] == "relu" for at in ("pre", "post")}
        return IntegerEpilogue(
            constants["multiplier"],
            constants["bias"],
            values["shift"],
            pre_relu=relu["pre"],
            residual=residual,
            residual_multiplier=values["residual_multiplier"],
            post_relu=relu["post"],
        )
    raise FileFormatError(f"{where}: has no epilogue")


def is_small(bias: Array) -> int | None:
    """Return the shift under which int64 values take 32 bits each, or None if there is none."""
    together = int(np.bitwise_or.reduce(bias.ravel())) if bias.size else 0
    zeros = (together & -together).bit_length() - 1 if together else 0
    shift = min(zeros, 31)
    small = bias >> shift
    # np.abs(-2^63) is negative, so compare the ends
    return shift if -(1 << 31) < int(small.min()) and int(small.max()) < 1 << 31 else None
