"""The architecture of a spec as files for other engines: ONNX in fp32 and int8, and TorchScript.

Importing this module loads no torch; `export` does.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bitskip.errors import RunError
from bitskip.spec import NetworkSpec


def full_precision(spec: NetworkSpec) -> NetworkSpec:
    """Return the same architecture with every layer in fp32."""
    return dataclasses.replace(
        spec,
        precision=("fp32",) * len(spec.widths),
        layer_precision={},
        stem_precision="fp32",
        head_precision="fp32",
    )


def export(spec: NetworkSpec, directory: Path, batch: int = 1, prefix: str = "") -> list[str]:
    """Write the architecture of `spec` for the peers, with random weights: speed does not depend on them.

    Args:
        spec: of the network; its bits do not matter.
        directory: gets fp32.onnx, fp32.pt (TorchScript) and, where onnxruntime is installed, int8.onnx.
        batch: pictures a call, fixed in the files.
        prefix: of the file names.

    Returns:
        A sentence for each file that could not be made.

    Raises:
        RunError: if torch or onnx is missing.
    """
    absent = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    if absent:
        raise RunError(
            f"peers need the network exported by torch and onnx, but {' and '.join(absent)} cannot be "
            "imported; pip install torch onnx onnxscript onnxruntime"
        )
    import torch

    from bitskip.nn import build

    fp32 = directory / f"{prefix}fp32.onnx"
    shape = (batch, spec.input_channels, spec.input_size, spec.input_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no onnxscript is called legacy, and says so
        torch.manual_seed(0)
        model = build(full_precision(spec)).eval()
        example = torch.randn(shape)
        torch.onnx.export(
            model, (example,), str(fp32), dynamo=False, input_names=["x"], opset_version=17
        )  # fmt: skip
        trace: Any = torch.jit.trace
        traced = trace(model, example)
        extra = {"shape": ",".join(map(str, shape))}
        torch.jit.save(traced, str(directory / f"{prefix}fp32.pt"), _extra_files=extra)
    if importlib.util.find_spec("onnxruntime") is None:
        return ["int8 peers: onnxruntime makes their file; install it with pip install onnxruntime"]
    quantize(fp32, directory / f"{prefix}int8.onnx", shape)
    return []


def quantize(fp32: Path, int8: Path, shape: tuple[int, ...]) -> None:
    """Write `fp32` as int8 (QDQ, a scale a channel), calibrated on random pictures: speed alone is meant."""
    import onnxruntime.quantization as quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rng = np.random.default_rng(0)
    left = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(16)]

    class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return left.pop() if left else None

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without this step biases stay computed values, and no peer finds its int8 kernels.
        simplified = str(Path(folder) / "simplified.onnx")
        quant_pre_process(str(fp32), simplified)
        quantization.quantize_static(
            simplified, str(int8), Pictures(), per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
