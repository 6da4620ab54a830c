"""Frames behind one face: arrays, picture and video files, and readers that decode on demand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError

MOST_PIXELS = 200_000_000
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class FrameSource(Protocol):
    """What a session reads: ``frames[i]`` is uint8 (H, W, 3) RGB as a person sees it.

    A source may also have ``digest(i) -> str``, the same for the same pixels and for no others; then features are
    shared between all media that show that picture, and may be kept on disk.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


def open_frames(frames: np.ndarray | str | Path | FrameSource) -> FrameSource:
    """A picture (H, W, 3), a clip (T, H, W, 3), a file, a directory of pictures, or something that reads like a list.

    Raises FramesError for what can't be read or holds no frame.
    """
    if isinstance(frames, (str, Path)):
        source: FrameSource = _open_path(Path(frames))
    else:
        source = frames[None] if isinstance(frames, np.ndarray) and frames.ndim == 3 else frames
    if not len(source):
        raise FramesError("there are no frames; check that the file opens in a player")
    return source


def _open_path(path: Path) -> FrameSource:
    if path.is_dir():
        return PictureFolder(sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES))
    if not path.is_file():
        raise FramesError(f"there is no file {path.name}; check the path")
    try:
        with Image.open(path) as picture:
            animated = getattr(picture, "n_frames", 1) > 1
    except (OSError, ValueError, Image.DecompressionBombError):
        return VideoReader(path)
    return VideoReader(path) if animated else read_picture(path)[None]


class PictureFolder(Sequence[np.ndarray]):
    """Frames as picture files, in the order of their names."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        return read_picture(self.paths[index])


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), EXIF orientation applied, transparency on white."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise FramesError(f"{path.name} has {picture.width} x {picture.height} pixels; make it smaller")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FramesError(f"{path.name} can't be read as a picture ({error}); open and save it again") from error
