"""Small video files whose frames show their numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 160


def write_clip(
    path: Path, count: int = 20, rate: int = 10, stamps: Sequence[int] | None = None, shift: int = 0, **options: str
) -> Path:
    """H.264 with B-frames; frame i shows i + ``shift`` in eight big cells. ``stamps`` in steps of 1 / rate; ``options``
    are the container's."""
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=rate, options={"bf": "2", "g": "8", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(count):
            image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
            for bit in range(8):
                if (i + shift) >> bit & 1:
                    image[:, bit * 20 : bit * 20 + 20] = 225
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if stamps is None else stamps[i]
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_cut_clip(path: Path, count: int = 60) -> Path:
    """A file whose header is whole, and of whose pictures the last part is missing."""
    write_clip(path, count, movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    return path


def number_in(picture: bytes | np.ndarray) -> int:
    """The number that a frame shows, from its pixels or its JPEG file."""
    pixels = np.asarray(Image.open(io.BytesIO(picture))) if isinstance(picture, bytes) else picture
    return sum(int(pixels[:, bit * 20 + 4 : bit * 20 + 16].mean() > 128) << bit for bit in range(8))
