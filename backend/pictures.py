"""File content -> the picture as a person sees it in a browser: upright, RGB, 8 bits."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms

from backend.errors import MediaError, MediaTooLargeError

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error, ImageCms.PyCMSError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """uint8 (H, W, 3) RGB: EXIF orientation applied, first picture of an animation, transparency on white.

    :raises MediaTooLargeError: more than ``max_pixels``; found out before any pixel is unpacked.
    :raises MediaError: not a picture, damaged, or of a kind that is not read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in _known_formats()]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise MediaTooLargeError(
                    f"The picture has {width} x {height} pixels; at most {max_pixels / 1e6:.0f} megapixels are read "
                    "(X2SAM_MAX_MEGAPIXELS)."
                )
            image.load()
            return np.ascontiguousarray(_to_rgb(_upright(image)))
    except Image.DecompressionBombError as error:
        raise MediaTooLargeError("The picture is too large to be unpacked.") from error
    except _UNREADABLE as error:
        raise MediaError(
            "The file is not a picture that can be read, or is damaged; if a browser shows it, save it as JPEG or PNG."
        ) from error


def _known_formats() -> set[str]:
    Image.init()
    return set(Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    # Only the EXIF block counts, as in browsers; Pillow's own helper would also follow an XMP remark. A broken block is
    # no reason to refuse a picture: it is shown as it is stored.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif"))
        turn = _TURNS.get(exif.get(ExifTags.Base.Orientation))
    except _UNREADABLE:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return np.repeat(_deep_grey(image)[..., None], 3, axis=2)
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _deep_grey(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) from 16 and 32 bits a pixel; the usual conversion would cut everything above 255."""
    values = np.asarray(image).astype(np.float64)
    peak = float(values.max(initial=0))
    top = max(peak, 65535.0 if peak > 255 else 255.0)
    return np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8)
