"""Values of submitted regions -> masks, one row per shape, by the rule of pixel centres.

Brush and bitmask hold pixels: what is at least half opaque is in. All other shapes are outlines in percent, and a pixel
is in when its centre is; so outlines and boxes that were made from masks give those masks again.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import RunLengthError
from backend.geometry import Size, percent_to_corners
from backend.rle import decode_mask
from x2sam.data.readers.files import MOST_PIXELS

OPAQUE = 128
DAMAGED = (
    *(RunLengthError, KeyError, TypeError, ValueError, OverflowError, AttributeError, binascii.Error),
    *(OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What reading a damaged value raises."""
NEEDED: Mapping[str, frozenset[str]] = {
    "brush": frozenset({"rle"}),
    "bitmask": frozenset({"imageDataURL"}),
    "polygon": frozenset({"points"}),
    "rectangle": frozenset({"x", "y", "width", "height"}),
    "ellipse": frozenset({"x", "y", "radiusX", "radiusY"}),
    "keypoint": frozenset({"x", "y"}),
    "videorectangle": frozenset({"sequence"}),
}
"""What the value of each shape must hold; a row without it is a stray copy of another."""
_FAR = 1e4
_MOST_CROSSINGS = 1 << 23


def value_to_mask(shape: str, value: Mapping[str, Any], size: Size) -> np.ndarray:
    """bool (H, W) of a value of ``brush``, ``bitmask``, ``polygon``, ``rectangle``, ``ellipse`` or ``keypoint``.

    Raises one of :data:`DAMAGED` for what can't be read, or was made for another size.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"the picture has more than {MOST_PIXELS} pixels")
    return _READERS[shape](value, size)


def fill_outline(points: np.ndarray, size: Size) -> np.ndarray:
    """bool (H, W): the pixels whose centres the closed outline (n, 2), in pixels, goes round (non-zero rule, as
    browsers fill).

    :raises ValueError: its edges cross more rows than any outline of a thing does.
    """
    height, width = size
    start, stop = points, np.roll(points, -1, axis=0)
    # an edge crosses the line through the centres of a row when its ends lie on both sides of it
    first = np.ceil(np.minimum(start[:, 1], stop[:, 1]) - 0.5).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(start[:, 1], stop[:, 1]) - 0.5).clip(0, height).astype(np.int64)
    counts = last - first
    if counts.sum() > _MOST_CROSSINGS:
        raise ValueError(f"the outline crosses {counts.sum()} rows")
    edge = np.repeat(np.arange(len(points)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row + 0.5 - start[edge, 1]) / (stop[edge, 1] - start[edge, 1])
    x = start[edge, 0] + share * (stop[edge, 0] - start[edge, 0])
    turns = np.where(stop[edge, 1] > start[edge, 1], 1, -1)
    order = np.lexsort((x, row))
    # each row's turns add up to nothing, so one running sum serves all rows
    column = np.ceil(x[order] - 0.5).clip(0, width).astype(np.int64)
    inside = np.cumsum(turns[order]) != 0
    spans = np.flatnonzero(inside)
    edges = np.zeros((height, width + 1), np.int32)
    np.add.at(edges, (row[order][spans], column[spans]), 1)
    np.add.at(edges, (row[order][spans], column[spans + 1]), -1)
    return np.cumsum(edges, axis=1)[:, :width] > 0


def fill_box(box: Sequence[float], size: Size) -> np.ndarray:
    """bool (H, W) of an upright box ``(x0, y0, x1, y1)`` in pixels."""
    height, width = size
    x0, y0, x1, y1 = (math.ceil(round(side - 0.5, 6)) for side in box)
    mask = np.zeros(size, bool)
    mask[min(max(y0, 0), height) : max(y1, 0), min(max(x0, 0), width) : max(x1, 0)] = True
    return mask


def _brush(value: Mapping[str, Any], size: Size) -> np.ndarray:
    return decode_mask(value["rle"], *size, threshold=OPAQUE)


def _bitmask(value: Mapping[str, Any], size: Size) -> np.ndarray:
    data = base64.b64decode(value["imageDataURL"].partition(",")[2], validate=True)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        if (picture.height, picture.width) != tuple(size):
            raise ValueError("the mask has another size than its picture")
        return np.asarray(picture.convert("RGBA"))[..., 3] >= OPAQUE


def _polygon(value: Mapping[str, Any], size: Size) -> np.ndarray:
    points = np.asarray(value["points"], float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not (abs(points) < _FAR).all():
        raise ValueError("no outline")
    return fill_outline(_settled(points * (size[1] / 100, size[0] / 100)), size)


def _rectangle(value: Mapping[str, Any], size: Size) -> np.ndarray:
    x, y, width, height = (_number(value, name) for name in ("x", "y", "width", "height"))
    rotation = _number(value, "rotation", 0.0)
    corners = percent_to_corners(x, y, width, height, rotation, size)
    if rotation % 360:
        return fill_outline(corners, size)
    return fill_box((*corners.min(0), *corners.max(0)), size)


def _ellipse(value: Mapping[str, Any], size: Size) -> np.ndarray:
    x, y = _number(value, "x") / 100 * size[1], _number(value, "y") / 100 * size[0]
    across, down = _number(value, "radiusX") / 100 * size[1], _number(value, "radiusY") / 100 * size[0]
    return _fill_ellipse((x, y), (across, down), _number(value, "rotation", 0.0), size)


def _keypoint(value: Mapping[str, Any], size: Size) -> np.ndarray:
    """The disc that the editor draws, and in any case the pixel under the point."""
    x, y = _number(value, "x") / 100 * size[1], _number(value, "y") / 100 * size[0]
    radius = _number(value, "width", 0.0) / 100 * size[1]
    mask = _fill_ellipse((x, y), (radius, radius), 0.0, size)
    mask[min(max(int(y), 0), size[0] - 1), min(max(int(x), 0), size[1] - 1)] = True
    return mask


def _fill_ellipse(centre: tuple[float, float], radii: tuple[float, float], rotation: float, size: Size) -> np.ndarray:
    mask = np.zeros(size, bool)
    if min(radii) <= 0:
        return mask
    # only where it can be: points are small and pictures are not
    reach = max(radii) + 1
    columns, rows = (slice(max(math.floor(middle - reach), 0), max(math.ceil(middle + reach), 0)) for middle in centre)
    angle = math.radians(rotation)
    x = np.arange(size[1])[columns] + 0.5 - centre[0]
    y = (np.arange(size[0])[rows] + 0.5 - centre[1])[:, None]
    along, down = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    mask[rows, columns] = (along / radii[0]) ** 2 + (down / radii[1]) ** 2 <= 1
    return mask


def _settled(points: np.ndarray) -> np.ndarray:
    """Without the noise that the way through percent leaves, which decides where a corner lies on a pixel's centre."""
    return np.round(points, 6)


def _number(value: Mapping[str, Any], name: str, default: float | None = None) -> float:
    found = value.get(name)
    if found is None and default is not None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < _FAR:
        raise ValueError(f"'{name}' is no number")
    return float(found)


_READERS: dict[str, Callable[[Mapping[str, Any], Size], np.ndarray]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _polygon,
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "keypoint": _keypoint,
}
