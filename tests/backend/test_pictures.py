from __future__ import annotations

import contextlib
import io
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_server import picture_bytes
from PIL import Image, ImageOps

from backend.errors import MediaError, MediaTooLargeError
from backend.jpeg import JpegLayout, jpeg_layout
from backend.pictures import PLENTY, decode_picture

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
    picture = decode_picture(content, LIMIT).pixels
    assert picture.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    assert (picture == expected).all()


def test_a_remark_in_xmp_does_not_turn_the_picture():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert decode_picture(saved(ramp(), "JPEG", xmp=xmp), LIMIT).pixels.shape == (40, 60, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_matter():
    content = saved(ramp(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode_picture(content, LIMIT).pixels.shape == (40, 60, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = ramp().convert("L").convert("I").point(lambda v: v * 257) if mode in ("I;16", "I") else ramp()
    image = image if image.mode == "I" and mode == "I" else image.convert(mode)
    fmt = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    picture = decode_picture(saved(image, fmt), LIMIT).pixels
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    assert picture.flags["C_CONTIGUOUS"]
    grey = np.asarray(ramp().convert("L")).astype(int)
    if mode in ("RGB", "L", "I;16", "I", "F"):
        assert abs(picture.mean(2) - (grey if mode != "RGB" else np.asarray(ramp()).mean(2))).max() < 3


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    assert decode_picture(saved(image), LIMIT).pixels.tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_the_first_picture_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(content, LIMIT).pixels[0, 0].tolist() == [255, 0, 0]


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


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_huge_jpeg_is_unpacked_smaller(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene = Image.new("L", (6400, 4800), 40)
    scene.paste(220, (1600, 800, 3200, 1600))
    picture = decode_picture(saved(scene, "JPEG", exif=exif), 8_000_000)
    small = np.asarray(scene.reduce(2))
    turned = {1: small, 3: small[::-1, ::-1], 6: np.rot90(small, -1)}[orientation]
    assert picture.size == ((6400, 4800) if orientation == 6 else (4800, 6400))
    assert picture.pixels.shape == (*turned.shape, 3)
    assert picture.pixels.shape[0] * picture.pixels.shape[1] <= PLENTY
    assert np.abs(picture.pixels[..., 0].astype(int) - turned).mean() < 1


def test_limits_of_jpeg_files():
    plain = Image.new("L", (2000, 1500))
    assert decode_picture(saved(plain, "JPEG"), 1_000_000).size == (1500, 2000)
    with pytest.raises(MediaTooLargeError, match="at most 2 megapixels"):
        decode_picture(saved(plain, "JPEG"), 600_000)
    # a decoder holds all of a progressive one, at whatever size it is unpacked
    with pytest.raises(MediaTooLargeError, match="at most 1 megapixels"):
        decode_picture(saved(plain, "JPEG", progressive=True), 1_000_000)


def test_layouts_of_jpeg_files():
    colours = picture_bytes(64, 48, "JPEG")
    assert jpeg_layout(colours) == JpegLayout(streamed=True)
    assert jpeg_layout(saved(ramp().convert("L"), "JPEG")) == JpegLayout(streamed=True)
    assert jpeg_layout(picture_bytes(64, 48, "JPEG", progressive=True)) == JpegLayout(streamed=False)
    scan = colours.index(b"\xff\xda")
    assert jpeg_layout(colours[: scan + 4] + b"\x01" + colours[scan + 5 :]) == JpegLayout(streamed=False)
    for content in (b"", b"\xff\xd8\xff", colours[:scan], b"\xff\xd8\xff\xe0\x00\x00" * 9, picture_bytes(8, 8)):
        assert jpeg_layout(content) is None


def test_a_camera_s_bits_in_sixteen():
    """Of TIFF files no browser tells how bright they are; a PNG file is shown as its numbers say."""
    values = np.array([[0, 1024, 4095]], np.uint16)
    assert decode_picture(saved(Image.fromarray(values), "TIFF"), LIMIT).pixels[0, :, 0].tolist() == [0, 64, 255]
    assert decode_picture(saved(Image.fromarray(values)), LIMIT).pixels[0, :, 0].tolist() == [0, 4, 16]


def test_fractions_and_what_is_no_number():
    values = np.array([[0.0, 0.5, 1.0, np.nan, -3.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = decode_picture(saved(Image.fromarray(values), "TIFF"), LIMIT).pixels
    assert picture[0, :, 0].tolist() == [0, 128, 255, 0, 0]


def test_an_animation_whose_second_picture_is_a_bomb():
    frames = [Image.new("RGB", (100, 100), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    second = content.rindex(b"\x2c\0\0\0\0\x64\0\x64\0")
    bomb = content[: second + 5] + b"\xff\xff\xff\xff" + content[second + 9 :]
    assert decode_picture(content, LIMIT).size == (100, 100)
    with pytest.raises(MediaTooLargeError):
        decode_picture(bomb, LIMIT)
    assert decode_picture(content[: second + 9], LIMIT).size == (100, 100), "a damaged second picture is nobody's loss"


def test_a_bomb_of_words_in_a_picture():
    words = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    chunk = (len(words) - 4).to_bytes(4, "big") + words + zlib.crc32(words).to_bytes(4, "big")
    plain = picture_bytes(8, 8)
    tracemalloc.start()
    with contextlib.suppress(MediaError):
        decode_picture(plain[:33] + chunk + plain[33:], LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


WHOLE = [
    picture_bytes(24, 16, fmt, **options)
    for fmt, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    )
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6), st.floats(0, 1)
)
@settings(max_examples=300)
def test_damage_is_told_or_gives_a_picture(content, changes, share):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = bytes(damaged[: round(len(damaged) * max(share, 0.3))])
    with contextlib.suppress(MediaError):
        picture = decode_picture(damaged, 1_000_000)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] == 3
