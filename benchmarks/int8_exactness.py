"""Whether int8 engines give the sum that int8 arithmetic defines, where it is as large as it gets.

    python benchmarks/int8_exactness.py DIR -o benchmarks/results/int8_exactness.json

One 3x3 convolution of 64 channels, every activation 255 (uint8) and every weight 127: exact is
255 * 127 * 64 * 3 * 3. Engines on processors without a dot-product instruction (VNNI) multiply bytes by
pmaddubsw, whose pairwise sums saturate at 32,767 (2 * 255 * 127 = 64,770), which is faster than exact sums.
DIR is that of `runtime.py prepare`; engines that are not there are reported as missing.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bitskip.backends.native import NativeProgram, available_isas, cpu_features
from bitskip.bench import worker
from bitskip.files import write_json
from bitskip.machine import machine
from bitskip.program import Conv2d, FloatEpilogue, Output, Program, QuantizeInput, Tensor

CHANNELS, OUTPUTS, KERNEL = 64, 32, 3
EXACT = 255 * 127 * CHANNELS * KERNEL * KERNEL

# Runs where bitskip may be missing: worker.py needs numpy and the engine alone.
PROBE = """
import json, runpy, sys
import numpy as np
module = runpy.run_path(sys.argv[1])
loaded = module["load"](sys.argv[2], sys.argv[3], 1)
made = loaded.run(np.ones(loaded.shape, np.float32))
print(json.dumps({"value": float(made.reshape(-1)[0]), "version": loaded.version}))
"""


def write_onnx(path: Path) -> None:
    """Write the convolution as QDQ; its real output is 1 where the sum is exact."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "in_scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "weight": np.full((OUTPUTS, CHANNELS, KERNEL, KERNEL), 127, np.int8),
        "weight_scale": np.full(OUTPUTS, 255 / EXACT, np.float32),
        "weight_zero": np.zeros(OUTPUTS, np.int8),
        "out_scale": np.float32(1 / 255),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "in_scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "in_scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "out_scale", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "out_scale", "zero"], ["y"]),
    ]
    shapes = ([1, CHANNELS, KERNEL, KERNEL], [1, OUTPUTS, 1, 1])
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    )
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "conv", [given], [made], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))


def ours() -> Program:
    """Return the same convolution as a Program."""
    table = np.tile((np.arange(256) - 128).astype(np.int8), (CHANNELS, 1))
    shape, out = (KERNEL, KERNEL, CHANNELS), (1, 1, OUTPUTS)
    tensors = (Tensor("u8", shape), Tensor("i8", shape, 0, 1.0, -128), Tensor("f32", out, 1024))
    weight = np.full((OUTPUTS, KERNEL, KERNEL, CHANNELS), 127, np.int8)
    epilogue = FloatEpilogue(np.full(OUTPUTS, 1 / EXACT, np.float32), np.zeros(OUTPUTS, np.float32))
    return Program(
        "one convolution",
        tensors,
        (
            QuantizeInput("picture", 0, 1, table=table),
            Conv2d("conv", 1, (2,), "i8", weight, (1, 1), (0, 0), epilogue),
        ),
        (Output("logits", 2),),
        2048,
    )


def peer(engine: str, python: str, path: Path) -> dict[str, Any]:
    """Run the file in an engine of `python`'s environment."""
    command = [python, "-P", "-c", PROBE, worker.__file__, engine, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except OSError as error:
        return {"missing": f"cannot start {python}: {error.strerror}"}
    if done.returncode != 0:
        return {"missing": (done.stderr.strip().splitlines() or ["it said nothing"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(
    directory: Annotated[Path, typer.Argument(help="Directory that `runtime.py prepare` made.")],
    out: Annotated[Path | None, typer.Option("-o", help="JSON file to write.")] = None,
) -> None:
    """Print what each engine makes of the exact sum, as a share of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conv.onnx"
        write_onnx(path)
        own = directory / "openvino" / "bin" / "python"
        engines = {
            "onnxruntime": peer("onnxruntime", sys.executable, path),
            "openvino": peer("openvino", str(own) if own.exists() else sys.executable, path),
        }
    picture = np.full((1, KERNEL, KERNEL, CHANNELS), 255, np.uint8)
    for isa in available_isas():
        value = float(NativeProgram(ours(), 1, isa).run(picture)[0, 0])
        engines[f"bitskip {isa}"] = {"value": value}
    for name, found in engines.items():
        typer.echo(f"{name:20} {found.get('value', found.get('missing'))}")
    if out:
        values = {
            "benchmark": "int8_exactness",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "features": cpu_features(),
            "exact_sum": EXACT,
            "share_of_exact_sum": engines,
        }
        write_json(out, values)


if __name__ == "__main__":
    typer.run(main)
