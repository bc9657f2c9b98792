"""One reader of pictures, from phones, scanners, microscopes or the web: for train, eval, run and pack.

What becomes of a file, so that the network sees what a viewer shows:

- turned and mirrored as its EXIF orientation says;
- brought to 8 bits: 16-bit grey as round(v / 257), 12-bit grey as round(v * 255 / 4095); floats as
  round(255 * v) if all lie in 0..1, else as pixel values 0..255; 32-bit integers as pixel values 0..255;
- transparency laid over white;
- colours of another ICC profile (Display P3, Adobe RGB, CMYK of a press) brought to sRGB;
- the first frame or page, of a file with several;
- scaled (bicubic, antialiased) by its shorter side and cropped at the centre.

Needs Pillow; it is imported where it is used, since packed models run on arrays without it.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bitskip.errors import DataError, RunError

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND = (255, 255, 255)  # what shows through transparency, as in most viewers

# Endings of pictures, and the formats that Pillow may try: none that starts a program, as EPS does.
PICTURE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .bmp .dib .webp .gif .tif .tiff .jp2 .j2k .jpx .ppm .pgm .pbm "
    ".pnm .pfm .tga .avif .qoi".split()
)
_FORMATS = "PNG JPEG MPO BMP DIB WEBP GIF TIFF JPEG2000 PPM TGA AVIF QOI".split()
_HEIF_SUFFIXES = frozenset({".heic", ".heif"})

_MOST_PIXELS = 178_956_970  # Pillow's own limit: above it a small file may unfold to gigabytes
_WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANES, _SAMPLE_FORMAT = 258, 262, 274, 284, 339  # tags
_SEPARATE_PLANES, _SIGNED = 2, 2  # values of the last two

# What a file is that is no picture, by its first bytes.
_OTHER_KINDS = (
    (b"<!DOCTYPE", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"%PDF", "a PDF document"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"PK\x03\x04", "a zip archive"),
)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is read as a picture here: by its ending, in any case."""
    suffix = Path(name).suffix.lower()
    return suffix in PICTURE_SUFFIXES or (suffix in _HEIF_SUFFIXES and _reads_heif())


def read_picture(path: str | Path, size: int | tuple[int, int], channels: int = 3) -> npt.NDArray[np.uint8]:
    """Decode one picture to uint8 (height, width, channels).

    It is scaled by its shorter side and cropped at the centre.

    Args:
        path: the file.
        size: height and width, or one number for both.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        DataError: if it is missing, not a picture, damaged, too large, or of values whose range is not known.
        RunError: if Pillow is not installed.
    """
    with reading_pictures():
        return decode_picture(Path(path), size, channels)


@contextmanager
def reading_pictures() -> Iterator[None]:
    """Keep away Pillow's warnings of odd but readable files; once around all threads that read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        yield


def decode_picture(path: Path, size: int | tuple[int, int], channels: int = 3) -> npt.NDArray[np.uint8]:
    """Do the work of `read_picture`, within `reading_pictures`."""
    image = _pillow()
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a picture")
        with image.open(path, formats=_formats()) as opened:
            height, width = (size, size) if isinstance(size, int) else size
            # A JPEG may be decoded at a half, a quarter or an eighth, if that is twice what is needed.
            opened.draft(None, (2 * max(width, height), 2 * max(width, height)))
            return fit_picture(opened, size, channels)
    except DataError as error:
        raise DataError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    except FileNotFoundError:
        what = "is a link to a file that is gone" if path.is_symlink() else "does not exist"
        raise DataError(f"{path} {what}") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied") from None
    except image.DecompressionBombError:
        raise DataError(
            f"{path} has more than {_MOST_PIXELS:,} pixels, which bitskip does not read; scale it down first"
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds for damaged files
        raise DataError(
            f"{path} is not a readable picture ({_why(path, error)}); remove or replace it"
        ) from None


def fit_picture(
    picture: Image.Image, size: int | tuple[int, int], channels: int = 3
) -> npt.NDArray[np.uint8]:
    """Return an opened Pillow picture as uint8 (height, width, channels); arguments as in `read_picture`.

    Raises:
        DataError: for values whose range is not known.
    """
    image = _pillow()
    height, width = (size, size) if isinstance(size, int) else size
    # Copies: what the caller gave is left as it was.
    shown = _upright(_to_rgb(picture), picture)
    if shown.size != (width, height):
        scale = min(shown.width / width, shown.height / height)  # source pixels a target pixel
        left, top = (shown.width - scale * width) / 2, (shown.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
        shown = shown.resize((width, height), image.Resampling.BICUBIC, box=box)
    if channels == 1:
        return np.asarray(shown.convert("L"), dtype=np.uint8)[..., None]
    if channels != 3:
        raise DataError(f"pictures have 1 or 3 channels, not {channels}; pass arrays instead")
    return np.asarray(shown, dtype=np.uint8)


# -- the pieces ---------------------------------------------------------------------------------------


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise RunError("reading pictures needs Pillow; pip install pillow") from None
    return Image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of our formats that this Pillow reads."""
    image = _pillow()
    image.init()
    return tuple(name for name in (*_FORMATS, *(("HEIF",) if _reads_heif() else ())) if name in image.OPEN)


@functools.cache
def _reads_heif() -> bool:
    """Whether pillow-heif is installed; if so, Pillow reads iPhone's pictures from here on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _why(path: Path, error: Exception) -> str:
    """Say in a few words why a file is not a picture."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            return "it is empty"
        with path.open("rb") as stream:
            start = stream.read(64)
        for magic, kind in _OTHER_KINDS:
            if start.lstrip().startswith(magic):
                return f"it is {kind}"
        if start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
            return "it is HEIC; pip install pillow-heif reads it, or convert it to JPEG"
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return "not a known format"
    return " ".join(str(error).split())[:120] or name


def _upright(pixels: Image.Image, picture: Image.Image) -> Image.Image:
    """Turn and mirror `pixels` as the EXIF block of `picture` says; a damaged one turns nothing."""
    turn = _pillow().Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    with suppress(Exception):  # whatever stands there, the pixels are good
        return pixels.transpose(turns[picture.getexif()[_ORIENTATION]])
    return pixels


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as 8-bit RGB."""
    image = _pillow()
    if picture.format == "TIFF":
        _refuse_misread_tiff(picture)
    picture.load()
    if picture.mode in ("La", "P", "PA"):  # which some conversions below do not take
        clear_too = picture.mode != "P" or "transparency" in picture.info
        info = picture.info
        picture = picture.convert({"La": "LA"}.get(picture.mode, "RGBA" if clear_too else "RGB"))
        picture.info = {key: value for key, value in info.items() if key != "transparency"}
    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        grey = image.fromarray(_grey_levels(picture))
        return grey.convert("RGB")  # type: ignore[no-any-return]
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        opaque = _in_srgb(clear.convert("RGB"), picture.info.get("icc_profile"))
        ground = image.new("RGB", clear.size, BACKGROUND)
        ground.paste(opaque, mask=clear.getchannel("A"))
        return ground  # type: ignore[no-any-return]
    return _in_srgb(picture, picture.info.get("icc_profile"))


def _refuse_misread_tiff(picture: Image.Image) -> None:
    """Raise DataError for the kinds of TIFF that Pillow decodes to other numbers than stand there."""
    tags: Any = getattr(picture, "tag_v2", {})
    compressed = picture.info.get("compression", "raw") != "raw"
    bits = tags.get(_BITS_PER_SAMPLE, (1,))
    if bits[0] > 8 and tags.get(_PLANES) == _SEPARATE_PLANES and len(bits) > 1 and not compressed:
        raise DataError(
            f"a TIFF of {bits[0]}-bit channels in separate planes cannot be read; save it with interleaved "
            "channels, or as PNG"
        )
    if bits[0] == 8 and tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        raise DataError("a TIFF of signed 8-bit numbers has no range that is known; save it as unsigned ones")
    if picture.mode == "F" and compressed and getattr(tags, "prefix", b"") == b"MM":
        raise DataError(
            "a compressed TIFF of big-endian floats cannot be read; save it uncompressed, or little-endian"
        )


def _grey_levels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Return a picture of whole numbers above 8 bits, or of floats, as uint8 (H, W)."""
    values = np.asarray(picture)
    tags: Any = getattr(picture, "tag_v2", {})  # of a TIFF
    if picture.mode == "F":
        levels = _float_levels(values)
    else:
        values = values.astype(np.int64)
        most = int(values.max(initial=0))
        # PNG, PGM and JPEG 2000 fill 16 bits; a TIFF of signed or 32-bit numbers has no stated range.
        bits = 16
        if picture.format == "TIFF":
            bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        if picture.mode == "I" and picture.format not in ("PNG", "PPM"):
            if values.min(initial=0) < 0 or most > 255:
                raise DataError(
                    f"a picture of {bits}-bit whole numbers from {values.min()} to {most} has no range that "
                    "is known; save it with 8 bits, or as unsigned 16 bits"
                )
            bits = 8
        full = (1 << bits) - 1
        levels = (values * 255 + full // 2) // full
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        levels = np.where(values == transparent, BACKGROUND[0], levels)
    return levels.astype(np.uint8)


def _float_levels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (np.isfinite(values).all() and 0 <= low and high <= 255):
        raise DataError(
            f"a picture of floats from {low:g} to {high:g} has no range that is known; expected 0..1 or "
            "0..255"
        )
    levels: npt.NDArray[Any] = np.rint(values * 255 if high <= 1 else values)
    return levels


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture as RGB, its colours brought from its ICC profile to sRGB where it has another."""
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        transform = _icc_transform(bytes(profile), picture.mode)
        if transform is not None:
            with suppress(Exception):  # a profile that does not fit its picture changes nothing
                return transform.apply(picture)  # type: ignore[no-any-return]
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@functools.lru_cache(maxsize=16)
def _icc_transform(profile: bytes, mode: str) -> Any:
    """Return the transform from a profile to sRGB; None if it is sRGB, unreadable, or Pillow cannot do it."""
    try:
        from PIL import ImageCms

        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # as above
        return None
