"""ResNet14 as TFLite files, by TensorFlow's converter and by Larq Compute Engine's (LCE).

Runs in the environment of LCE (see runtime_peers.py) and imports nothing of bitskip:

    python benchmarks/peer_models_tflite.py DIR

Writes DIR/resnet14-fp32.tflite, resnet14-int8.tflite (full-integer, calibrated on random pictures), and
resnet14-lce-{float,hybrid,binary}.tflite. The float network is ResNet14 as the paper has it: ReLU on both
branches, then the sum. Binary stages are made as LCE's own models are: sign, 1-bit convolution padded by +1,
ReLU and batch norm, with a shortcut around every convolution; a strided one is an average pool and a 1x1
convolution. In `hybrid` the first and the last stage are binary.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import larq
import larq_compute_engine
import numpy as np
import tensorflow as tf

layers = tf.keras.layers
WIDTHS = (64, 128, 256)
STAGES = {
    "float": ("fp32", "fp32", "fp32"),
    "hybrid": ("w1a1", "fp32", "w1a1"),
    "binary": ("w1a1", "w1a1", "w1a1"),
}


def conv_bn_relu(x: Any, width: int, kernel: int, stride: int) -> Any:
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def real_block(x: Any, width: int, stride: int) -> Any:
    y = conv_bn_relu(conv_bn_relu(x, width, 3, stride), width, 3, 1)
    return layers.Add()([y, x if stride == 1 else conv_bn_relu(x, width, 1, stride)])


def binary_conv(x: Any, width: int, stride: int) -> Any:
    y = larq.layers.QuantConv2D(
        width, 3, stride, padding="same", pad_values=1.0, use_bias=False, activation="relu",
        input_quantizer="ste_sign", kernel_quantizer="ste_sign", kernel_constraint="weight_clip",
    )(x)  # fmt: skip
    if stride > 1:
        x = layers.AveragePooling2D(stride, stride)(x)
        x = layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(x))
    return layers.Add()([layers.BatchNormalization()(y), x])


def resnet14(stages: tuple[str, ...]) -> Any:
    picture = layers.Input((32, 32, 3), batch_size=1)
    x = conv_bn_relu(picture, 64, 3, 1)
    for number, (kind, width) in enumerate(zip(stages, WIDTHS, strict=True)):
        for block in range(2):
            stride = 2 if number and not block else 1
            if kind == "fp32":
                x = real_block(x, width, stride)
            else:
                x = binary_conv(binary_conv(x, width, stride), width, 1)
    return tf.keras.Model(picture, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def full_integer(model: Any) -> bytes:
    rng = np.random.default_rng(0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.standard_normal((1, 32, 32, 3)).astype(np.float32)] for _ in range(16)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main(directory: Path) -> None:
    real = resnet14(STAGES["float"])
    made = {
        "fp32": bytes(tf.lite.TFLiteConverter.from_keras_model(real).convert()),
        "int8": full_integer(real),
    }
    for name, stages in STAGES.items():
        made[f"lce-{name}"] = larq_compute_engine.convert_keras_model(resnet14(stages))
    for name, content in made.items():
        (directory / f"resnet14-{name}.tflite").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
