"""ResNet14 as OpenVINO files: int8 by NNCF, and with its binary convolution in all three stages.

Runs in an environment with openvino and nncf (see runtime_peers.py) and imports nothing of bitskip:

    python benchmarks/peer_models_openvino.py DIR

Reads DIR/resnet14-fp32.onnx and writes DIR/resnet14-int8-nncf.xml; writes DIR/resnet14-binary.xml, in which
signs are a fake_quantize of 2 levels, as the plug-in wants them, and every convolution has a shortcut of its
own, batch norm and PReLU; a strided shortcut is an average pool and a real 1x1 convolution.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset1 as ops

RNG = np.random.default_rng(0)
WIDTHS = (64, 128, 256)


def floats(*shape: int, scale: float = 1.0) -> Any:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def per_channel(x: Any, width: int, scale: float = 1.0) -> Any:
    """Batch norm as it stands in an inference graph."""
    return ops.add(ops.multiply(x, floats(1, width, 1, 1, scale=scale)), floats(1, width, 1, 1))


def conv(x: Any, channels: int, width: int, kernel: int) -> Any:
    pad = [kernel // 2] * 2
    weights = floats(width, channels, kernel, kernel, scale=1 / (kernel * channels**0.5))
    return per_channel(ops.convolution(x, weights, [1, 1], pad, pad, [1, 1]), width)


def binary_conv(x: Any, channels: int, width: int, stride: int) -> Any:
    threshold = floats(1, channels, 1, 1, scale=0.1)
    one = np.ones((1, 1, 1, 1), np.float32)
    signs = ops.fake_quantize(x, threshold, threshold, -one, one, 2)
    bits = RNG.integers(0, 2, width * channels * 3 * 3)
    weights = openvino.op.Constant(openvino.Type.u1, openvino.Shape([width, channels, 3, 3]), bits.tolist())
    y = ops.binary_convolution(
        signs, weights, [stride] * 2, [1, 1], [1, 1], [1, 1], "xnor-popcount", 0.0
    )  # fmt: skip
    if stride > 1:
        x = ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True)
        x = conv(x, channels, width, 1)
    return ops.prelu(ops.add(per_channel(y, width, 1 / (3 * channels**0.5)), x), floats(width))


def binary_resnet14() -> Any:
    picture = ops.parameter([1, 3, 32, 32], np.float32, "x")
    x, channels = ops.relu(conv(picture, 3, 64, 3)), 64
    for stage, width in enumerate(WIDTHS):
        for index in range(4):
            x = binary_conv(x, channels, width, 2 if stage and not index else 1)
            channels = width
    pooled = ops.reduce_mean(x, np.array([2, 3]), False)
    return openvino.Model([ops.matmul(pooled, floats(256, 10), False, False)], [picture], "binary")


def int8(path: Path) -> Any:
    import nncf

    def ready(picture: Any) -> Any:
        return picture

    pictures = nncf.Dataset([floats(1, 3, 32, 32) for _ in range(16)], ready)
    return nncf.quantize(openvino.Core().read_model(str(path)), pictures, subset_size=16)


def main(directory: Path) -> None:
    openvino.save_model(binary_resnet14(), directory / "resnet14-binary.xml", compress_to_fp16=False)
    made = int8(directory / "resnet14-fp32.onnx")
    openvino.save_model(made, directory / "resnet14-int8-nncf.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
