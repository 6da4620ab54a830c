"""Pictures for the log: what is there, and what the model finds."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from x2sam.inference.preprocess import PreprocessConfig
from x2sam.model.mask_decoder import LevelPrediction

TRUTH, FOUND = (60, 220, 90), (255, 70, 60)
THRESHOLD = 0.5


def overlay(picture: Tensor, level: LevelPrediction, truth: Tensor | np.ndarray, views: PreprocessConfig) -> np.ndarray:
    """The picture with outlines of what should be found (green) and a veil over what is found (red).

    picture: (3, S, S) as the mask encoder reads it; level: a prediction with one row; truth: (N, S, S)
    returns  uint8 (S, S, 3)
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (views.mask_mean, views.mask_std))
    pixels = ((picture.cpu().float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    drawn = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    found = found_mask(level, drawn.shape[:2])
    drawn[found] = (0.5 * drawn[found] + 0.5 * np.array(FOUND)).astype(np.uint8)
    for mask in np.asarray(torch.as_tensor(truth).cpu()).astype(np.uint8):
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, TRUTH, 1)
    return drawn


def found_mask(level: LevelPrediction, size: tuple[int, int]) -> np.ndarray:
    """Union bool (H, W) of the queries that some class claims with at least one half, or of the best one alone."""
    score = level.class_logits[0].float().softmax(-1)[:, :-1].amax(-1)
    kept = score >= THRESHOLD
    if not bool(kept.any()):
        kept = score == score.max()
    logits = level.mask_logits[0, kept].float().amax(0)
    return (F.interpolate(logits[None, None], size=size, mode="bilinear")[0, 0] > 0).cpu().numpy()
