"""Intersection over union: of one mask, and over a set (X2SAM, evaluation of referring and interactive tasks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _counts(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None) -> tuple[int, int]:
    """Pixels in both and pixels in either; three bool arrays of one shape, ``ignore`` counts neither way."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    both, either = prediction & truth, prediction | truth
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    return int(np.count_nonzero(both)), int(np.count_nonzero(either))


def iou(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Intersection over union of bool masks (H, W), 0..1, without the pixels of ``ignore``; 1 when both are empty."""
    both, either = _counts(prediction, truth, ignore)
    return both / either if either else 1.0


@dataclass
class IouTotals:
    """Sums over a set of answers.

    ``ciou`` (cumulative) divides the sum of intersections by the sum of unions, so that large objects weigh more;
    ``giou`` (generalised referring) is the mean of each answer's IoU, where nothing found and nothing there counts 1.
    """

    count: int = 0
    both: int = 0
    either: int = 0
    total: float = 0.0

    def add(self, prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
        """Count one answer; returns its IoU."""
        both, either = _counts(prediction, truth, ignore)
        value = both / either if either else 1.0
        self.count += 1
        self.both += both
        self.either += either
        self.total += value
        return value

    @property
    def ciou(self) -> float:
        if not self.count:
            return 0.0
        return self.both / self.either if self.either else 1.0

    @property
    def giou(self) -> float:
        return self.total / self.count if self.count else 0.0
