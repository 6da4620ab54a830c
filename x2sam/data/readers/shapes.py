"""Outlines of annotation files as masks: COCO's run lengths, plain and compressed, and polygons.

Nothing larger than the picture is ever allocated, whatever a file claims.
"""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from x2sam.data.readers.files import Node
from x2sam.errors import FramesError

Size = tuple[int, int]
_LONGEST_OUTLINE = 4e6


def decode_shape(node: Node, size: Size) -> np.ndarray:
    """bool (H, W) of a ``segmentation``: run lengths (an object) or polygons (a list). Null gives an empty mask."""
    if node.value is None:
        return np.zeros(size, bool)
    return decode_rle(node, size) if isinstance(node.value, dict) else fill_polygons(node, size)


def decode_rle(node: Node, size: Size) -> np.ndarray:
    """bool (H, W) of ``{"size": [H, W], "counts": ...}``, counts a list or COCO's compressed text, column by column.

    Raises :class:`FramesError` for another size and for runs that do not fill the picture exactly.
    """
    stated = tuple(side.whole(0) for side in node.get("size").items())
    if stated != size:
        raise FramesError(f"{node.where}: the mask is for {stated} but the picture is {size} as (H, W); correct it")
    counts = node.get("counts")
    runs = _inflate(counts) if isinstance(counts.value, str) else counts.numbers()
    if (runs < 0).any() or (runs > size[0] * size[1]).any() or runs.sum() != size[0] * size[1]:
        raise FramesError(f"{counts.where}: the run lengths do not fill {size[1]} x {size[0]} pixels; copy it again")
    # Values alternate from 0; columns follow each other.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _inflate(node: Node) -> np.ndarray:
    """Run lengths int64 (n,) of the compressed text: groups of 5 bits, low first, bit 6 set while more follow; from
    the fourth run on each is the difference to the one before the last."""
    codes = np.frombuffer(node.value.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise FramesError(f"{node.where} is no compressed run-length text; copy the file again")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if digits.max() > 7:
        raise FramesError(f"{node.where} holds a run length that is too large; copy the file again")
    runs = np.add.reduceat((codes & 31) << (5 * digits), first)
    negative = codes[last] & 16 > 0
    runs[negative] -= (1 << (5 * (last - first + 1)))[negative]
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def fill_polygons(node: Node, size: Size) -> np.ndarray:
    """bool (H, W), the union of polygons ``[[x, y, x, y, ...], ...]``, by COCO's rule. One flat list is one polygon;
    polygons of fewer than three corners have no inside and are passed over."""
    if isinstance(node.value, list) and node.value and not isinstance(node.value[0], list):
        rings = [node]
    else:
        rings = node.items()
    corners = [ring.numbers() for ring in rings]
    for ring, points in zip(rings, corners, strict=True):
        if len(points) % 2:
            raise ring.wrong("should hold pairs of x and y")
        length = np.abs(np.diff(points.reshape(-1, 2), axis=0)).sum() + np.abs(points).max(initial=0)
        if length > max(_LONGEST_OUTLINE, 64 * sum(size)):
            raise FramesError(f"{ring.where}: the polygon lies far outside the picture; correct its coordinates")
    usable = [points.tolist() for points in corners if len(points) >= 6]
    if not usable:
        return np.zeros(size, bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(usable, *size))).astype(bool)


def fill_corners(node: Node, size: Size) -> np.ndarray:
    """bool (H, W) of one polygon ``[[x, y], ...]`` with its border, as drawing programs fill it (LISA's rule)."""
    points = np.array([corner.numbers(2) for corner in node.items()]).reshape(-1, 2)
    if np.abs(points).max(initial=0) > 32 * max(size):
        raise FramesError(f"{node.where}: the polygon lies far outside the picture; correct its coordinates")
    canvas = np.zeros(size, np.uint8)
    if len(points):
        cv2.polylines(canvas, [points.astype(np.int32)], True, 1, 1)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    return canvas.astype(bool)


def encode_rle(mask: np.ndarray) -> dict:
    """``{"size": [H, W], "counts": text}`` of a mask, bool (H, W)."""
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in coded["size"]], "counts": coded["counts"].decode("ascii")}
