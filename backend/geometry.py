"""Percent, pixels, boxes, outlines and masks: pure conversions, each in one place.

Label Studio measures in percent of the picture, origin top left; the model in pixels of the picture as a person sees
it. Sizes are ``(H, W)``, points ``(x, y)``, boxes ``(x0, y0, x1, y1)``, masks bool ``(H, W)``.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

Box = tuple[float, float, float, float]
Size = tuple[int, int]


def percent_to_point(x: float, y: float, size: Size) -> tuple[float, float]:
    """A point in percent to pixels, kept at least a quarter of a pixel inside the picture."""
    height, width = size
    return (
        min(max(x / 100 * width, 0.25), width - 0.25),
        min(max(y / 100 * height, 0.25), height - 0.25),
    )


def percent_to_corners(x: float, y: float, width: float, height: float, rotation: float, size: Size) -> np.ndarray:
    """The corners (4, 2) in pixels of a box given in percent, turned clockwise by ``rotation`` degrees about (x, y)."""
    picture_height, picture_width = size
    w, h = width / 100 * picture_width, height / 100 * picture_height
    angle = math.radians(rotation)
    along, down = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    start = np.array([x / 100 * picture_width, y / 100 * picture_height])
    right, below = w * np.array(along), h * np.array(down)
    return np.stack([start, start + right, start + right + below, start + below])


def corners_to_box(corners: np.ndarray, size: Size) -> Box:
    """The upright box around points (n, 2), cut to the picture."""
    height, width = size
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    x0, x1 = (float(min(max(v, 0.0), width)) for v in (x0, x1))
    y0, y1 = (float(min(max(v, 0.0), height)) for v in (y0, y1))
    return (x0, y0, x1, y1)


def corners_to_mask(corners: np.ndarray, size: Size) -> np.ndarray:
    """The filled polygon with the given corners (n, 2) in pixels: True where a pixel's centre is inside or on it."""
    canvas = np.zeros(size, np.uint8)
    fraction = 4  # cv2 takes fixed-point corners, measured between pixel centres
    cv2.fillPoly(canvas, [np.round((corners - 0.5) * 2**fraction).astype(np.int32)], 1, shift=fraction)
    return canvas.astype(bool)


def mask_to_box(mask: np.ndarray) -> Box | None:
    """The box around a mask, right and bottom edges of the last pixels included; None for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return (float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))


def box_to_percent(box: Box, size: Size) -> dict[str, float]:
    """``x``, ``y``, ``width``, ``height`` in percent of the picture."""
    height, width = size
    x0, y0, x1, y1 = box
    return {
        "x": 100 * x0 / width,
        "y": 100 * y0 / height,
        "width": 100 * (x1 - x0) / width,
        "height": 100 * (y1 - y0) / height,
    }


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0.5, smallest: float = 0.01) -> list[np.ndarray]:
    """Outlines (n, 2) of a mask in pixels, largest part first.

    A polygon of Label Studio has no holes, so each hole is joined to its outline by a cut without width: in along it,
    round the hole the other way, and out again; whoever fills that outline gets the hole. Parts and holes below
    ``smallest`` times the area of the largest part are dropped, and points that move an outline by less than
    ``tolerance`` pixels too.
    """
    box = mask_to_box(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = (int(v) for v in box)
    # Contours run through pixel centres; at twice the size that is a quarter of a pixel from the true edge.
    crop = np.ascontiguousarray(mask[y0:y1, x0:x1], np.uint8)
    double = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    parents = tree[0][:, 3]
    outer = sorted((k for k in range(len(contours)) if parents[k] < 0), key=lambda k: -areas[k])
    least = smallest * areas[outer[0]]
    polygons = []
    for k in outer:
        if polygons and areas[k] < least:
            break
        holes = [h for h in range(len(contours)) if parents[h] == k and areas[h] >= max(least, 4.0)]
        whole = _simplified(contours[k], 2 * tolerance)
        for hole in sorted(holes, key=lambda h: -areas[h]):
            whole = _cut_to(whole, _simplified(contours[hole], 2 * tolerance))
        polygons.append((whole + 0.5) / 2 + (x0, y0))
    return polygons


def _simplified(contour: np.ndarray, tolerance: float) -> np.ndarray:
    points = cv2.approxPolyDP(contour, tolerance, True)[:, 0]
    return points if len(points) >= 3 else contour[:, 0]


def _cut_to(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """An outline that also goes round a hole. A cut is walked both ways, so it fills nothing, wherever it runs; the
    hole's direction is against the outline's, so it is empty for both rules of filling."""
    if (_signed_area(outline) > 0) == (_signed_area(hole) > 0):
        hole = hole[::-1]
    away = ((outline[:, None].astype(np.int64) - hole[None]) ** 2).sum(-1)
    leave, arrive = (int(v) for v in np.unravel_index(away.argmin(), away.shape))
    round_it = np.concatenate([hole[arrive:], hole[: arrive + 1]])
    return np.concatenate([outline[: leave + 1], round_it, outline[leave:]])


def _signed_area(points: np.ndarray) -> int:
    x, y = points[:, 0].astype(np.int64), points[:, 1].astype(np.int64)
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def points_to_percent(points: np.ndarray, size: Size) -> list[list[float]]:
    """Points (n, 2) in pixels to ``[[x, y], ...]`` in percent, cut to 0..100."""
    height, width = size
    return np.clip(points * (100 / width, 100 / height), 0, 100).tolist()


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """The mask at another size, nearest pixel."""
    if mask.shape == tuple(size):
        return mask
    height, width = size
    numbers = np.ascontiguousarray(mask, bool).view(np.uint8)
    return cv2.resize(numbers, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
