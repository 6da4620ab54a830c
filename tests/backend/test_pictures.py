from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import pytest
from picture_server import picture_bytes
from PIL import Image, ImageOps

from backend.errors import MediaError, MediaTooLargeError
from backend.pictures import decode_picture

LIMIT = 10_000_000


def saved(image, fmt="PNG", **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def ramp(width=60, height=40):
    return Image.open(io.BytesIO(picture_bytes(width, height)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if fmt == "JPEG" else {"lossless": True} if fmt == "WEBP" else {}
    content = saved(ramp(), fmt, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    picture = decode_picture(content, LIMIT)
    assert picture.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    assert (picture == expected).all()


def test_a_remark_in_xmp_does_not_turn_the_picture():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert decode_picture(saved(ramp(), "JPEG", xmp=xmp), LIMIT).shape == (40, 60, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_matter():
    content = saved(ramp(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode_picture(content, LIMIT).shape == (40, 60, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = ramp().convert("L").convert("I").point(lambda v: v * 257) if mode in ("I;16", "I") else ramp()
    image = image if image.mode == "I" and mode == "I" else image.convert(mode)
    fmt = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    picture = decode_picture(saved(image, fmt), LIMIT)
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    assert picture.flags["C_CONTIGUOUS"]
    grey = np.asarray(ramp().convert("L")).astype(int)
    if mode in ("RGB", "L", "I;16", "I", "F"):
        assert abs(picture.mean(2) - (grey if mode != "RGB" else np.asarray(ramp()).mean(2))).max() < 3


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    assert decode_picture(saved(image), LIMIT).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_the_first_picture_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(content, LIMIT)[0, 0].tolist() == [255, 0, 0]


def test_a_bomb_is_refused_before_it_is_unpacked():
    rows = zlib.compress(bytes(20001) * 10)
    header = b"\x89PNG\r\n\x1a\n"

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = (20000).to_bytes(4, "big")
    bomb = header + chunk(b"IHDR", size + size + b"\x08\0\0\0\0") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(MediaTooLargeError):
        decode_picture(bomb, 10**12)
    with warnings.catch_warnings(), pytest.raises(MediaTooLargeError, match="megapixels"):
        warnings.simplefilter("error")
        decode_picture(picture_bytes(2000, 1000), 1_000_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>403</body></html>",
        picture_bytes(64, 64)[:100],
        picture_bytes(64, 64, "JPEG")[:-200],
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_picture(content):
    with pytest.raises(MediaError, match="not a picture"):
        decode_picture(content, LIMIT)
