"""`bitskip.load(...)`: what it takes, what it says, and that it needs no torch."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import bitskip
from bitskip.backends.reference import run_reference
from bitskip.errors import BitskipError, DataError, FileFormatError, RunError
from bitskip.pictures import read_picture
from bitskip.program import Output, Program
from bitskip.runtime.accuracy import Accuracy, measure, measure_with_flip, wilson_interval
from bitskip.runtime.model import Model, load
from bitskip.zoo import model_path
from programs import every_op

PROGRAM = every_op()


def images(count: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def model() -> Model:
    return Model(PROGRAM, engine="reference")


def test_predict_is_the_reference(model: Model, tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "m.bitskip")
    loaded = bitskip.load(tmp_path / "m.bitskip", engine="reference")
    batch = images(70)
    np.testing.assert_allclose(loaded.predict(batch), run_reference(PROGRAM, batch), rtol=1e-5, atol=1e-5)
    assert loaded.predict(batch).dtype == np.float32
    assert loaded.engine == model.engine == "reference"
    assert loaded.predict(batch[:0]).shape == (0, 4)


def test_the_engine_says_what_it_is() -> None:
    assert Model(PROGRAM).engine in ("native", "reference")
    with pytest.raises(RunError, match="engine is 'fast', expected one of auto, native, reference"):
        Model(PROGRAM, engine="fast")


@pytest.mark.parametrize("threads", [0, 257, 2**40])
def test_a_wrong_number_of_threads_is_named_not_run_around(threads: int) -> None:
    with pytest.raises(RunError, match=f"threads is {threads}, expected 1 to 256"):
        Model(PROGRAM, threads=threads)


def test_an_unknown_instruction_set_is_named_not_run_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSKIP_ISA", "avx51")
    with pytest.raises(RunError, match="avx51"):
        Model(PROGRAM)
    assert Model(PROGRAM, engine="reference").engine == "reference"


def test_normalised_pictures_give_what_their_pixels_give(model: Model) -> None:
    batch = images()
    real = ((batch / 255 - np.array(PROGRAM.mean)) / np.array(PROGRAM.std)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(real), model.predict(batch))
    np.testing.assert_array_equal(model.predict(real.astype(np.float64)), model.predict(batch))


def test_floats_between_pixel_levels_are_computed_as_they_are(model: Model) -> None:
    levels = np.random.default_rng(0).uniform(20, 230, (2, 6, 5, 3))
    real = ((levels / 255 - np.array(PROGRAM.mean)) / np.array(PROGRAM.std)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(real), run_reference(PROGRAM, real))


def test_floats_beyond_the_pixel_levels_do_not_wrap_round(model: Model) -> None:
    levels = np.full((1, 6, 5, 3), 300.0)
    levels[0, 0] = -5
    real = ((levels / 255 - np.array(PROGRAM.mean)) / np.array(PROGRAM.std)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(real), run_reference(PROGRAM, real))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (
            np.zeros((1, 3, 6, 5), np.uint8),
            r"shape \(1, 3, 6, 5\), expected \(N, 6, 5, 3\), channels last; move",
        ),
        (
            np.zeros((1, 9, 9, 3), np.uint8),
            r"expected \(N, 6, 5, 3\), channels last; Model.preprocess brings",
        ),
        (np.zeros((1, 6, 5, 3), np.int64), "dtype int64, expected uint8 pixels or normalised floats"),
        (np.full((1, 6, 5, 3), np.nan), "not finite"),
        ([], r"shape \(0,\), expected"),
    ],
)
def test_wrong_pictures_are_named(model: Model, wrong: npt.ArrayLike, match: str) -> None:
    with pytest.raises(DataError, match=match):
        model.predict(wrong)


def test_one_picture_is_a_batch_of_one(model: Model) -> None:
    one = images(1)
    np.testing.assert_array_equal(model.predict(one[0]), model.predict(one))


def test_paths_and_pillow_pictures_are_read_as_bitskip_run_reads_them(model: Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    small = read_picture(tmp_path / "a.png", (6, 5))
    expected = model.predict(small[None])
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, pixels):
        assert np.array_equal(model.preprocess(given), small)
    for given in (tmp_path / "a.png", picture, [picture], (str(tmp_path / "a.png"),)):
        np.testing.assert_array_equal(model.predict(given), expected)
    assert model.predict([picture, tmp_path / "a.png"]).shape == (2, 4)
    assert model.top(picture)[0][0].index == expected[0].argmax()
    assert model.preprocess(pixels[..., 0]).shape == (6, 5, 3)
    with pytest.raises(DataError, match="does not exist"):
        model.predict("nothing.png")
    with pytest.raises(DataError, match="got a picture of float64 and shape"):
        model.preprocess(pixels / 255)


def test_the_normalisation_is_the_programs(model: Model) -> None:
    assert (model.mean, model.std) == (PROGRAM.mean, PROGRAM.std)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-1, 1)], ids=["0..1", "0..255", "-1..1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_scaled_otherwise_are_refused(model: Model, low: int, high: int, dtype: type) -> None:
    scaled = (images() / 255 * (high - low) + low).astype(dtype)
    if dtype is np.float16 and high == 1:  # too coarse to be seen as whole levels
        with pytest.warns(UserWarning, match="as if not normalised") if low == 0 else nullcontext():
            model.predict(scaled)
        return
    with pytest.raises(DataError, match=rf"got pixels scaled to {low}\.\.{high}, expected .* pass the uint8"):
        model.predict(scaled)


def test_floats_far_beyond_normalised_pixels_are_refused(model: Model) -> None:
    with pytest.raises(DataError, match=r"got floats from .* expected \(x / 255 - mean\) / std"):
        model.predict(np.random.default_rng(0).uniform(0, 255, (2, 6, 5, 3)))


def test_resized_floats_of_0_to_1_are_warned_of(model: Model) -> None:
    with pytest.warns(UserWarning, match="lie in 0..1, as if not normalised"):
        model.predict(np.random.default_rng(0).uniform(0, 1, (2, 6, 5, 3)))


def test_a_file_that_does_not_say_its_normalisation_takes_any_but_plain_pixels() -> None:
    plain = Model(dataclasses.replace(PROGRAM, mean=(), std=()), engine="reference")
    values = np.random.default_rng(0).normal(0, 2, (2, 6, 5, 3)).astype(np.float32)
    assert np.array_equal(plain.predict(values), run_reference(plain.program, values))
    with pytest.raises(DataError, match=r"got pixels scaled to 0\.\.255"):
        plain.predict(images().astype(np.float32))


@pytest.mark.parametrize("word", ["edge-m4-w1", "zoo:edge-m4-w1", "file"])
def test_load_takes_the_words_that_run_takes(word: str, tmp_path: Path) -> None:
    shutil.copy(model_path("edge-m4-w1"), tmp_path / "m.bitskip")
    assert load(tmp_path / "m.bitskip" if word == "file" else word).program.name == "edge-m4-w1"


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("edge-m4", "neither a file nor a model of the zoo; did you mean 'edge-m4-w1'"),
        ("zoo:nothing", "no model 'nothing' in the zoo"),
        (".", "is a folder; expected a packed file"),
        ("nothing.bitskip", "cannot read nothing.bitskip"),
    ],
)
def test_words_that_name_no_packed_model(word: str, match: str) -> None:
    with pytest.raises(BitskipError, match=match):
        load(word)


def test_the_slow_way_of_floats_is_said() -> None:
    with pytest.warns(UserWarning, match="run on the numpy reference, which is slow"):
        Model(PROGRAM, engine="native").predict(np.random.default_rng(0).uniform(-1, 1, (2, 6, 5, 3)))


def test_a_constant_float_picture_is_taken(model: Model) -> None:
    assert model.predict(np.zeros((1, 6, 5, 3), np.float32)).shape == (1, 4)


def test_top_names_the_likeliest(model: Model) -> None:
    batch = images()
    logits = model.predict(batch)
    for row, found in zip(logits, model.top(batch, 4), strict=True):
        assert [p.index for p in found] == np.argsort(-row).tolist()
        assert [p.name for p in found] == ["abcd"[p.index] for p in found]
        assert sum(p.probability for p in found) == pytest.approx(1)
        assert found[0].probability >= found[1].probability
    assert len(model.top(batch, 1)[0]) == 1


def test_accuracy_counts_hits(model: Model) -> None:
    batch = images(130)
    labels = model.predict(batch).argmax(1)
    labels[:13] = (labels[:13] + 1) % 4
    seen: list[tuple[int, int]] = []
    accuracy = measure(model, batch, labels, lambda done, total: seen.append((done, total)))
    assert (accuracy.hits, accuracy.images) == (130 - 13, 130)
    assert accuracy.share == pytest.approx(0.9)
    assert seen[-1] == (130, 130)


class _Sides:
    """Scores of class 0 are twice a picture's left column, those of class 1 its right column."""

    def predict(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack([2.0 * pictures[:, 0, 0, 0], pictures[:, 0, -1, 0]], axis=1).astype(np.float32)


def test_flip_averages_a_picture_with_its_mirror_image() -> None:
    batch = np.zeros((130, 6, 5, 3), dtype=np.uint8)
    batch[:, :, -1] = 200  # alone class 1; with its mirror image (200 + 0) beats (100 + 0)
    labels = np.zeros(130, dtype=np.int64)
    labels[:30] = 1
    sides: Any = _Sides()
    plain, flipped = measure_with_flip(sides, batch, labels)
    assert plain == measure(sides, batch, labels) == Accuracy(30, 130)
    assert flipped == Accuracy(100, 130)
    values = plain.to_dict("none")
    assert values["accuracy"] == values["hits"] / 130
    assert values["interval_95"] == list(plain.interval)


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, and 0 of 20 gives 0 to 0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert Accuracy(20, 20).interval[1] == 1
    with pytest.raises(ValueError, match="not a share"):
        wilson_interval(3, 0)


def test_a_device_needs_no_torch(tmp_path: Path) -> None:
    """Load and predict in a process where torch, and all that needs it, cannot be imported."""
    PROGRAM.save(tmp_path / "m.bitskip")
    script = f"""
import sys
for name in ("torch", "torchvision", "lightning", "safetensors", "PIL", "pydantic", "yaml", "scipy"):
    sys.modules[name] = None
import numpy as np
import bitskip
assert "bitskip.program" not in sys.modules, "import bitskip must load nothing"
model = bitskip.load({str(tmp_path / "m.bitskip")!r}, engine="reference")
print(model.predict(np.zeros((2, 6, 5, 3), np.uint8)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = run_reference(PROGRAM, np.zeros((2, 6, 5, 3), np.uint8))
    np.testing.assert_allclose(np.array(eval(done.stdout)), expected, rtol=1e-6)


def test_the_package_names_what_it_offers(tmp_path: Path) -> None:
    assert bitskip.Model is Model
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bitskip.nothing
    (tmp_path / "m.bitskip").write_bytes(b"{}")
    with pytest.raises(FileFormatError, match=r"m\.bitskip is not a sound \.bitskip file"):
        bitskip.load(tmp_path / "m.bitskip")


# -- several outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_program_may_give_several_named_outputs(engine: str, threads: int) -> None:
    program = every_op()
    whole = dataclasses.replace(program, outputs=(Output("logits", program.output), Output("stem", 3)))
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 5, 3), dtype=np.uint8)
    model = Model(whole, threads=threads, engine=engine)
    found = model.outputs(images)
    seen: dict[int, npt.NDArray[Any]] = {}
    run_reference(program, images, observe=seen.__setitem__)
    assert list(found) == ["logits", "stem"]
    np.testing.assert_allclose(found["stem"], seen[3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["logits"], seen[program.output], rtol=1e-5, atol=1e-5)
    assert model.outputs(images[:0])["stem"].shape == (0, 6, 5, 9)
    with pytest.raises(RunError, match=r"by hand gives logits, stem, not logits; call outputs\(images\)"):
        model.predict(images)
    again = Program.from_bytes(whole.to_bytes())
    assert again.outputs == whole.outputs
