"""Pictures are read as a viewer shows them: modes x depths x orientations x formats; bad files are named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from bitskip.errors import DataError
from bitskip.pictures import BACKGROUND, fit_picture, is_picture_name, read_picture

SIDE = 24
GREY = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))  # (H, W)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)  # (H, W, 3)


def shown(path: Path) -> npt.NDArray[np.int64]:
    return read_picture(path, SIDE).astype(np.int64)


def as_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.int64)


# -- depths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "jp2"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey16.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    assert np.abs(shown(path) - as_rgb(GREY)).max() == 0


def test_16_bit_levels_are_rounded(tmp_path: Path) -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 113
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(shown(tmp_path / "a.png")[..., 0], np.rint(values / 257))


@pytest.mark.parametrize(  # the forms that Pillow reads
    ("order", "bits", "white_is_zero"),
    [("<", 12, False), ("<", 16, False), (">", 16, False), ("<", 16, True)],
)
def test_tiff_of_any_byte_order_depth_and_polarity(
    tmp_path: Path, order: str, bits: int, white_is_zero: bool
) -> None:
    full = (1 << bits) - 1
    levels = (GREY.astype(np.int64) * full + 127) // 255
    if bits == 12:
        pairs = levels.reshape(SIDE, -1, 2)
        packed = np.stack(
            [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], axis=-1
        )
        content = packed.astype(np.uint8).tobytes()
    else:
        content = levels.astype(f"{order}u2").tobytes()
    (tmp_path / "a.tif").write_bytes(_tiff(content, bits, 0 if white_is_zero else 1, order))
    expected = as_rgb(255 - GREY if white_is_zero else GREY)
    assert np.abs(shown(tmp_path / "a.tif") - expected).max() == 0


def _tiff(content: bytes, bits: int, photometric: int, order: str) -> bytes:
    """Return a TIFF file of one strip."""
    tags = [(256, SIDE), (257, SIDE), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, SIDE), (279, len(content))]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + content


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_float_tiff_in_either_known_range(tmp_path: Path, scale: float) -> None:
    Image.fromarray(GREY.astype(np.float32) * np.float32(scale)).save(tmp_path / "a.tif")
    assert np.abs(shown(tmp_path / "a.tif") - as_rgb(GREY)).max() == 0


def test_32_bit_integers_are_pixel_values(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(shown(tmp_path / "a.tif"), as_rgb(GREY))


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.float32) * 100,
        GREY.astype(np.float32) - 7,
        np.full((SIDE, SIDE), np.nan, np.float32),
        GREY.astype(np.int32) * 1000,
        GREY.astype(np.int32) - 5,
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path: Path, values: npt.NDArray[np.generic]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: a picture of .* has no range that is known"):
        shown(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_16_bit_colour_png(tmp_path: Path, mode: str) -> None:
    channels = len(mode)
    pixels = np.full((SIDE, SIDE, channels), 255, np.uint16) * 257
    pixels[..., :3] = COLOUR.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {"RGB": 2, "RGBA": 6}[mode]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in [*chunks, (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "a.png").write_bytes(content)
    assert np.array_equal(shown(tmp_path / "a.png"), COLOUR)


def _planes(picture: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Return a TIFF of three channels, each in a strip of its own."""
    levels = picture.transpose(2, 0, 1).astype(np.int64) * (257 if bits == 16 else 1)
    strips = [channel.astype(f"<u{bits // 8}").tobytes() for channel in levels]
    at = 8 + 2 + 12 * 10 + 4  # after head and tags: three depths, three offsets, three sizes, then the strips
    offsets = [at + 30 + number * len(strips[0]) for number in range(3)]
    extra = struct.pack("<3H3I3I", bits, bits, bits, *offsets, *map(len, strips))
    tags = [(256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, at + 6), (277, 3, 1, 3), (278, 3, 1, SIDE), (279, 4, 3, at + 18), (284, 3, 1, 2)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II" + struct.pack("<HIH", 42, 8, len(tags))
    return head + entries + struct.pack("<I", 0) + extra + b"".join(strips)


def test_tiffs_that_pillow_decodes_to_other_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(_planes(COLOUR, 8))
    assert np.array_equal(shown(path), COLOUR)
    path.write_bytes(_planes(COLOUR, 16))
    with pytest.raises(DataError, match=r"a\.tif: a TIFF of 16-bit channels in separate planes"):
        shown(path)


# -- modes and formats --------------------------------------------------------------------------------

LOSSLESS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "gif": ("1", "L", "P"),
    "ppm": ("1", "L", "RGB"),
    "tga": ("1", "L", "P", "RGB", "RGBA"),
    "webp": ("RGB", "RGBA"),
    "jp2": ("L", "RGB"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in LOSSLESS.items() for m in modes])
def test_modes_and_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / f"A.{suffix.upper()}"
    picture.save(path, **({"lossless": True} if suffix == "webp" else {}))
    # Opaque pictures: what is seen is what a conversion to RGB gives.
    expected = np.asarray(picture.convert("RGB"), np.int64)
    assert np.abs(shown(path) - expected).max() <= (1 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_any_mode(tmp_path: Path, mode: str, progressive: bool) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "a.jpeg", quality=98, subsampling=0, progressive=progressive)
    assert np.abs(shown(tmp_path / "a.jpeg") - np.asarray(picture.convert("RGB"), np.int64)).max() <= 8


def test_a_large_jpeg_read_at_a_fraction_is_the_same_picture(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOUR).resize((1600, 1200), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    whole = fit_picture(Image.open(tmp_path / "a.jpg"), SIDE).astype(int)
    assert np.abs(shown(tmp_path / "a.jpg") - whole).max() <= 2


# -- transparency -------------------------------------------------------------------------------------


def _half_clear() -> npt.NDArray[np.uint8]:
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[: SIDE // 2] = 0
    return np.concatenate([COLOUR, alpha], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "tga"])
def test_transparency_shows_the_background_not_hidden_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(_half_clear()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = shown(path)
    assert np.array_equal(found[: SIDE // 2], np.broadcast_to(BACKGROUND, (SIDE // 2, SIDE, 3)))
    assert np.array_equal(found[SIDE // 2 :], COLOUR[SIDE // 2 :])


def test_half_transparent_mixes_with_the_background(tmp_path: Path) -> None:
    Image.new("LA", (SIDE, SIDE), (100, 51)).save(tmp_path / "a.png")
    assert set(shown(tmp_path / "a.png").ravel()) == {round(100 * 51 / 255 + 255 * 204 / 255)}


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (SIDE, SIDE), 0)
    picture.paste(1 if mode in "P1" else "white", (0, 0, SIDE, SIDE // 2))
    if mode == "P":
        picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert np.all(shown(tmp_path / "a.png")[SIDE // 2 :] == BACKGROUND)


def test_a_gif_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (SIDE, SIDE), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (0, 0, SIDE, SIDE // 2))
    picture.save(tmp_path / "a.gif", transparency=0)
    found = shown(tmp_path / "a.gif")
    assert found[0, 0].tolist() == [200, 100, 50]
    assert np.all(found[SIDE // 2 :] == BACKGROUND)


# -- orientation --------------------------------------------------------------------------------------

# How a picture lies in the file, for each EXIF orientation: what undoes it is what a viewer does.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("suffix", "grey16"),
    [("png", False), ("tif", False), ("webp", False), ("jpg", False), ("png", True), ("tif", True)],
)
def test_orientation(tmp_path: Path, orientation: int, suffix: str, grey16: bool) -> None:
    upright = Image.fromarray(GREY.astype(np.uint16) * 257 if grey16 else COLOUR)
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 99, "subsampling": 0}}.get(suffix, {})
    stored.save(path, exif=exif, **options)
    expected = as_rgb(GREY) if grey16 else COLOUR
    assert np.abs(shown(path) - expected).max() <= (6 if suffix == "jpg" else 0)


def test_orientation_comes_before_the_crop(tmp_path: Path) -> None:
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, SIDE // 2 : -SIDE // 2] = COLOUR
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(shown(tmp_path / "a.png"), COLOUR)


def test_a_broken_exif_block_turns_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(shown(tmp_path / "a.png"), COLOUR)


# -- colours, frames, shapes --------------------------------------------------------------------------


def test_colours_of_another_profile_are_brought_to_srgb(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb", srgb), ("unfit", lab), ("broken", b"no profile")):
        Image.fromarray(COLOUR).save(tmp_path / f"{name}.png", icc_profile=profile)
        assert np.array_equal(shown(tmp_path / f"{name}.png"), COLOUR), name
    # sRGB with its red and green primaries swapped: the colours swap as well.
    swapped = srgb.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(
        b"sRGB", b"swap"
    )
    Image.fromarray(COLOUR).save(tmp_path / "swapped.png", icc_profile=swapped)
    assert np.abs(shown(tmp_path / "swapped.png") - COLOUR[..., [1, 0, 2]]).max() <= 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_or_page(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (SIDE, SIDE), (250, 0, 0)), Image.new("RGB", (SIDE, SIDE), (0, 250, 0))
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=[second], **options)
    assert np.array_equal(shown(path), np.broadcast_to((250, 0, 0), (SIDE, SIDE, 3)))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (37, 61), (3000, 7)])
def test_any_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "a.png")
    assert np.array_equal(shown(tmp_path / "a.png"), np.broadcast_to((9, 99, 199), (SIDE, SIDE, 3)))


def test_wide_pictures_lose_their_sides(tmp_path: Path) -> None:
    wide = np.zeros((2 * SIDE, 4 * SIDE, 3), np.uint8)
    wide[:, SIDE : 3 * SIDE] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert np.abs(shown(tmp_path / "a.png") - 200).max() <= 30  # bicubic looks two pixels beyond the edge


def test_other_sizes_and_channels(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", (12, 24)).shape == (12, 24, 3)
    grey = read_picture(tmp_path / "a.png", SIDE, channels=1)
    assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))


@pytest.mark.parametrize("mode", ["P", "PA", "La", "RGBa", "HSV", "YCbCr", "I;16", "F", "1"])
def test_pillow_pictures_of_any_mode(mode: str) -> None:
    side, red = (SIDE, SIDE), (255, 0, 0)
    given = {
        "PA": lambda: Image.new("P", side, 0).convert("PA"),
        "La": lambda: Image.new("LA", side, (0, 255)).convert("La"),
        "RGBa": lambda: Image.new("RGBA", side, (*red, 255)).convert("RGBa"),
        "HSV": lambda: Image.new("RGB", side, red).convert("HSV"),
        "YCbCr": lambda: Image.new("RGB", side, red).convert("YCbCr"),
    }.get(mode, lambda: Image.new(mode, side, 0))()
    expected = red if mode in ("RGBa", "HSV", "YCbCr") else (0, 0, 0)
    assert np.abs(fit_picture(given, SIDE).astype(int) - expected).max() <= 2


def test_a_picture_that_is_given_stays_as_it_was() -> None:
    picture = Image.fromarray(_half_clear())
    before = picture.tobytes()
    fit_picture(picture, 8)
    assert (picture.size, picture.mode, picture.tobytes()) == ((SIDE, SIDE), "RGBA", before)


# -- bad files ----------------------------------------------------------------------------------------


def _jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(COLOUR).resize((200, 200)).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty"),
        (b"not a picture", "not a known format"),
        (_jpeg()[:900], "truncated"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a known format"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg is not a readable picture \(.*{match}"):
        shown(tmp_path / "a.jpg")


def test_paths_that_hold_no_picture(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    wrong = {"x.jpg": "is a folder", "gone.jpg": "a link to a file that", "y.jpg": "does not exist"}
    for name, match in wrong.items():
        with pytest.raises(DataError, match=rf"{name}:? .*{match}"):
            shown(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match="permission denied"):
        shown(tmp_path / "a.png")


def test_pictures_above_the_limit_are_named(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head
    content += struct.pack(">I", zlib.crc32(b"IHDR" + head)) + struct.pack(">I", 9) + b"IDAT"
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png has more than 178,956,970 pixels"):
        shown(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp", "jp2", "tga", "ppm"])
def test_damaged_files_give_a_picture_or_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path)
    whole = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    said = []
    for _ in range(60):
        damaged = whole.copy()
        for at in generator.integers(0, min(200, len(whole)), 4):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged[: generator.integers(1, len(whole) + 1)])
        try:
            shown(path)
        except DataError as error:
            said.append(str(error))
    assert said
    assert all(f"a.{suffix}" in text and "\n" not in text for text in said)


def test_names_of_pictures() -> None:
    for name in ("a.JPG", "b.Png", "c.tiff", "été.webp", "x.y.jpeg"):
        assert is_picture_name(name)
    for name in ("a.txt", "b", "c.pdf", "d.eps", "e.cr2"):
        assert not is_picture_name(name)
