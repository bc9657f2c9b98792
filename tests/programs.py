"""Programs made by hand, with every kind of op, for the tests of files, validation and runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitskip.bits import pack_signs
from bitskip.program import (
    Activation,
    Add,
    Affine,
    AvgPool,
    Bilinear,
    Binarize,
    Concat,
    Conv2d,
    Dequantize,
    FloatEpilogue,
    GlobalAvgPool,
    IntegerEpilogue,
    Lookup,
    MaxPool,
    Mul,
    Op,
    Output,
    Program,
    Quantize,
    QuantizeInput,
    Resize,
    Tensor,
    ThresholdEpilogue,
)


class Maker:
    """Collects tensors and ops; every tensor gets a place of its own in the arena."""

    def __init__(self, shape: tuple[int, int, int] = (6, 5, 3), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = [Tensor("u8", shape, name="picture")]
        self.ops: list[Op] = []
        self.end = 0

    def tensor(self, dtype: str, shape: tuple[int, int, int], **quantization: Any) -> int:
        made = Tensor(dtype, shape, self.end, name=f"t{len(self.tensors)}", **quantization)
        self.end += -(-made.size // 64) * 64
        self.tensors.append(made)
        return len(self.tensors) - 1

    def floats(self, *shape: int) -> npt.NDArray[np.float32]:
        return self.rng.normal(size=shape).astype(np.float32)

    def signs(self, *shape: int) -> npt.NDArray[np.uint64]:
        return pack_signs(self.floats(*shape))

    def int8(self, *shape: int) -> npt.NDArray[np.int8]:
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def done(self, output: int, **labels: Any) -> Program:
        return Program(
            "by hand", tuple(self.tensors), tuple(self.ops), (Output("logits", output),), self.end, **labels
        )


I8 = {"scale": float(np.float32(0.05)), "zero_point": -7}


def two_inputs() -> Program:
    """Return a classifier of a picture `left` and a smaller grey one `right`, in f32 and i8."""
    m = Maker()
    m.tensors = [Tensor("u8", (6, 5, 3), name="left"), Tensor("u8", (3, 2, 1), name="right")]
    left = m.tensor("f32", (6, 5, 3))
    m.ops.append(QuantizeInput("left", 0, left, m.floats(3) / 255, m.floats(3)))
    right = m.tensor("i8", (3, 2, 1), **I8)
    m.ops.append(QuantizeInput("right", 1, right, table=np.arange(-128, 128, dtype=np.int8)[None]))
    both = []
    for source, kind, channels in ((left, "f32", 3), (right, "i8", 1)):
        weight = m.floats(4, 3, 3, channels) if kind == "f32" else m.int8(4, 3, 3, channels)
        made = m.tensor("f32", m.tensors[source].shape[:2] + (4,))
        epilogue = FloatEpilogue(scale=m.floats(4) / 40, post=Activation("relu"))
        m.ops.append(Conv2d(f"conv_{kind}", source, (made,), kind, weight, (1, 1), (1, 1), epilogue))
        both.append(m.tensor("f32", (1, 1, 4)))
        m.ops.append(GlobalAvgPool(f"mean_{kind}", made, both[-1]))
    joined, logits = m.tensor("f32", (1, 1, 8)), m.tensor("f32", (1, 1, 5))
    m.ops.append(Concat("join", tuple(both), joined))
    m.ops.append(
        Conv2d("fc", joined, (logits,), "f32", m.floats(5, 1, 1, 8), (1, 1), (0, 0), FloatEpilogue())
    )
    return m.done(logits, mean=(0.5, 0.4, 0.3, 0.2), std=(0.2, 0.3, 0.2, 0.1))


def every_op() -> Program:
    """Return a program in which each op and each epilogue occurs."""
    m = Maker()
    f32 = m.tensor("f32", (6, 5, 3))
    m.ops.append(QuantizeInput("picture", 0, f32, m.floats(3) / 100, m.floats(3)))
    i8 = m.tensor("i8", (6, 5, 3), **I8)
    m.ops.append(QuantizeInput("picture", 0, i8, table=m.rng.integers(-128, 128, (3, 256)).astype(np.int8)))

    stem, signs = m.tensor("f32", (6, 5, 9)), m.tensor("bits", (6, 5, 9))
    react = Activation("rprelu", m.floats(9), m.floats(9), m.floats(9))
    m.ops.append(
        Conv2d("stem", f32, (stem, signs), "f32", m.floats(9, 3, 3, 3), (1, 1), (1, 1),
               FloatEpilogue(None, m.floats(9), react, threshold=m.floats(9)))
    )  # fmt: skip
    binary = m.tensor("bits", (6, 5, 70))
    m.ops.append(
        Conv2d("threshold", signs, (binary,), "w1", m.signs(70, 3, 3, 9), (1, 1), (1, 1),
               ThresholdEpilogue(m.rng.integers(-20, 20, 70).astype(np.int32), m.rng.random(70) < 0.5))
    )  # fmt: skip
    added = m.tensor("f32", (6, 5, 9))
    m.ops.append(
        Conv2d("residual", binary, (added,), "w1", m.signs(9, 3, 3, 70), (1, 1), (1, 1),
               FloatEpilogue(m.floats(9), m.floats(9), Activation("relu"), stem,
                             Activation("prelu", m.floats(9))),
               pad_value=-1)
    )  # fmt: skip
    integer = m.tensor("i8", (3, 3, 9), **I8)
    m.ops.append(
        Conv2d("integer", i8, (integer,), "i8", m.int8(9, 3, 3, 3), (2, 2), (1, 1),
               IntegerEpilogue(m.rng.integers(1, 1 << 20, 9).astype(np.int32),
                               m.rng.integers(-(1 << 40), 1 << 40, 9) >> 12 << 12, 28, pre_relu=True))
    )  # fmt: skip
    mixed = m.tensor("i8", (3, 3, 9), **I8)
    m.ops.append(
        Conv2d("mixed", integer, (mixed,), "w1", m.signs(9, 1, 1, 9), (1, 1), (0, 0),
               IntegerEpilogue(m.rng.integers(1, 1 << 22, 9).astype(np.int32),
                               m.rng.integers(-(1 << 40), 1 << 40, 9), 24, residual=integer,
                               residual_multiplier=1 << 23, post_relu=True))
    )  # fmt: skip
    total = m.tensor("i8", (3, 3, 9), **I8)
    m.ops.append(
        Add("integer add", mixed, (total,),
            IntegerEpilogue(np.full(9, 1 << 20, np.int32), np.zeros(9, np.int64), 21, residual=integer,
                            residual_multiplier=1 << 20))
    )  # fmt: skip
    pooled = m.tensor("f32", (3, 2, 9))
    m.ops.append(MaxPool("max", added, pooled, (2, 2), (2, 2)))
    quantized = m.tensor("i8", (3, 2, 9), **I8)
    m.ops.append(Quantize("quantize", pooled, quantized))
    back = m.tensor("f32", (3, 2, 9))
    m.ops.append(Dequantize("dequantize", quantized, back))
    scaled, scaled_i8 = m.tensor("f32", (3, 2, 9)), m.tensor("i8", (3, 2, 9), **I8)
    m.ops.append(
        Affine("affine", back, (scaled, scaled_i8),
               FloatEpilogue(m.floats(9), m.floats(9), Activation("relu")))
    )  # fmt: skip
    both, some = m.tensor("f32", (3, 2, 9)), m.tensor("bits", (3, 2, 9))
    m.ops.append(Add("add", scaled, (both, some), FloatEpilogue(residual=pooled, post=Activation("relu"))))
    averaged = m.tensor("f32", (2, 1, 9))
    m.ops.append(AvgPool("avg", both, averaged, (2, 2), (2, 2)))
    unread = m.tensor("bits", (2, 1, 9))
    m.ops.append(Binarize("binarize", averaged, unread, m.floats(9)))
    by_q = m.tensor("bits", (3, 2, 9))
    m.ops.append(
        Binarize("binarize int8", scaled_i8, by_q, None,
                 m.rng.integers(-128, 127, 9).astype(np.int32), m.rng.random(9) < 0.5)
    )  # fmt: skip
    depthwise = m.tensor("i8", (3, 3, 9), **I8)
    m.ops.append(
        Conv2d("depthwise", total, (depthwise,), "i8", m.int8(9, 3, 3, 1), (1, 1), (1, 1),
               IntegerEpilogue(np.full(9, 1 << 16, np.int32), np.zeros(9, np.int64), 24), groups=9)
    )  # fmt: skip
    dilated = m.tensor("i8", (3, 3, 9), **I8)
    m.ops.append(
        Conv2d("dilated", total, (dilated,), "i8", m.int8(9, 3, 2, 9), (1, 1), (2, 2),
               IntegerEpilogue(np.full(9, 1 << 14, np.int32), np.zeros(9, np.int64), 24), dilation=(2, 4))
    )  # fmt: skip
    m.ops.append(Bilinear("bilinear", both, m.tensor("f32", (5, 7, 9))))
    looked_up, doubled = m.tensor("i8", (3, 3, 9), **I8), m.tensor("i8", (6, 6, 9), **I8)
    m.ops.append(Lookup("lookup", depthwise, looked_up, m.int8(256)))
    m.ops.append(Resize("resize", looked_up, doubled))
    joined = m.tensor("i8", (3, 3, 27), **I8)
    m.ops.append(Concat("concat", (looked_up, total, depthwise), joined))
    squeezed = m.tensor("f32", (1, 1, 9))
    m.ops.append(GlobalAvgPool("squeeze", both, squeezed))
    excited = m.tensor("f32", (1, 1, 9))
    m.ops.append(
        Conv2d("excite", squeezed, (excited,), "f32", m.floats(9, 1, 1, 3), (1, 1), (0, 0),
               FloatEpilogue(bias=m.floats(9), pre=Activation("sigmoid")), groups=3)
    )  # fmt: skip
    gated = m.tensor("f32", (3, 2, 9))
    m.ops.append(Mul("gate", both, excited, (gated,), FloatEpilogue(post=Activation("hard_swish"))))
    sums = m.tensor("i32", (1, 1, 9))
    m.ops.append(GlobalAvgPool("pool", total, sums))
    head, real_sums = m.tensor("f32", (1, 1, 4)), m.tensor("f32", (1, 1, 9))
    m.ops.append(
        Conv2d("head", sums, (head,), "i8", m.int8(4, 1, 1, 9), (1, 1), (0, 0),
               FloatEpilogue(np.full(4, 1e-4, np.float32), m.floats(4)))
    )  # fmt: skip
    m.ops.append(GlobalAvgPool("real pool", averaged, real_sums))
    logits = m.tensor("f32", (1, 1, 4))
    m.ops.append(
        Conv2d("logits", real_sums, (logits,), "w1", m.signs(4, 1, 1, 9), (1, 1), (0, 0),
               FloatEpilogue(residual=head))
    )  # fmt: skip
    return m.done(logits, class_names=("a", "b", "c", "d"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
