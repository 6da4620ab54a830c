"""Masks in files of others -> pictures and frames with objects: COCO, YouTube-VIS, DAVIS; one row each.

The annotation file is read as a whole, masks only when their turn comes. Label maps of DAVIS know no categories: the
n-th object gets the label that is given for it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backend.geometry import Size
from x2sam.data.masks import IGNORE
from x2sam.data.readers.files import Node, folders_in, pictures_in, read_json, read_map, size_of
from x2sam.data.readers.shapes import decode_shape
from x2sam.errors import FramesError


@dataclass(frozen=True, eq=False)
class Found:
    """A mask on a picture. ``track`` is the same for one object on all frames of a video; ``category`` is a name, or
    the number of an object where the file has no names; ``mask()`` is bool (H, W) and may raise :class:`FramesError`.
    """

    track: str
    category: str | int
    mask: Callable[[], np.ndarray]
    score: float = math.nan


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture, or a frame of a video. ``name`` is its path as the file has it, ``size`` (H, W)."""

    name: str
    size: Size
    found: tuple[Found, ...]
    video: str = ""
    frame: int = 0


def read_coco(path: Path) -> Iterator[Shown]:
    """``images`` and ``annotations``, in the order of the pictures; crowds are left out. Pictures that our own export
    took from videos are frames of them."""
    content = read_json(path)
    names = _categories(content)
    found: dict[str, list[Found]] = defaultdict(list)
    sizes = {entry.get("id").identity(): size_of(entry) for entry in content.get("images").items()}
    for entry in content.get("annotations").items():
        picture = entry.get("image_id").identity()
        if picture not in sizes:
            raise FramesError(f"{entry.where} is for a picture that is not listed; correct image_id")
        if not entry.optional("iscrowd").flag():
            shape = entry.get("segmentation")
            found[picture].append(_found(entry, names, shape, sizes[picture], _track(entry)))
    for entry in content.get("images").items():
        picture = entry.get("id").identity()
        video = entry.get("video").text() if entry.has("video") else ""
        frame = entry.get("frame").whole(0) if video and entry.has("frame") else 0
        yield Shown(entry.get("file_name").text(), sizes[picture], tuple(found.pop(picture, ())), video, frame)


def _track(entry: Node) -> str:
    """The number of an object where our own export wrote it, else that of the annotation."""
    own = entry.optional("attributes")
    return f"object {own.get('object').identity()}" if own.has("object") else entry.get("id").identity()


def read_ytvis(path: Path) -> Iterator[Shown]:
    """``videos`` and ``annotations``, video by video, frame by frame."""
    content = read_json(path)
    names = _categories(content)
    tracks: dict[str, list[Node]] = defaultdict(list)
    for entry in content.get("annotations").items():
        if not entry.optional("iscrowd").flag():
            tracks[entry.get("video_id").identity()].append(entry)
    for entry in content.get("videos").items():
        identity, size = entry.get("id").identity(), size_of(entry)
        video = entry.get("name").text() if entry.has("name") else identity
        shapes = [(track, track.get("segmentations").items()) for track in tracks.pop(identity, ())]
        for frame, name in enumerate(entry.get("file_names").items()):
            here = [(track, own[frame]) for track, own in shapes if frame < len(own) and own[frame].value is not None]
            found = tuple(_found(t, names, shape, size, f"{video} {t.get('id').identity()}") for t, shape in here)
            yield Shown(name.text(), size, found, video, frame)


def read_davis(path: Path) -> Iterator[Shown]:
    """``Annotations/<video>/<frame>.png``, or that folder itself."""
    root = path / "Annotations" if (path / "Annotations").is_dir() else path
    for folder in folders_in(root):
        for place, file in enumerate(pictures_in(folder)):
            frame = int(file.stem) if file.stem.isascii() and file.stem.isdecimal() else place
            labels = read_map(file)
            found = tuple(
                Found(f"{folder.name} {number}", int(number), lambda file=file, number=number: read_map(file) == number)
                for number in np.unique(labels)
                if number not in (0, IGNORE)
            )
            yield Shown(f"{folder.name}/{file.stem}.jpg", labels.shape, found, folder.name, frame)


def _categories(content: Node) -> Mapping[str, str]:
    return {entry.get("id").identity(): entry.get("name").text() for entry in content.get("categories").items()}


def _found(entry: Node, names: Mapping[str, str], shape: Node, size: Size, track: str) -> Found:
    category = entry.get("category_id")
    if category.identity() not in names:
        raise FramesError(f"{category.where} is none of the categories; complete the list")
    score: Any = entry.optional("score").value
    score = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else math.nan
    return Found(track, names[category.identity()], lambda: decode_shape(shape, size), score)


def stem_of(name: str) -> PurePosixPath:
    """A path without suffix."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.with_suffix("") if path.suffix else path


READERS: Mapping[str, Callable[[Path], Iterator[Shown]]] = {
    "coco": read_coco,
    "ytvis": read_ytvis,
    "davis": read_davis,
}
