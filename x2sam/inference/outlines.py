"""What shape an outline has, for phrases that name one: "the star", "the largest ring".

A small network's features hardly tell shapes, but a mask that is sharp can be measured: how full its hull, its
rectangle and its ellipse are, how its outline goes round its middle, where it is wide. From these numbers a small
network of one hidden layer, fitted by :mod:`x2sam.inference.outlines_fit`, tells how probable each name is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from x2sam.errors import WeightsError

FILE = Path(__file__).parent.parent / "data" / "outlines.safetensors"
NAMES = (
    "circle", "oval", "square", "rectangle", "triangle", "hexagon", "polygon", "star", "ring", "frame", "cross",
    "heart", "arrow", "crescent", "rod", "blob", "worm", "letter", "person", "animal", "fish", "bird", "tree", "house",
    "car", "flower", "leaf", "mushroom", "bottle", "cup", "gadget",
)  # fmt: skip
"""What can be told by the outline alone, as generated scenes draw it."""
SHAPES = frozenset(NAMES[: NAMES.index("letter")])
"""Those that are nothing but a shape; the others are things, which look like this or otherwise."""
LEAST_PIXELS = 24
"""Of a mask; smaller ones have no shape."""
_SIDE = 96  # of the square that a mask is brought to
_ANGLES = 64
_WAVES = 10  # of the outline about its middle that are looked at
_BANDS = 6  # across the mask, in either direction


def measures(mask: np.ndarray) -> np.ndarray:
    """float32 (MEASURES,) of a mask bool (H, W) with at least :data:`LEAST_PIXELS` pixels."""
    shape, scale = _squared(mask)
    contours, tree = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = np.array([cv2.contourArea(one) for one in contours])
    outer = tree[0, :, 3] < 0
    main = contours[int(np.where(outer, areas, -1).argmax())]
    area, filled = float(shape.sum()), float(areas.max()) + 1
    hull = cv2.convexHull(main)
    length = cv2.arcLength(main, True) + 1
    (_, (wide, high), _), hull_area = cv2.minAreaRect(main), cv2.contourArea(hull) + 1
    wide, high = sorted((wide + 1, high + 1))
    corners = [len(cv2.approxPolyDP(main, share * length, True)) for share in (0.015, 0.03, 0.06)]
    hull_corners = len(cv2.approxPolyDP(hull, 0.03 * cv2.arcLength(hull, True), True))
    moments = cv2.HuMoments(cv2.moments(shape, True)).ravel()
    return np.array(
        [
            filled / hull_area, area / filled, hull_area / (wide * high), filled / (wide * high), np.log(high / wide),
            4 * np.pi * filled / length**2, 4 * np.pi * hull_area / (cv2.arcLength(hull, True) + 1) ** 2,
            areas[~outer].sum() / filled, np.minimum((areas[~outer] > 0.004 * filled).sum(), 4),
            areas[outer].max() / max(areas[outer].sum(), 1), *np.log(corners), np.log(hull_corners),
            *_bays(main, filled), *(np.sign(m) * np.log1p(1e3 * abs(m)) for m in moments[:4]), np.log(scale),
            *_around(main), *_bands(shape),
        ],
        np.float32,
    )  # fmt: skip


def _squared(mask: np.ndarray) -> tuple[np.ndarray, float]:
    """The mask's own part as uint8 with the long side of ``_SIDE`` and a margin, and how long that side was."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.float32)
    side = max(part.shape)
    size = tuple(max(3, round(n * _SIDE / side)) for n in part.shape[::-1])
    smooth = cv2.resize(np.pad(part, 1), (size[0] + 2, size[1] + 2), interpolation=cv2.INTER_LINEAR)
    shape = (smooth > 0.5).astype(np.uint8)
    return np.pad(shape if shape.any() else (smooth > 0).astype(np.uint8), 2), float(side)


def _bays(main: np.ndarray, filled: float) -> tuple[float, ...]:
    """The depths of the four deepest bays of an outline, in roots of its area, and how many are deep."""
    depths = np.zeros(4)
    if len(main) > 4:
        hull = cv2.convexHull(main, returnPoints=False)
        hull[::-1].sort(axis=0)  # OpenCV wants them in order, which rounding may disturb
        bays = cv2.convexityDefects(main, hull)
        if bays is not None:
            found = np.sort(bays[:, 0, 3] / 256.0)[::-1] / np.sqrt(filled)
            depths = np.pad(found, (0, 4))[:4]
            return (*depths, float(np.minimum((found > 0.08).sum(), 9)))
    return (*depths, 0.0)


def _around(main: np.ndarray) -> np.ndarray:
    """Strength of the waves of the outline's distance from its middle, whichever way it is turned; float (WAVES + 2,)
    with the nearest and the farthest distance."""
    points = main[:, 0].astype(np.float64)
    x, y = (points - _middle_of(main)).T
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    place = ((angle / (2 * np.pi) + 0.5) * _ANGLES).astype(int) % _ANGLES
    far = np.zeros(_ANGLES)
    np.maximum.at(far, place, distance)
    seen = np.flatnonzero(far)
    if len(seen):  # the outline of a single pixel has no distance from its middle
        far = np.interp(np.arange(_ANGLES), seen, far[seen], period=_ANGLES)
    mean = max(far.mean(), 1e-6)
    waves = np.abs(np.fft.rfft(far / mean))[1 : _WAVES + 1] / _ANGLES
    return np.array([*(10 * waves), distance.min() / mean, far.max() / mean])


def _middle_of(main: np.ndarray) -> np.ndarray:
    moments = cv2.moments(main)
    if moments["m00"] > 0:
        return np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    return main[:, 0].mean(0)


def _bands(shape: np.ndarray) -> np.ndarray:
    """How wide the mask is along its height and along its width, and how much it is its own mirror image."""
    rows, cols = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    part = shape[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.float32)
    down = cv2.resize(part.mean(1)[:, None], (1, _BANDS), interpolation=cv2.INTER_AREA).ravel()
    across = cv2.resize(part.mean(0)[None], (_BANDS, 1), interpolation=cv2.INTER_AREA).ravel()
    mirrored = (part[:, ::-1], part[::-1])
    alike = [np.minimum(part, other).sum() / np.maximum(part, other).sum() for other in mirrored]
    return np.array([*down, *across, *alike, np.log(part.shape[0] / part.shape[1])])


@dataclass(frozen=True, eq=False)
class OutlineNames:
    """``centre`` and ``spread`` float32 (MEASURES,), ``enter`` (MEASURES, hidden) with ``bias`` (hidden,), ``leave``
    (hidden, NAMES) with ``prior`` (NAMES,)."""

    centre: np.ndarray
    spread: np.ndarray
    enter: np.ndarray
    bias: np.ndarray
    leave: np.ndarray
    prior: np.ndarray

    def log_odds(self, measured: np.ndarray) -> np.ndarray:
        """float (n, NAMES): log of how much more probable each name is than it would be of any shape, for measures
        (n, MEASURES)."""
        x = np.clip((measured - self.centre) / self.spread, -6, 6)
        value = np.tanh(x @ self.enter + self.bias) @ self.leave + self.prior
        value = value - value.max(1, keepdims=True)
        return value - np.log(np.exp(value).sum(1, keepdims=True)) + np.log(len(NAMES))

    def save(self, path: Path) -> None:
        save_file({name: np.ascontiguousarray(value, np.float32) for name, value in vars(self).items()}, path)


def read_outline_names(path: Path) -> OutlineNames:
    """Raises WeightsError where the file is missing or holds something else."""
    try:
        names = OutlineNames(**load_file(path))
        if names.leave.shape[1] != len(NAMES) or names.enter.shape[0] != len(measures(np.ones((9, 9), bool))):
            raise ValueError("it was fitted to other measures")
    except (OSError, SafetensorError, TypeError, ValueError) as problem:
        raise WeightsError(f"{path} holds no names of outlines ({problem}); install the package again") from problem
    return names


@cache
def embedded_outline_names() -> OutlineNames:
    return read_outline_names(FILE)
