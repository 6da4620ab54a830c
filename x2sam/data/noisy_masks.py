"""Plausible wrong masks, for training the correction of a mask by clicks."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from x2sam.data.masks import mask_bbox
from x2sam.data.textures import octave_noise
from x2sam.errors import PromptError

Change = Callable[[np.ndarray, np.random.Generator, np.ndarray | None], np.ndarray]


def _extent(mask: np.ndarray) -> float:
    """Side of the square with the mask's area, in pixels."""
    return float(np.sqrt(np.count_nonzero(mask)))


def _kernel(reach: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))


def _reach(mask: np.ndarray, rng: np.random.Generator) -> int:
    return int(np.clip(_extent(mask) * rng.uniform(0.03, 0.18), 1, 15))


def _dilate(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), _kernel(_reach(mask, rng))).astype(bool)


def _erode(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    return cv2.erode(mask.astype(np.uint8), _kernel(_reach(mask, rng)), borderValue=0).astype(bool)


def _shift(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    dx, dy = rng.normal(0, 0.12 * _extent(mask) + 1, 2)
    h, w = mask.shape
    moved = cv2.warpAffine(mask.astype(np.uint8), np.array([[1, 0, dx], [0, 1, dy]]), (w, h), flags=cv2.INTER_NEAREST)
    return moved.astype(bool)


def _rough_edge(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    """The boundary wanders, as the edge of an unsure network does."""
    reach = max(1.5, _extent(mask) * rng.uniform(0.05, 0.2))
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), reach)
    noise = octave_noise(rng, mask.shape, int(rng.integers(4, 16)), 2, 0.5)
    # Bounded, so that nothing appears far from the mask.
    return soft > 0.5 + 0.18 * np.clip(noise, -2.0, 2.0)


def _cut(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    """A part is missing: everything beyond a straight line, or a disc."""
    rows, cols = np.nonzero(mask)
    k = int(rng.integers(len(rows)))
    h, w = mask.shape
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        along = np.arange(w) * np.cos(angle) + np.arange(h)[:, None] * np.sin(angle)
        return mask & (along <= np.quantile(along[mask], rng.uniform(0.4, 0.9)))
    radius = _extent(mask) * rng.uniform(0.2, 0.55)
    return mask & ((np.arange(w) - cols[k]) ** 2 + (np.arange(h)[:, None] - rows[k]) ** 2 > radius * radius)


def _extra(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    """Something that does not belong: a blob beside the mask."""
    x0, y0, x1, y1 = mask_bbox(mask)
    out = mask.astype(np.uint8)
    for _ in range(int(rng.integers(1, 3))):
        centre = rng.uniform((x0, y0), (x1, y1)) + rng.normal(0, 0.4, 2) * (x1 - x0, y1 - y0)
        axes = np.maximum(1, _extent(mask) * rng.uniform(0.1, 0.45, 2))
        cv2.ellipse(out, (tuple(map(float, centre)), tuple(map(float, 2 * axes)), rng.uniform(0, 180)), 1, -1)
    return out.astype(bool)


def _merged(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None) -> np.ndarray:
    """A neighbour is taken in, the commonest error of a first click."""
    if others is None:
        return _extra(mask, rng, others)
    near = cv2.dilate(mask.astype(np.uint8), _kernel(3)).astype(bool) & ~mask
    ids = np.unique(others[near])
    ids = ids[(ids > 0) & (ids < 255)]
    return mask | (others == rng.choice(ids)) if len(ids) else _extra(mask, rng, others)


CHANGES: dict[str, Change] = {
    "dilate": _dilate,
    "erode": _erode,
    "shift": _shift,
    "rough edge": _rough_edge,
    "cut": _cut,
    "extra": _extra,
    "merged": _merged,
}


def noisy_mask(mask: np.ndarray, rng: np.random.Generator, others: np.ndarray | None = None) -> np.ndarray:
    """A plausible wrong version of ``mask`` bool (H, W): one to three changes of :data:`CHANGES`; never empty.

    others: uint8 (H, W) label map of the picture, so that a neighbour can be merged by mistake
    """
    if not mask.any():
        raise PromptError("an empty mask has no wrong version; leave the object out")
    result = mask
    for name in rng.choice(tuple(CHANGES), int(rng.integers(1, 4)), replace=False):
        changed = CHANGES[str(name)](result, rng, others)
        if np.count_nonzero(changed) >= 8:
            result = changed
    return result.copy() if result is mask else result
