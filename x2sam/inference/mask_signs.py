"""What can be seen of query masks without knowing the truth: how sure, how sharp, at the border, alike."""

from __future__ import annotations

import cv2
import numpy as np

LEAST = 1e-4
_MARGIN = 1.0  # of logits, between the two thresholds of "stable"
_RING = 3  # cells around a mask that it is compared with


def odds(scores: np.ndarray) -> np.ndarray:
    """Log-odds of scores 0..1 of any shape."""
    held = np.clip(scores, LEAST, 1 - LEAST)
    return np.log(held / (1 - held))


def sharpness(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Of masks given as logits (n, h, w), float (n,) each: ``inside``, the mean probability inside the mask, 0 of an
    empty one; ``stable``, the area above a higher threshold against that above a lower one; ``blurred``, the entropy
    against the root of the area."""
    flat = logits.reshape(len(logits), -1)
    masks = flat > 0
    area = masks.sum(1)
    probability = sigmoid(flat)
    certain = np.clip(probability, 1e-6, 1 - 1e-6)
    entropy = -(certain * np.log(certain) + (1 - certain) * np.log(1 - certain)).sum(1)
    return {
        "inside": (masks * probability).sum(1) / np.maximum(area, 1),
        "stable": ((flat > _MARGIN).sum(1) + 1) / ((flat > -_MARGIN).sum(1) + 1),
        "blurred": entropy / np.sqrt(area * flat.shape[1] + 1) * 8,
    }


def border(masks: np.ndarray) -> np.ndarray:
    """The share of the picture's border that masks (n, h, w) touch, float (n,)."""
    return np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1).mean(1)


def whole(masks: np.ndarray) -> np.ndarray:
    """The share of each mask bool (n, h, w) that its largest part has, float (n,), 0 of an empty one."""
    found = (cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA] for mask in masks)
    return np.array([areas.max(initial=0) / max(areas.sum(), 1) for areas in found])


def distinct(masks: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """How far the colours of masks bool (n, h, w), their rims left out, are from those just around them, float (n,):
    log of one more than the distance of the means in Lab. picture: uint8 (H, W, 3) RGB of the same part of the world.
    0 where there is nothing inside or around."""
    small = cv2.resize(picture, masks.shape[:0:-1], interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    square, found = np.ones((3, 3), np.uint8), np.zeros(len(masks))
    for number, mask in enumerate(masks):
        flat = mask.astype(np.uint8)
        core, around = cv2.erode(flat, square) > 0, (cv2.dilate(flat, square, iterations=_RING) > 0) & ~mask
        core = core if core.any() else mask
        if core.any() and around.any():
            found[number] = np.log1p(np.linalg.norm(lab[core].mean(0) - lab[around].mean(0)))
    return found


def overlaps(flat: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of masks float32 (n, cells), 0 or 1, with others (m, cells): (n, m)."""
    both = flat @ others.T
    return both / np.maximum(flat.sum(1)[:, None] + others.sum(1) - both, 1.0)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
