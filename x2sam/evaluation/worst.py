"""Pictures of the worst answers: the truth and the answer laid over the picture, side by side."""

from __future__ import annotations

import heapq
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from x2sam.commands.pictures import label_map, palette

_GAP, _LONGEST = 8, 960
_OUTLINE = (255, 255, 0)


@dataclass
class WorstCases:
    """Keeps the ``limit`` answers with the lowest scores, as compressed pictures only."""

    limit: int = 24
    _kept: list[tuple[float, int, str, bytes]] = field(default_factory=list)
    _order: itertools.count = field(default_factory=itertools.count)

    def offer(self, score: float | None, key: str, draw: Callable[[], np.ndarray]) -> None:
        """``draw`` makes the picture uint8 (H, W, 3); it is only called when the score is among the lowest so far."""
        if score is None or (len(self._kept) == self.limit and -score <= self._kept[0][0]):
            return
        coded = io.BytesIO()
        Image.fromarray(draw()).save(coded, format="PNG")
        # The count breaks ties, so that the pictures themselves are never compared.
        heapq.heappush(self._kept, (-score, next(self._order), key, coded.getvalue()))
        if len(self._kept) > self.limit:
            heapq.heappop(self._kept)

    def write(self, directory: Path) -> list[dict]:
        """``<rank>_<score>_<key>.png``, worst first, and ``index.json`` with rank, score, key and file of each."""
        directory.mkdir(parents=True, exist_ok=True)
        index = []
        for rank, (score, _, key, coded) in enumerate(sorted(self._kept, key=lambda k: (-k[0], k[1])), 1):
            name = f"{rank:03d}_{-score:.3f}_{_safe(key)}.png"
            (directory / name).write_bytes(coded)
            index.append({"rank": rank, "score": round(-score, 6), "key": key, "file": name})
        (directory / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        return index


def _safe(key: str) -> str:
    """A key as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[-80:] or "sample"


def side_by_side(
    picture: np.ndarray, truths: Sequence[np.ndarray], answers: Sequence[np.ndarray], prompt: np.ndarray | None = None
) -> np.ndarray:
    """uint8 (h, w, 3): truth on the left, answer on the right, at most 960 pixels high or wide each.

    truths, answers: bool masks (H, W), each in a colour of its own; prompt: bool (H, W), drawn in white on the left
    """
    height, width = picture.shape[:2]
    left, right = (overlay(picture, masks) for masks in (truths, answers))
    if prompt is not None:
        left[prompt] = 255
    step = max(1.0, max(height, width) / _LONGEST)
    size = (max(1, round(width / step)), max(1, round(height / step)))
    halves = [np.asarray(Image.fromarray(half).resize(size, Image.Resampling.BILINEAR)) for half in (left, right)]
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], 1)


def overlay(picture: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The picture uint8 (H, W, 3), every mask bool (H, W) half in its colour, with an outline that all show."""
    labels = label_map(list(masks), range(1, len(masks) + 1), picture.shape[:2])
    colours = palette()[np.where(labels > 0, (labels.astype(np.int64) - 1) % 255 + 1, 0)]
    out = np.where(labels[..., None] > 0, picture // 2 + colours // 2, picture)
    for mask in masks:
        out[mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)] = _OUTLINE
    return out
