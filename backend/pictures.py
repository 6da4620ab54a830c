"""File content -> the picture as a person sees it in a browser: upright, RGB, 8 bits."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from backend.errors import MediaError, MediaTooLargeError
from backend.geometry import Size
from backend.jpeg import jpeg_layout

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
# All that decoders were seen to raise on damaged files.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError, struct.error,
    zlib.error, ImageCms.PyCMSError,
)  # fmt: skip
# How the stored rows and columns (h, w, 3) become what is shown, by EXIF orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda stored: stored[::-1, ::-1],
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
_EXACTLY_16_BITS = frozenset({"PNG", "PPM"})
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})

PLENTY = 24_000_000
"""JPEG files with more pixels are unpacked at a half, a quarter or an eighth of their width and height."""

REDUCED = 4
"""How many times the usual limit a JPEG file may have that can be unpacked at a reduced size."""

_SCALES = (1, 2, 4, 8)
_ROWS = 1 << 22  # samples of deep pictures that are converted at a time


@dataclass(frozen=True, eq=False)
class Picture:
    """``pixels``, uint8 (h, w, 3) RGB, and ``size``, the ``(H, W)`` that a browser shows: the same, or larger."""

    pixels: np.ndarray
    size: Size


def decode_picture(content: bytes, max_pixels: int) -> Picture:
    """The picture: EXIF orientation applied, first one of an animation, transparency on white.

    :raises MediaTooLargeError: more than ``max_pixels``, for JPEG files that can be read at a reduced size
        ``REDUCED * max_pixels``; found out before any pixel is unpacked.
    :raises MediaError: not a picture, damaged, or of a kind that is not read.
    """
    try:
        with _opened(content) as image:
            width, height = image.size
            layout = jpeg_layout(content) if image.format in ("JPEG", "MPO") else None
            limit = max_pixels * (REDUCED if layout and layout.streamed else 1)
            if width * height > limit:
                raise MediaTooLargeError(
                    f"The picture has {width} x {height} pixels; at most {limit / 1e6:.0f} megapixels of such a file "
                    "are read (X2SAM_MAX_MEGAPIXELS)."
                )
            if layout:
                image.draft(None, _reduced(width, height))
            turn = _orientation(image)
            image.load()
            pixels = np.ascontiguousarray(_TURNS.get(turn, np.asarray)(_to_rgb(image)))
            if image.format == "GIF":
                _check_next_picture(image)
            return Picture(pixels, (width, height) if turn in _ON_ITS_SIDE else (height, width))
    except Image.DecompressionBombError as error:
        raise MediaTooLargeError("The picture is too large to be unpacked.") from error
    except _UNREADABLE as error:
        raise MediaError(
            "The file is not a picture that can be read, or is damaged; if a browser shows it, save it as JPEG or PNG."
        ) from error


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An image whose pixels are still packed. Pillow's own limit of size is meant for those who have none."""
    file = io.BytesIO(content)
    if jpeg_layout(content) is not None:
        with JpegImagePlugin.JpegImageFile(file) as image:
            yield image
    else:
        with Image.open(file, formats=[name for name in _FORMATS if name in _known_formats()]) as image:
            yield image


def _known_formats() -> set[str]:
    Image.init()
    return set(Image.OPEN)


def _reduced(width: int, height: int) -> tuple[int, int]:
    """The size to ask a JPEG decoder for: the largest of its sizes with no more than ``PLENTY`` pixels."""
    scale = next((scale for scale in _SCALES if width * height <= PLENTY * scale**2), _SCALES[-1])
    return -(-width // scale), -(-height // scale)


def _orientation(image: Image.Image) -> int:
    # Only the EXIF block counts, as in browsers; Pillow's own helper would also follow an XMP remark. A broken block is
    # no reason to refuse a picture: it is shown as it is stored.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif"))
        turn = exif.get(ExifTags.Base.Orientation)
    except _UNREADABLE:
        return 1
    return turn if isinstance(turn, int) else 1


def _check_next_picture(animation: Image.Image) -> None:
    """Refuses an animation whose second picture claims a huge size: such a file is an attack, not a picture."""
    try:
        animation.seek(1)
    except Image.DecompressionBombError:
        raise
    except _UNREADABLE:
        pass  # there is none, or it is damaged: only the first one is shown


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return np.repeat(_deep_grey(image)[..., None], 3, axis=2)
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return np.asarray(image.convert("RGB"))


def _deep_grey(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) from 16 and 32 bits a pixel; the usual conversion would cut everything above 255."""
    values = np.asarray(image)
    top = _white(values, image.format in _EXACTLY_16_BITS)
    grey = np.empty(values.shape, np.uint8)
    rows = max(_ROWS // max(values.shape[1], 1), 1)
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        light = np.nan_to_num(values[part].astype(np.float64), nan=0.0) * (255.0 / top)
        grey[part] = np.clip(np.round(light), 0, 255)
    return grey


def _white(values: np.ndarray, exactly_16_bits: bool) -> float:
    """The value that is shown white. Cameras store 10, 12 or 14 bits in 16; fractions go to 1."""
    peak = float(np.nanmax(values, initial=0))
    if values.dtype.kind == "f" and peak <= 1:
        return 1.0
    if peak <= 255:
        return 255.0
    if exactly_16_bits:
        return 65535.0
    return max(peak, 2.0 ** math.ceil(math.log2(peak + 1)) - 1)
