"""Small questions about masks and label maps, on numpy arrays. Masks are bool (H, W), labels uint8 (H, W)."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from x2sam.structures import Sample, SampleObject

IGNORE = 255
MIN_VISIBLE = 24
"""Objects with fewer visible pixels can't be told from noise and are not trained on."""


def mask_bbox(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Half-open box ``(x0, y0, x1, y1)`` in pixels around a mask (H, W); zeros when the mask is empty."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape; 1 when both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def components(mask: np.ndarray, min_area: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """8-connected parts of a mask (H, W) with at least ``min_area`` pixels, largest first.

    Returns ``numbered`` int32 (H, W) (0 outside), ``ids`` (n,), ``stats`` (n, 5) as x, y, width, height, area,
    and ``centres`` (n, 2) as x, y of the mean pixel index.
    """
    _, numbered, stats, centres = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    ids = np.arange(1, len(stats))[stats[1:, cv2.CC_STAT_AREA] >= min_area]
    # A stable sort: of equal parts the first in reading order leads, on every machine.
    ids = ids[np.argsort(-stats[ids, cv2.CC_STAT_AREA], kind="stable")]
    return numbered, ids, stats[ids], centres[ids]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a mask, bool (H, W); empty when the mask is."""
    numbered, ids, _, _ = components(mask)
    return numbered == ids[0] if len(ids) else np.zeros(mask.shape, bool)


def inner_distance(mask: np.ndarray) -> np.ndarray:
    """Exact distance of each mask pixel to the nearest pixel outside, float32 (H, W), 0 outside.

    The picture ends at its border, so the border counts as an edge: the mask is padded before the transform.
    """
    padded = cv2.copyMakeBorder(np.ascontiguousarray(mask, np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def label_areas(labels: np.ndarray) -> np.ndarray:
    """Pixels of each label value, int64 (256,), of uint8 labels of any shape."""
    return np.bincount(labels.ravel(), minlength=256)


def visible_objects(sample: Sample) -> list[SampleObject]:
    """Those that have :data:`MIN_VISIBLE` pixels in the first frame."""
    areas = label_areas(sample.labels[0])
    return [one for one in sample.objects if areas[one.id] >= MIN_VISIBLE]


def label_centres(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (256,) and centres (256, 2) as x, y in pixels of the label values of one map uint8 (H, W).

    Centres follow the convention that a pixel's centre lies at half; values that do not occur have centre 0.
    """
    h, w = labels.shape
    # Row and column histograms: one pass over the bytes each, no coordinate arrays of picture size.
    columns = np.bincount(
        (labels.astype(np.int32) * w + np.arange(w, dtype=np.int32)).ravel(), minlength=256 * w
    ).reshape(256, w)
    rows = np.bincount(
        (labels.astype(np.int32) * h + np.arange(h, dtype=np.int32)[:, None]).ravel(), minlength=256 * h
    ).reshape(256, h)
    areas = columns.sum(1)
    divisor = np.maximum(areas, 1)
    return areas, np.stack([columns @ (np.arange(w) + 0.5) / divisor, rows @ (np.arange(h) + 0.5) / divisor], -1)


def drop_small(labels: np.ndarray, ids: Iterable[int]) -> tuple[np.ndarray, list[int]]:
    """Take objects out that no frame of ``labels`` uint8 (T, H, W) shows with :data:`MIN_VISIBLE` pixels.

    Their pixels become :data:`IGNORE`. Returns the labels (the same array where nothing was dropped) and the ids that
    stay, in the order given.
    """
    ids = list(ids)
    best = np.max([label_areas(frame) for frame in labels], axis=0)
    gone = [k for k in ids if 0 < best[k] < MIN_VISIBLE]
    if gone:
        table = np.arange(256, dtype=np.uint8)
        table[gone] = IGNORE
        labels = cv2.LUT(labels.reshape(-1, labels.shape[-1]), table).reshape(labels.shape)
    return labels, [k for k in ids if best[k] >= MIN_VISIBLE]


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label map or mask uint8 (H, W) to ``size`` (H, W): nearest by pixel centres, so nothing shifts."""
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def resize_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Picture uint8 (H, W, 3) to ``size`` (H, W): area mean when it shrinks in both directions, else linear."""
    shrinks = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (size[1], size[0]), interpolation=how)
