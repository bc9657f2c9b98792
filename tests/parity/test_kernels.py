"""Every convolution kernel and epilogue on every instruction set of this machine, over awkward shapes.

Memory lies before pages that may not be touched: going over the end of tensors, constants or scratch crashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from single_op import BITS, F32, I8, SingleOp, conv_sum, packed_weights, signs

from bitskip import _native
from bitskip.backends.native import available_isas, feature_bits, isas
from bitskip.bits import pack_signs

CHANNELS = (1, 3, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200)
SIZES = ((1, 1), (1, 7), (2, 3), (5, 5), (8, 8), (9, 16), (15, 4), (33, 33))
STRIDES = (1, 2, 3)
KERNELS = (1, 3, 5, 7)
TYPES = ("bits_w1", "i8_w1", "i8_i8", "f32_w1", "f32_f32")
EPILOGUES = ("float", "threshold", "integer")
ACTIVATIONS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Case:
    types: str
    epilogue: str
    inputs: int
    outputs: int
    size: tuple[int, int]
    stride: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[int, int]
    pad_value: int
    seed: int


def sample(types: str, count: int, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    epilogues = EPILOGUES if not types.startswith("f32") else ("float",)
    cases: list[Case] = []
    while len(cases) < count:
        kernel = (int(rng.choice(KERNELS)), int(rng.choice(KERNELS)))
        if rng.random() < 0.7:
            kernel = (kernel[0], kernel[0])
        size = SIZES[rng.integers(len(SIZES))]
        padding = (int(rng.integers(kernel[0])), int(rng.integers(kernel[1])))
        if rng.random() < 0.6:
            padding = (kernel[0] // 2, kernel[1] // 2)
        if kernel[0] > size[0] + 2 * padding[0] or kernel[1] > size[1] + 2 * padding[1]:
            continue
        inputs, outputs = (int(c) for c in rng.choice(CHANNELS, 2))
        if size == (33, 33) and inputs * outputs * kernel[0] * kernel[1] > 200_000:
            continue
        stride = (int(rng.choice(STRIDES)), int(rng.choice(STRIDES)))
        epilogue = epilogues[len(cases) % len(epilogues)]
        pad_value = int(rng.integers(-1, 2))
        cases.append(
            Case(types, epilogue, inputs, outputs, size, stride, kernel, padding, pad_value, len(cases))
        )
    return cases


def activation(y: Any, kind: int, slope: Any, shift_in: Any, shift_out: Any) -> Any:
    zero = np.float32(0)
    if kind == 1:
        return np.maximum(y, zero)
    if kind == 2:
        return np.where(y >= 0, y, y * slope)
    if kind == 3:
        z = y - shift_in
        return np.where(z >= 0, z, z * slope) + shift_out
    return y


def floats(rng: np.random.Generator, shape: Any) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def random_activation(rng: np.random.Generator, d: dict[str, Any], which: str, channels: int) -> list[Any]:
    kind = int(rng.choice(ACTIVATIONS))
    vectors = [floats(rng, channels) for _ in range(3)]
    d[which] = kind
    if kind >= 2:
        d[which + "_slope"] = vectors[0]
    if kind == 3:
        d[which + "_shift_in"], d[which + "_shift_out"] = vectors[1:]
    return [kind, *vectors]


def build(case: Case) -> tuple[SingleOp, dict[str, Any], bool]:
    """Return the op, what it must give, and whether that is exact."""
    rng = np.random.default_rng([case.seed, 7])
    height, width = case.size
    given, weights = case.types.split("_")
    w_shape = (case.outputs, *case.kernel, case.inputs)
    shape = (height, width, case.inputs)
    zero_point = int(rng.integers(-128, 128)) if given == "i8" else 0
    if rng.random() < 0.5 and given == "i8":  # as behind a relu
        zero_point = -128 + (zero_point + 128) // 8
    d: dict[str, Any] = {
        "kind": 0,
        "weight_dtype": {"f32": F32, "i8": I8, "w1": BITS}[weights],
        "pad_value": case.pad_value,
        **dict(
            zip(("kh", "kw", "sh", "sw", "ph", "pw"), case.kernel + case.stride + case.padding, strict=True)
        ),
    }
    if weights == "w1":
        w = signs(rng, w_shape)
        d["weights"] = packed_weights(w)
    elif weights == "i8":
        w = rng.integers(-127, 128, w_shape).astype(np.int8)
        d["weights"] = w
    else:
        w = floats(rng, w_shape)
        d["weights"] = w
    if given == "bits":
        x = signs(rng, shape)
        stored, real, pad, dtype = pack_signs(x), x, case.pad_value, BITS
    elif given == "i8":
        x = rng.integers(-128, 128, shape).astype(np.int8)
        stored, real, pad, dtype = x, x.astype(np.float64) - zero_point, 0, I8
    else:
        x = floats(rng, shape)
        stored, real, pad, dtype = x, x, 0, F32
    acc = conv_sum(real, w, case.stride, case.padding, pad)  # (OH, OW, O)
    out_shape = acc.shape
    o = case.outputs
    op = SingleOp(d)
    order = [lambda: op.give("in", dtype, stored, case.inputs, zero_point)]
    expected: dict[str, Any] = {}
    if case.epilogue == "threshold":
        spread = int(np.abs(acc).max())
        t = rng.integers(-spread - 1, spread + 2, o).astype(np.int32)
        flip = rng.random(o) < 0.5
        d.update(epilogue=2, t=t, flip=np.packbits(flip, bitorder="little"))
        expected["out_bits"] = pack_signs(np.where((acc >= t) ^ flip, 1, -1))
        order.append(lambda: op.take("out_bits", BITS, out_shape))
    elif case.epilogue == "integer":
        shift = int(rng.integers(1, 41))
        unit = 2.0**shift / max(1.0, float(np.abs(acc).max())) * 127
        m = (rng.uniform(-1, 1, o) * min(unit, 2**31 - 1)).astype(np.int32)
        b = (rng.uniform(-1, 1, o) * 2.0 ** (shift + 6)).astype(np.int64)
        out_zero = int(rng.integers(-128, 128))
        pre, post = (int(v) for v in rng.integers(0, 2, 2))
        d.update(epilogue=3, m=m, b=b, shift=shift, pre=pre, post=post)
        value = acc.astype(np.int64) * m + b
        if pre:
            value = np.maximum(value, 0)
        if rng.random() < 0.5:
            r_zero, r_m = int(rng.integers(-128, 128)), int(rng.uniform(-1, 1) * min(2.0**shift, 2**31 - 1))
            r = rng.integers(-128, 128, out_shape).astype(np.int8)
            d["residual_m"] = r_m
            order.append(lambda: op.give("residual", I8, r, o, r_zero))
            value = value + (r.astype(np.int64) - r_zero) * r_m
        if post:
            value = np.maximum(value, 0)
        q = ((value + (1 << (shift - 1))) >> shift) + out_zero
        expected["out_i8"] = np.clip(q, -128, 127).astype(np.int8)
        order.append(lambda: op.take("out_i8", I8, out_shape, out_zero))
    else:
        d["epilogue"] = 1
        y = acc.astype(np.float32)
        if rng.random() < 0.7:
            d["scale"] = floats(rng, o)
            y = y * d["scale"]
        if rng.random() < 0.7:
            d["bias"] = floats(rng, o)
            y = y + d["bias"]
        y = activation(y, *random_activation(rng, d, "pre", o))
        if rng.random() < 0.5:
            r = floats(rng, out_shape)
            order.append(lambda: op.give("residual", F32, r, o))
            y = y + r
        y = activation(y, *random_activation(rng, d, "post", o))
        wanted = [("out_f32", F32), ("out_bits", BITS), ("out_i8", I8)]
        chosen = rng.permutation(3)[: rng.integers(1, 4)]
        for key, kind in (wanted[i] for i in chosen):
            out_zero = 0
            if kind == F32:
                expected[key] = y
            elif kind == BITS:
                threshold = np.float32(0)
                if rng.random() < 0.5:
                    threshold = d["threshold"] = floats(rng, o)
                expected[key] = pack_signs(y - threshold)
            else:
                out_zero = int(rng.integers(-128, 128))
                d["inv_scale"] = float(np.float32(60) / np.float32(np.abs(y).max() + 1))
                q = np.rint(y * np.float32(d["inv_scale"])) + out_zero
                expected[key] = np.clip(q, -128, 127).astype(np.int8)
            order.append(lambda k=key, t=kind, z=out_zero: op.take(k, t, out_shape, z))
    for i in rng.permutation(len(order)):  # any of them may end at the guard page
        order[i]()
    return op, expected, given != "f32"


def check(case: Case, isa: str) -> str:
    """Compare one case; return the name of the kernel that ran."""
    op, expected, exact = build(case)
    parts = 1 + case.seed % 3
    got = op.run(isa, parts)
    for key, want in expected.items():
        if exact:
            np.testing.assert_array_equal(got[key], want, err_msg=f"{case} {isa} {key}")
        elif key == "out_f32":
            bound = 1e-5 * case.kernel[0] * case.kernel[1] * case.inputs + 1e-4 * np.abs(want).max()
            np.testing.assert_allclose(got[key], want, rtol=1e-4, atol=bound, err_msg=f"{case} {isa}")
        elif key == "out_i8":
            assert np.abs(got[key].astype(int) - want).max() <= 1, (case, isa)
        else:
            wrong = np.bitwise_count(got[key] ^ want).sum() if hasattr(np, "bitwise_count") else 0
            assert wrong <= 2 + want.size // 50, (case, isa)
    return op.kernel


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("types", TYPES)
def test_convolutions(types: str, isa: str) -> None:
    for case in sample(types, 90, seed=TYPES.index(types)):
        check(case, isa)


@pytest.mark.parametrize("isa", [isa for isa in available_isas() if isa != "scalar"])
@pytest.mark.parametrize("types", ["bits_w1", "i8_w1", "i8_i8"])
def test_convolutions_of_processors_with_less(types: str, isa: str) -> None:
    """The kernels that extensions of a family, such as VNNI, shadow on this machine."""
    hidden = sum(bit for name, bit in feature_bits().items() if name not in isas())
    _native.limit_cpu(0xFFFFFFFF & ~hidden)
    try:
        for case in sample(types, 60, seed=50 + TYPES.index(types)):
            check(case, isa)
    finally:
        _native.limit_cpu(0xFFFFFFFF)


@pytest.fixture
def preferred(request: pytest.FixtureRequest) -> Iterator[str]:
    """A convolution kernel that is taken wherever it can run, whatever would be faster."""
    _native.prefer_conv(request.param)
    yield request.param
    _native.prefer_conv("")


def types_of(kernel: str) -> str:
    return next(types for types in TYPES if kernel.startswith(f"conv_{types}_"))


def for_winograd(case: Case, stride: int) -> Case:
    """The nearest case that Winograd's filtering computes: 3x3, input channels a multiple of 16."""
    rng = np.random.default_rng(case.seed)
    padding = (int(rng.integers(3)), int(rng.integers(3)))
    size = (max(case.size[0], 3 - 2 * padding[0]), max(case.size[1], 3 - 2 * padding[1]))
    inputs = int(rng.choice((16, 32, 48, 64, 128)))
    return replace(case, inputs=inputs, size=size, padding=padding, kernel=(3, 3), stride=(stride, stride))


@pytest.mark.parametrize("preferred", _native.conv_kernels(), indirect=True)
def test_convolutions_by_every_kernel_by_name(preferred: str) -> None:
    types = types_of(preferred)
    cases = sample(types, 60, seed=150 + TYPES.index(types))
    if "winograd" in preferred:
        cases = [for_winograd(case, 2 if "winograd22" in preferred else 1) for case in cases]
    ran = {check(case, "best") for case in cases}
    if preferred.split("_")[3] in {"scalar", "neon", "avx2"} & set(available_isas()):
        assert preferred in ran


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("inputs", [36, 72, 112, 128, 608])
@pytest.mark.parametrize(
    "preferred", [k for k in _native.conv_kernels() if types_of(k) in ("i8_w1", "i8_i8")], indirect=True
)
def test_largest_integer_sums_are_exact(preferred: str, inputs: int, value: int) -> None:
    """Everything at its limit at once, where partial sums of 8 and 16 bits would overflow first."""
    types = types_of(preferred)
    x = np.full((6, 6, inputs), value, np.int8)
    zero_point = -1 - value  # so that an activation is 255 or -255
    stride = 2 if "winograd22" in preferred else 1
    w = np.full((33, 3, 3, inputs), 1 if types == "i8_w1" else 127, np.int8)
    w[1::3] *= -1
    w[2::3, :, :, ::2] *= -1
    op = SingleOp(
        {
            "kind": 0, "weight_dtype": BITS if types == "i8_w1" else I8, "epilogue": 1,
            "weights": packed_weights(w.astype(np.float32)) if types == "i8_w1" else w,
            "kh": 3, "kw": 3, "sh": stride, "sw": stride, "ph": 1, "pw": 1,
        }
    )  # fmt: skip
    op.give("in", I8, x, inputs, zero_point)
    op.take("out_f32", F32, (6 // stride, 6 // stride, 33))
    expected = conv_sum(x.astype(np.float64) - zero_point, w, (stride, stride), (1, 1), 0)
    np.testing.assert_array_equal(op.run("best")["out_f32"], expected.astype(np.float32))


@pytest.mark.parametrize("every", [1, 7, 50])
@pytest.mark.parametrize("largest", [64, 127, 128])
@pytest.mark.parametrize(
    "preferred", [k for k in _native.conv_kernels() if types_of(k) == "i8_i8"], indirect=True
)
def test_sums_at_the_bound_of_16_bits(preferred: str, largest: int, every: int) -> None:
    """Four inputs of an int16: all, some or few are as large as it holds with these weights, or larger."""
    rng = np.random.default_rng(largest + every)
    u = rng.integers(0, 15, (7 * 9 * 96 // 8, 2, 2, 2))  # 8 inputs; those of u[i, :, 0] share an int16
    most = 32767 // largest
    quarter, full = most // 4, (255, 255, 255, 255)
    even = (quarter, most - 3 * quarter, quarter, quarter)
    fours = ((most - 255, 255, 0, 0), (most - 255, 254, 1, 1), even, full, (0, 0, 255, 0))
    for i in range(0, len(u), every):
        u[i, :, int(rng.integers(2))] = np.clip(fours[int(rng.integers(len(fours)))], 0, 255).reshape(2, 2)
    x = (u.reshape(7, 9, 96) - 128).astype(np.int8)
    stride = 2 if "winograd22" in preferred else 1
    w = np.full((40, 3, 3, 96), -largest, np.int8)
    w[1::3] = min(largest, 127)
    w[2::3] = rng.integers(-largest, min(largest, 127) + 1, w[2::3].shape)
    op = SingleOp(
        {
            "kind": 0, "weight_dtype": I8, "epilogue": 1, "weights": w,
            "kh": 3, "kw": 3, "sh": stride, "sw": stride, "ph": 1, "pw": 1,
        }
    )  # fmt: skip
    op.give("in", I8, x, 96, -100)
    expected = conv_sum(x.astype(np.float64) + 100, w, (stride, stride), (1, 1), 0)
    op.take("out_f32", F32, expected.shape)
    np.testing.assert_array_equal(op.run("best")["out_f32"], expected.astype(np.float32))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("inputs", [8, 24, 48, 64, 72])
@pytest.mark.parametrize("value", [63, 64, 127, 128, 255])
def test_subset_sums_at_the_bounds_of_their_bytes(value: int, inputs: int, isa: str) -> None:
    """How often byte sums are widened is chosen from the activations: just below each bound, and at it."""
    x = np.full((3, 6, inputs), value - 128, np.int8)
    x[1, 2] = -128  # one pixel without any
    w = np.ones((70, 3, 3, inputs), np.float32)
    w[1::3, 0], w[2::3, :, 1, ::2] = -1, -1
    op = SingleOp(
        {
            "kind": 0, "weight_dtype": BITS, "epilogue": 1, "weights": packed_weights(w),
            "kh": 3, "kw": 3, "sh": 1, "sw": 1, "ph": 1, "pw": 1,
        }
    )  # fmt: skip
    op.give("in", I8, x, inputs, -128)
    op.take("out_f32", F32, (3, 6, 70))
    expected = conv_sum(x.astype(np.float64) + 128, w, (1, 1), (1, 1), 0)
    np.testing.assert_array_equal(op.run(isa)["out_f32"], expected.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("types", TYPES)
def test_convolutions_over_the_whole_product(types: str, isa: str) -> None:
    epilogues = EPILOGUES if not types.startswith("f32") else ("float",)
    product = itertools.product(CHANNELS, CHANNELS, SIZES, STRIDES, KERNELS)
    for seed, (inputs, outputs, size, stride, kernel) in enumerate(product):
        if size == (33, 33) and inputs * outputs * kernel * kernel > 200_000:
            continue
        padding = kernel // 2
        case = Case(
            types,
            epilogues[seed % len(epilogues)],
            *(inputs, outputs, size, (stride, stride), (kernel, kernel), (padding, padding)),
            seed % 3 - 1,
            seed,
        )
        check(case, isa)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("outputs", [32, 64])
def test_signs_that_all_differ_do_not_overflow_partial_sums(outputs: int, isa: str) -> None:
    """The longest sums: kernels add bytes and 16-bit words before they reach 32 bits."""
    inputs = 2 * 65_536 + 200
    op = SingleOp(
        {
            "kind": 0, "weight_dtype": BITS, "epilogue": 1,
            "weights": packed_weights(np.ones((outputs, 1, 1, inputs), np.float32)),
            "kh": 1, "kw": 1, "sh": 1, "sw": 1, "ph": 0, "pw": 0, "pad_value": 0,
        }
    )  # fmt: skip
    op.give("in", BITS, pack_signs(-np.ones((1, 1, inputs), np.float32)), inputs)
    op.take("out_f32", F32, (1, 1, outputs))
    np.testing.assert_array_equal(op.run(isa)["out_f32"], np.full((1, 1, outputs), -inputs, np.float32))
