"""What can be seen of query masks without knowing the truth: how sure, how sharp, at the border, alike."""

from __future__ import annotations

import numpy as np

LEAST = 1e-4
_MARGIN = 1.0  # of logits, between the two thresholds of "stable"


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


def overlaps(flat: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of masks float32 (n, cells), 0 or 1, with others (m, cells): (n, m)."""
    both = flat @ others.T
    return both / np.maximum(flat.sum(1)[:, None] + others.sum(1) - both, 1.0)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
