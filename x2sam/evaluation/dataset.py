"""Clips and expressions to score against: ``videos.json`` and ``referring.json`` with their label maps.

Pictures (``images.json``) are read by :class:`x2sam.data.readers.labelmaps.LabelMapDataset`. A label map is an 8-bit
PNG: 0 background, 255 ignored, else the id of an object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.errors import FramesError

T = TypeVar("T")
Progress = Callable[[Iterable[T], str], Iterable[T]]
"""Wraps a sized iterable and shows how far it has come under a title."""


def silent(items: Iterable[T], title: str) -> Iterable[T]:
    """No display."""
    return items


@dataclass(frozen=True)
class Clip:
    """A clip with ground truth. ``gt_frames`` are the frames that have a label map; ``objects`` their ids."""

    name: str
    video: Path
    masks: Path
    gt_frames: tuple[int, ...]
    objects: tuple[int, ...]

    def labels(self, frame: int) -> np.ndarray:
        """uint8 (H, W) label map of a frame of ``gt_frames``."""
        return read_labels(self.masks / f"{frame:05d}.png")

    @property
    def scored_frames(self) -> tuple[int, ...]:
        """Frames that count. DAVIS leaves the first and the last frame of its clips out."""
        return self.gt_frames[1:-1] if self.name.startswith("davis_") else self.gt_frames


@dataclass(frozen=True)
class Expression:
    """A phrase for objects of a picture (path relative to the data) or of a clip."""

    text: str
    object_ids: tuple[int, ...]
    image: str | None = None
    video: str | None = None


def read_labels(path: Path) -> np.ndarray:
    """uint8 (H, W). Raises :class:`FramesError` where the file is missing or no 8-bit map of one channel."""
    if not path.is_file():
        raise FramesError(f"{path} is missing; copy the data again")
    labels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise FramesError(f"{path} is no label map of one channel with 8 bits; copy the data again")
    return labels


def object_mask(labels: np.ndarray, ids: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """``truth`` and ``ignore``, both bool (H, W): pixels of any of ``ids``, and pixels that count neither way."""
    return np.isin(labels, list(ids)), labels == IGNORE


def read_clips(data: Path) -> list[Clip]:
    """Clips of ``videos.json`` with ground truth after their first annotated frame.

    Clips without, and clips whose masks belong to another clip (``frame_map``), are left out.
    """
    clips = []
    for entry in _listing(data / "videos.json", "videos"):
        frames = tuple(sorted(int(k) for k in entry.get("gt_frames", ())))
        if len(frames) < 2 or "frame_map" in entry:
            continue
        objects = tuple(int(o["id"]) for o in entry["objects"])
        clips.append(Clip(entry["name"], data / entry["video"], data / entry["masks"], frames, objects))
    return clips


def read_expressions(data: Path) -> list[Expression]:
    """All expressions of ``referring.json``, in its order."""
    return [
        Expression(str(e["expression"]), tuple(int(k) for k in e["object_ids"]), e.get("image"), e.get("video"))
        for e in _listing(data / "referring.json", "samples")
    ]


def _listing(path: Path, key: str) -> list[dict]:
    if not path.is_file():
        raise FramesError(f"{path} is missing; name a directory with the layout of the evaluation data")
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as problem:
        raise FramesError(f"{path} can't be read ({problem}); copy the data again") from problem
