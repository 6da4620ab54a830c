"""Sketches: what a person drew or clicked, painted as a soft mask that the memory encoder can read.

The published model hears of a click only through 64 region tokens, and of a negative click not at all. Models with
``memory.sketch`` also get the sketch as a memory entry of the same picture (distance 0 in time): certain pixels are 0
or 1, unknown ones 0.5, a mask to be corrected lies between 0.25 and 0.75 so that clicks stand out from it.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from x2sam.model.mask_decoder import Condition
from x2sam.model.x2sam import FrameFeatures, heat_of

UNKNOWN = 0.5
INSIDE_BOX = 0.75
_SPREAD = 0.25  # of what is named about the middle, in sides of the picture
# levels for "outside" and "inside" of a drawn region, by what was drawn
LEVELS = {"point": (UNKNOWN, 1.0), "scribble": (UNKNOWN, 1.0), "box": (0.0, INSIDE_BOX), "mask": (0.25, 0.75)}


def coverage(raster: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each grid cell that a bool raster (S, S) covers, (h, w) float32."""
    return cv2.resize(raster.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)


def paint_region(raster: np.ndarray, kind: str, grid: tuple[int, int]) -> np.ndarray:
    """A drawn region (S, S) as guidance (h, w) float32 in 0..1; ``kind`` is a key of :data:`LEVELS`."""
    outside, inside = LEVELS[kind]
    return (outside + (inside - outside) * coverage(raster, grid)).astype(np.float32)


def paint_clicks(base: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Adds click rasters (S, S) bool to guidance (h, w): positive ones pull to 1, negative ones to 0.

    Cells that a click touches with half of their area or more are wholly the click's.
    """
    plus = np.minimum(1.0, 2 * coverage(positive, base.shape))
    minus = np.minimum(1.0, 2 * coverage(negative, base.shape))
    return (np.maximum(base, base + (1 - base) * plus) * (1 - minus)).astype(np.float32)


def paint_mask(probability):
    """A mask so far, as probability (array or tensor of any shape), weakened to 0.25..0.75: it can be overruled."""
    low, high = LEVELS["mask"]
    return low + (high - low) * probability


def paint_words(features: FrameFeatures, words: Condition) -> Tensor:
    """Where the words point to, as guidance (B, 1, h, w) at stride 4: the heat of ``<SEG>`` and what speaks for the
    middle of the picture, painted like a mask that can be overruled. No gradient goes through it.

    People point their cameras at what they talk about. Where the words of a small model say little, that says more
    (on training photographs 0.27 mean IoU without it, 0.32 with it; an ellipse in the middle 0.24).
    """
    heat = heat_on(features, words)[:, None]
    painted = paint_mask((heat + _middle(*heat.shape[-2:]).to(heat)).sigmoid())
    return painted.to(features.mask_features.dtype)


def heat_on(features: FrameFeatures, words: Condition) -> Tensor:
    """The heat of ``<SEG>`` at stride 4, float32 (B, h, w), log-odds; without gradient."""
    heat = heat_of(features.maps[1], words.seg[:, 0]).detach().float()
    grid = features.mask_features.shape[-2:]
    return F.interpolate(heat[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]


def _middle(height: int, width: int) -> Tensor:
    """(h, w) log-odds that an object named by a person covers a place, before the words are read: 1 in the middle."""
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    return 1 - (x**2 + y[:, None] ** 2) / (2 * _SPREAD**2)
