"""How good an order and a probability are: what is found when the most doubtful is looked at first, and calibration."""

from __future__ import annotations

import numpy as np

BINS = 10


def found_early(doubt: np.ndarray, bad: np.ndarray, share: float) -> float | None:
    """The part of what is ``bad`` bool (n,) among the first ``share`` by ``doubt`` (n,), the highest first; None where
    nothing is bad. Of equal doubts, as many count as they would on average in any order."""
    total = int(bad.sum())
    if not total:
        return None
    most = share * len(doubt)
    order = np.sort(doubt)[::-1]
    edge = order[min(int(np.ceil(most)), len(order)) - 1]
    above, level = doubt > edge, doubt == edge
    left = min(max(most - above.sum(), 0) / level.sum(), 1)
    return float((bad[above].sum() + left * bad[level].sum()) / total)


def most_early(bad: np.ndarray, share: float) -> float | None:
    """What the best possible order would find."""
    total = int(bad.sum())
    return min(1.0, share * len(bad) / total) if total else None


def separation(doubt: np.ndarray, bad: np.ndarray) -> float | None:
    """The probability that something bad is more doubtful than something good (area under the ROC curve)."""
    if bad.all() or not bad.any():
        return None
    values, place = np.unique(doubt, return_inverse=True)
    good = np.bincount(place[~bad], minlength=len(values))
    below = np.cumsum(good) - good / 2
    return float(below[place[bad]].sum() / (bad.sum() * (~bad).sum()))


def calibration_error(doubt: np.ndarray, bad: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between what was said and what came true, over bins of equal width (Naeini et al., 2015)."""
    place = np.minimum((doubt * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    said, true = (np.bincount(place, values, minlength=bins) for values in (doubt, bad.astype(float)))
    return float(np.abs(said - true)[counts > 0].sum() / len(doubt))


def squared_error(doubt: np.ndarray, bad: np.ndarray) -> float:
    """Mean squared error of the probability (Brier, 1950)."""
    return float(np.mean((doubt - bad) ** 2))
