"""Objects cut from a picture and laid over another one, or over the same one in motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from x2sam.data.masks import MIN_VISIBLE, label_areas, mask_bbox
from x2sam.structures import Sample, SampleObject

Box = tuple[int, int, int, int]
_MARGIN = 3
_OVER = 0.5  # chance that an object is laid over another one rather than anywhere
_COVERS = 0.8  # then, its longer side at most, in longer sides of what is under it


@dataclass(frozen=True, eq=False)
class Cutout:
    """colour uint8 (h, w, 3), alpha uint8 (h, w) with a soft rim, ``corner`` x, y of the crop in its picture."""

    colour: np.ndarray
    alpha: np.ndarray
    corner: tuple[int, int]
    category: str
    thing: bool


def cut_out(sample: Sample, chosen: SampleObject) -> Cutout:
    """The visible part of ``chosen`` in the first frame of ``sample``; it must be visible there."""
    mask = sample.labels[0] == chosen.id
    x0, y0, x1, y1 = mask_bbox(mask)
    h, w = mask.shape
    x0, y0, x1, y1 = max(x0 - _MARGIN, 0), max(y0 - _MARGIN, 0), min(x1 + _MARGIN, w), min(y1 + _MARGIN, h)
    alpha = cv2.GaussianBlur(mask[y0:y1, x0:x1].astype(np.uint8) * 255, (0, 0), 0.8)
    return Cutout(sample.frames[0][y0:y1, x0:x1], alpha, (x0, y0), chosen.category, chosen.thing)


def choose_objects(sample: Sample, rng: np.random.Generator, count: int, smallest: float = 0.003, largest: float = 0.4):
    """Up to ``count`` countable objects of the first frame that cover ``smallest`` to ``largest`` of it."""
    areas = label_areas(sample.labels[0]) / sample.labels[0].size
    fits = [o for o in sample.objects if o.thing and smallest <= areas[o.id] <= largest]
    return [fits[k] for k in rng.permutation(len(fits))[:count]]


def lay_over(picture: np.ndarray, labels: np.ndarray, cutout: Cutout, affine: np.ndarray, value: int) -> bool:
    """Draw ``cutout`` into ``picture`` uint8 (H, W, 3) and ``labels`` uint8 (H, W), in place; False when outside.

    affine: float (2, 3), pixels of the cut-out to pixels of the picture (corners at whole numbers)
    """
    h, w = cutout.alpha.shape
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], float) @ affine[:, :2].T + affine[:, 2]
    bound = (labels.shape[1], labels.shape[0])
    low = np.clip(np.floor(corners.min(0)), 0, bound).astype(int)
    high = np.clip(np.ceil(corners.max(0)), 0, bound).astype(int)
    if (high - low < 1).any():
        return False
    # OpenCV's matrices map pixel centres counted from zero; ours map pixel corners.
    matrix = affine.copy()
    matrix[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5 - low
    extent = (int(high[0] - low[0]), int(high[1] - low[1]))
    alpha = cv2.warpAffine(cutout.alpha, matrix, extent, flags=cv2.INTER_LINEAR)
    colour = cv2.warpAffine(cutout.colour, matrix, extent, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    region = (slice(low[1], high[1]), slice(low[0], high[0]))
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    picture[region] = cv2.blendLinear(colour, np.ascontiguousarray(picture[region]), weight, 1.0 - weight)
    labels[region][alpha >= 128] = value
    return bool((alpha >= 128).any())


def free_id(sample: Sample) -> int | None:
    """An id that ``sample`` does not use, or None when all 254 are taken."""
    used = {o.id for o in sample.objects}
    return next((k for k in range(1, 255) if k not in used), None)


def fill_hole(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``picture`` uint8 (H, W, 3) with ``mask`` bool (H, W) filled from its surroundings, coarsely: uint8 copy.

    The fill is made at a quarter of the resolution; it only has to look like background, not like this one.
    """
    h, w = mask.shape
    small = (max(1, w // 4), max(1, h // 4))
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8))
    coarse = cv2.resize(wide, small, interpolation=cv2.INTER_AREA if wide.max() == 0 else cv2.INTER_LINEAR)
    coarse = cv2.dilate((coarse > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), coarse, 3, cv2.INPAINT_TELEA)
    out = picture.copy()
    cv2.copyTo(cv2.resize(filled, (w, h), interpolation=cv2.INTER_LINEAR), wide, out)
    return out


def paste_objects(sample: Sample, donor: Sample, rng: np.random.Generator, count: int = 2) -> Sample:
    """``sample`` (one frame) with up to ``count`` objects of ``donor`` laid over it, at random places and sizes.

    Half of them hide a part of another object, as things in front of each other do.
    """
    picture, labels, objects = sample.frames[0].copy(), sample.labels[0].copy(), list(sample.objects)
    h, w = labels.shape
    for chosen in choose_objects(donor, rng, count):
        value = free_id(Sample(picture, labels, tuple(objects)))
        if value is None:
            break
        cutout = cut_out(donor, chosen)
        affine = placement(cutout, rng, (h, w), box_to_hide(labels, objects, rng))
        if lay_over(picture, labels, cutout, affine, value) and np.count_nonzero(labels == value) >= MIN_VISIBLE:
            objects.append(SampleObject(value, cutout.category, cutout.thing))
        else:
            labels[labels == value] = 255
    return Sample(picture[None], labels[None], tuple(objects), sample.complete, sample.source)


def box_to_hide(labels: np.ndarray, objects: Sequence[SampleObject], rng: np.random.Generator) -> Box | None:
    """Half of the time the box ``(x0, y0, x1, y1)`` around one of ``objects`` in ``labels`` uint8 (H, W), else None.

    Each as often as it is large: a cell among hundreds is too small to be hidden in part.
    """
    if rng.random() >= _OVER:
        return None
    areas = label_areas(labels)[[thing.id for thing in objects]]
    if not areas.sum():
        return None
    return mask_bbox(labels == objects[int(rng.choice(len(objects), p=areas / areas.sum()))].id)


def placement(cutout: Cutout, rng: np.random.Generator, size: tuple[int, int], over: Box | None = None) -> np.ndarray:
    """A random place, size, tilt and mirroring of a cut-out in a picture (H, W): float (2, 3) for :func:`lay_over`.

    over: a box in pixels; the middle of the cut-out lies in it, and it is smaller than the box
    """
    h, w = cutout.alpha.shape
    scale = np.exp(rng.uniform(np.log(0.12), np.log(0.6))) * max(size) / max(h, w)
    # Enlarging a small cut-out only shows its blur.
    scale = min(scale, 2.0)
    low, high = np.array((0.05, 0.95))[:, None] * (size[1], size[0])
    if over is not None:
        low, high = np.array(over[:2], float), np.array(over[2:], float)
        scale = min(scale, _COVERS * (high - low).max() / max(h, w))
    angle, mirror = rng.normal(0, 0.12), rng.choice((-1.0, 1.0))
    linear = (
        scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([mirror, 1.0])
    )
    centre = rng.uniform(low, high)
    return np.concatenate([linear, (centre - linear @ (w / 2, h / 2))[:, None]], 1)
