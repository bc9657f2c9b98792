"""Reads an ONNX file: whole, with one picture as its input and opset 11 to 28, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitskip.errors import FileFormatError, LoweringError, in_one_line

OPSETS = range(11, 29)


def read_model(path: Path) -> Any:
    """Return the ModelProto of a file, with shapes inferred.

    Raises:
        FileFormatError: if it cannot be read, is cut short, lacks its external data or has another opset.
        RunError: if the package onnx is missing.
    """
    from bitskip.backends.onnx.writer import require_onnx

    onnx = require_onnx()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's DecodeError, whatever package it comes from
        raise FileFormatError(f"{path} is not an ONNX file, or is cut short") from None
    if not model.graph.node or not model.opset_import:
        raise FileFormatError(f"{path} holds no ONNX graph; expected a model with nodes and an opset")
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        names = [entry.value for entry in tensor.external_data if entry.key == "location"]
        beside = path.parent / (names or [""])[0]
        if path.parent.resolve() not in beside.resolve().parents or not beside.is_file():
            raise FileFormatError(
                f"{path} keeps '{tensor.name}' in '{''.join(names)}', which does not lie beside it; put that "
                "file there"
            )
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise FileFormatError(f"the external data of {path} cannot be read ({in_one_line(error)})") from None
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset not in OPSETS:
        raise FileFormatError(
            f"{path} has opset {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}; convert it with "
            "onnx.version_converter"
        )
    return model


def picture_inputs(model: Any, path: Path, size: int | None) -> dict[str, tuple[int, int, int]]:
    """Return (C, H, W) of each input by its name.

    Args:
        model: the file.
        path: of it, for messages.
        size: height = width where the file leaves them free.

    Raises:
        FileFormatError: if the graph does not take batches of pictures.
        LoweringError: if it takes pixels, or pictures of another size than `size`.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not inputs:
        raise FileFormatError(f"{path} has no inputs, expected pictures")
    return {value.name: _picture_shape(value, path, size) for value in inputs}


def _picture_shape(value: Any, path: Path, size: int | None) -> tuple[int, int, int]:
    types = {1: "float32", 2: "uint8"}
    tensor = value.type.tensor_type
    dims = [dim.dim_value or None for dim in tensor.shape.dim]
    kind = types.get(tensor.elem_type)
    if kind is None or len(dims) != 4:
        raise FileFormatError(
            f"{path} takes '{value.name}' of type {tensor.elem_type} and {len(dims)} dimensions, "
            "expected float32 (N, C, H, W) or uint8 (N, H, W, C)"
        )
    if kind == "uint8":
        raise LoweringError(f"{path} takes uint8 pictures; export it with --input normalised")
    channels, height, width = dims[1:]
    if size is not None and any(side not in (None, size) for side in (height, width)):
        raise LoweringError(
            f"{path} takes pictures of {height or size}x{width or size} pixels, so --input-size {size} does "
            "not apply; leave it out, or export the network for another size"
        )
    height, width = height or size, width or size
    if channels is None or height is None or width is None:
        raise FileFormatError(
            f"{path} leaves the size of its pictures free ({dims[1:]}); say it with --input-size"
        )
    return channels, height, width
