"""Signs and their packing: round trips, and the conventions that everything else leans on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitskip.bits import WORD_BITS, pack_signs, sign, unpack_signs, words_for

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5).flatmap(
    lambda leading: st.integers(1, 200).map(lambda channels: (*leading, channels))
)
REALS = SHAPES.flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-2, 2, width=32, allow_nan=False))
)


@given(REALS)
def test_unpacking_gives_back_the_signs(values: npt.NDArray[np.float32]) -> None:
    packed = pack_signs(values)
    assert packed.dtype == np.uint64
    assert packed.shape == (*values.shape[:-1], words_for(values.shape[-1]))
    unpacked = unpack_signs(packed, values.shape[-1])
    assert unpacked.dtype == np.float32
    np.testing.assert_array_equal(unpacked, sign(values))


@given(REALS)
def test_unused_bits_are_zero(values: npt.NDArray[np.float32]) -> None:
    negative = int((values < 0).sum())
    assert sum(int(word).bit_count() for word in pack_signs(values).flat) == negative


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.randoms(use_true_random=False))))
def test_product_of_signs_is_an_exclusive_or(drawn: tuple[int, object]) -> None:
    channels, random = drawn
    generator = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    a, b = generator.standard_normal((2, channels))
    differing = sum(int(word).bit_count() for word in pack_signs(a) ^ pack_signs(b))
    assert channels - 2 * differing == sign(a) @ sign(b)


def test_zero_is_plus_one() -> None:
    np.testing.assert_array_equal(sign([0.0, -0.0, 1e-45, -1e-45]), [1, 1, 1, -1])
    assert pack_signs(np.array([0.0, -0.0])) == 0


def test_bit_order_is_least_significant_first() -> None:
    values = np.ones(130)
    values[[0, 65, 129]] = -1
    assert pack_signs(values).tolist() == [1 << 0, 1 << 1, 1 << 1]


@pytest.mark.parametrize(("channels", "words"), [(1, 1), (63, 1), (64, 1), (65, 2), (256, 4)])
def test_words(channels: int, words: int) -> None:
    assert WORD_BITS == 64
    assert words_for(channels) == words


def test_wrong_number_of_words() -> None:
    with pytest.raises(ValueError, match="expected 2 words for 65 channels, got 1"):
        unpack_signs(np.zeros((3, 1), np.uint64), 65)
