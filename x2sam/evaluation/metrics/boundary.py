"""Region similarity J and contour accuracy F of DAVIS (Perazzi et al., CVPR 2016), as X2SAM reports them on video.

F asks which part of the predicted contour lies close to a true one (precision), which part of the true contour lies
close to a predicted one (recall), and takes their harmonic mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from x2sam.evaluation.metrics.iou import iou

TOLERANCE = 0.008
"""How far apart contours may be and still match, as a part of the picture's diagonal."""


def contour(mask: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels of ``mask`` bool (H, W) that differ from the one to the right, below, or below right.

    The contour so lies on the upper left of every step, on either side of the mask's edge. Outside the picture the
    mask goes on, so that its border is no contour.
    """
    padded = np.pad(mask.astype(bool), ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def reach_of(size: tuple[int, int], tolerance: float = TOLERANCE) -> int:
    """The tolerance in whole pixels, rounded up, for pictures of ``size`` (H, W); 1 and more means pixels already."""
    return int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*size))


def boundary_f(
    prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, tolerance: float = TOLERANCE
) -> float:
    """F of two bool masks (H, W), 0..1. Ignored pixels are taken out of both masks. 1 when neither has a contour."""
    if ignore is not None:
        prediction, truth = prediction & ~ignore, truth & ~ignore
    found, true = contour(prediction), contour(truth)
    n_found, n_true = int(found.sum()), int(true.sum())
    if not n_found and not n_true:
        return 1.0
    if not n_found or not n_true:
        return 0.0
    reach = reach_of(truth.shape, tolerance)
    precision = np.count_nonzero(found & _within(true, reach)) / n_found
    recall = np.count_nonzero(true & _within(found, reach)) / n_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _within(edge: np.ndarray, reach: int) -> np.ndarray:
    """Pixels at most ``reach`` from ``edge``: the dilation by a disc."""
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Distances are roots of whole numbers: half a thousandth is between float error and the next root.
    return distance <= reach + 5e-4


@dataclass
class ObjectScores:
    """J and F of one object over the frames that count."""

    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)

    def add(self, prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> None:
        self.j.append(iou(prediction, truth, ignore))
        self.f.append(boundary_f(prediction, truth, ignore))


def mean_jf(objects: list[ObjectScores]) -> dict[str, float]:
    """``J``, ``F`` and their mean ``JF``: means over frames, then over objects. Objects without frames are left out."""
    counted = [o for o in objects if o.j]
    if not counted:
        raise ValueError("no object has a frame to score")
    j = float(np.mean([np.mean(o.j) for o in counted]))
    f = float(np.mean([np.mean(o.f) for o in counted]))
    return {"J": j, "F": f, "JF": (j + f) / 2}
