"""Regions that stand in a draft -> masks: the way back of the encoders in :mod:`backend.results`, one row per shape."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2s
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import RunLengthError
from backend.evidence import StandingRegion
from backend.geometry import Size, corners_to_mask, percent_to_corners, resize_mask
from backend.remembered import PackedMask, Remembered
from backend.rle import decode_mask, run_bytes

SAME = 0.7
"""Masks that overlap more than this show the same thing."""
_OPAQUE = 128
_DAMAGED = (
    *(RunLengthError, KeyError, TypeError, ValueError, OverflowError, AttributeError, binascii.Error),
    *(OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError, RecursionError),
)


def standing_mask(parts: Sequence[StandingRegion], size: Size, remembered: Remembered) -> PackedMask | None:
    """The mask of an object's parts at ``size`` (H, W); None when one can't be read or is larger than 16 times that."""
    height, width = size
    if any(part.size[0] * part.size[1] > 16 * height * width for part in parts):
        return None
    try:
        digest = blake2s(repr(size).encode())
        for part in parts:
            digest.update(f"{part.shape} {part.size}".encode())
            digest.update(_content(part))
        return remembered.decoded(digest.digest(), lambda: _decode(parts, size))
    except _DAMAGED:
        return None


def is_answer(parts: Sequence[StandingRegion], mask: PackedMask, answer: PackedMask) -> bool:
    """Whether the mask of standing parts is that answer, untouched: the same but for what its form loses."""
    if mask.size != answer.size or mask.box is None or answer.box is None:
        return False
    allowed = max(_LOSES[part.shape] for part in parts)
    if any(part.size != mask.size for part in parts):
        allowed = max(allowed, _LOST_BY_RESIZING)
    slack = 2 + allowed * max(mask.size)
    if any(abs(a - b) > slack for a, b in zip(mask.box, answer.box, strict=True)):
        return False
    if any(part.shape == "rectangle" for part in parts):
        return True
    one, other = mask.unpack(), answer.unpack()
    return int((one ^ other).sum()) <= 2 + allowed * int((one | other).sum())


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks of one size."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def _content(part: StandingRegion) -> bytes:
    if part.shape == "brush":
        return run_bytes(part.value["rle"])
    if part.shape == "bitmask":
        return part.value["imageDataURL"].encode("ascii", "replace")
    return json.dumps({k: part.value.get(k) for k in ("points", "x", "y", "width", "height", "rotation")}).encode()


def _decode(parts: Sequence[StandingRegion], size: Size) -> np.ndarray:
    whole = np.zeros(size, bool)
    for part in parts:
        whole |= resize_mask(_DECODERS[part.shape](part.value, part.size), size)
    return whole


def _brush(value: Mapping[str, Any], size: Size) -> np.ndarray:
    return decode_mask(value["rle"], *size)


def _bitmask(value: Mapping[str, Any], size: Size) -> np.ndarray:
    data = base64.b64decode(value["imageDataURL"].partition(",")[2], validate=True)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        if (picture.height, picture.width) != size:
            raise ValueError("the mask has another size than its picture")
        return np.asarray(picture.convert("RGBA"))[..., 3] >= _OPAQUE


def _polygon(value: Mapping[str, Any], size: Size) -> np.ndarray:
    height, width = size
    points = np.asarray(value["points"], float)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("no outline")
    return corners_to_mask(np.clip(points, -100, 200) * (width / 100, height / 100), size)


def _rectangle(value: Mapping[str, Any], size: Size) -> np.ndarray:
    x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
    rotation = float(value.get("rotation") or 0)
    if not all(abs(v) < 1e4 for v in (x, y, width, height, rotation)):
        raise ValueError("no box")
    return corners_to_mask(percent_to_corners(x, y, width, height, rotation, size), size)


_DECODERS: dict[str, Callable[[Mapping[str, Any], Size], np.ndarray]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _polygon,
    "rectangle": _rectangle,
}
# The share of a mask that may differ after its way through the browser.
_LOSES = {"brush": 0.002, "bitmask": 0.002, "polygon": 0.08, "rectangle": 0.002}
_LOST_BY_RESIZING = 0.03
