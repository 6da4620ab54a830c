"""In which order things are most useful to look at: what is probably wrong first, and no near copies in a row.

Greedy, as in farthest-first traversal (Gonzalez, 1985; k-center in Sener and Savarese, 2018), with errors as weights:
the next one is always that with the largest gain, ``error * novelty``, and novelty is what no earlier one is like. A
gain only shrinks as others go before, so gains along the order never grow and ``1 - gain`` is a score that sorts by it.
"""

from __future__ import annotations

import numpy as np

PICKS = 2048
"""So many are chosen one by one, each seeing all before it; the others see these only. Bounds time at n * PICKS * D."""
SHARPNESS = 4.0
"""Likeness is the cosine to this power: only what is much alike counts as a copy."""


def useful_scores(
    errors: np.ndarray, vectors: np.ndarray, seen: np.ndarray | None = None, picks: int = PICKS,
    sharpness: float = SHARPNESS,
) -> np.ndarray:  # fmt: skip
    """float64 (n,) in 0..1, the most useful lowest.

    errors:  (n,) expected error of each, 0..1
    vectors: (n, D) what each looks like; rows that are not finite are like nothing else
    seen:    bool (n,), those that people have seen already: they go before all others, in any order
    """
    errors = np.clip(np.asarray(errors, np.float64), 0.0, 1.0)
    units = _units(np.asarray(vectors, np.float32))
    left = np.ones(len(errors), bool)
    novelty, scores = np.ones(len(errors)), 1 - errors
    first = np.flatnonzero(seen).tolist() if seen is not None else []
    for turn in range(min(max(picks, len(first)), len(errors))):
        best = first[turn] if turn < len(first) else int(np.where(left, errors * novelty, -1.0).argmax())
        scores[best], left[best] = 1 - errors[best] * novelty[best], False
        novelty = np.minimum(novelty, 1 - np.clip(units @ units[best], 0.0, 1.0) ** sharpness)
    return np.where(left, 1 - errors * novelty, scores)


def _units(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, seen from the mean of all, each column by its spread; zeros for rows that are not finite."""
    good = np.isfinite(vectors).all(1)
    known = vectors[good] if good.any() else np.zeros((1, vectors.shape[1]), np.float32)
    away = np.where(good[:, None], (vectors - known.mean(0)) / (known.std(0) + 1e-6), 0.0)
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.divide(away, lengths, out=np.zeros_like(away), where=lengths > 1e-6)
