"""Something that comes between the camera and an object for a while: clips in which objects disappear and come back.

A textured board slides in from the side, covers the object for some frames and slides out again. It stands still where
one board can cover all the places that the object has meanwhile, else it goes with the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam.data.colours import draw_natural
from x2sam.data.masks import mask_bbox
from x2sam.data.textures import texture

SLIDE = 4  # frames that the board takes to slide in, and out
_BORDER, _LEAST_BORDER = 0.08, 4  # of the object's box, and in pixels, that the board is larger
_MOST = 0.6  # of the frame that a board which stands still may cover
_PATTERNS = ("cloudy", "rough", "grained", "cells", "checkered", "dotted", "striped")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Occluded:
    """A clip with a board in it.

    frames:  uint8 (T, H, W, 3)
    labels:  uint8 (T, H, W), what the board covers is background
    hidden:  frames on which the object is covered all over
    after:   frames from which the board has gone again, on which the object is in sight
    """

    frames: np.ndarray
    labels: np.ndarray
    hidden: range
    after: tuple[int, ...]


def occlude(frames: np.ndarray, labels: np.ndarray, number: int, hidden: int, seed: int) -> Occluded | None:
    """Covers the object ``number`` of a clip for ``hidden`` frames, from a third of the clip on.

    frames: uint8 (T, H, W, 3); labels: uint8 (T, H, W). The same seed gives the same board. None where the clip is too
    short, or the object is not in sight before or after.
    """
    count = len(frames)
    start = max(SLIDE + 2, round(count / 3))
    end = start + hidden
    if end + SLIDE + 2 > count:
        return None
    boxes = _boxes(labels == number)
    after = tuple(t for t in range(end + SLIDE, count) if (labels[t] == number).any())
    if boxes is None or len(after) < 2 or not (labels[start - SLIDE - 1] == number).any():
        return None
    rng = np.random.default_rng((seed, hidden, count))
    size = frames.shape[1:3]
    surface = texture(rng, size, str(rng.choice(_PATTERNS)), [draw_natural(rng), draw_natural(rng)])
    places = _places(boxes[start - SLIDE : end + SLIDE], size)
    from_left = bool(rng.random() < 0.5)
    frames, labels = frames.copy(), labels.copy()
    for t, box in zip(range(start - SLIDE, end + SLIDE), places, strict=True):
        away = max(start - t, t - end + 1, 0) / (SLIDE + 1)
        _lay_board(frames[t], labels[t], surface, box, -away if from_left else away)
    return Occluded(frames, labels, range(start, end), after)


def _boxes(masks: np.ndarray) -> np.ndarray | None:
    """float (T, 4): the object's box on every frame, in between where it is not in sight; None where it never is."""
    seen = [t for t, mask in enumerate(masks) if mask.any()]
    if not seen:
        return None
    known = np.array([mask_bbox(masks[t]) for t in seen], float)
    return np.stack([np.interp(np.arange(len(masks)), seen, column) for column in known.T], 1)


def _places(boxes: np.ndarray, size: tuple[int, int]) -> list[Box]:
    """Where the board is on each frame when it is all in."""
    grown = []
    for x0, y0, x1, y1 in boxes:
        dx, dy = (max(_LEAST_BORDER, _BORDER * side) for side in (x1 - x0, y1 - y0))
        grown.append((x0 - dx, y0 - dy, x1 + dx, y1 + dy))
    low, high = np.min(grown, 0)[:2], np.max(grown, 0)[2:]
    if np.prod(np.clip(high, 0, size[::-1]) - np.clip(low, 0, size[::-1])) <= _MOST * size[0] * size[1]:
        return [(*low, *high)] * len(grown)
    return grown


def _lay_board(frame: np.ndarray, labels: np.ndarray, surface: np.ndarray, box: Box, away: float) -> None:
    """Paints into ``frame`` (H, W, 3) and ``labels`` (H, W); ``away`` -1..1: how far out the board still is, left of
    its place for negative values."""
    height, width = labels.shape
    x0, y0, x1, y1 = box
    shift = away * (x1 if away < 0 else width - x0)
    rows = slice(max(0, round(y0)), min(height, round(y1)))
    left = round(x0 + shift)
    cols = slice(max(0, left), min(width, round(x1 + shift)))
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return
    # The surface goes with the board.
    part = np.take(surface[rows], np.arange(cols.start, cols.stop) - left, axis=1, mode="wrap")
    frame[rows, cols] = part
    labels[rows, cols] = 0
