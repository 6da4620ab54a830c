"""The click protocol: where a patient person clicks next, given the truth and the mask so far."""

from __future__ import annotations

import numpy as np

from x2sam.data.masks import components, inner_distance
from x2sam.structures import Point


def _errors(
    truth: np.ndarray, prediction: np.ndarray | None, ignore: np.ndarray | None
) -> tuple[tuple[np.ndarray, bool], ...]:
    """(missed, True) and (exceeded, False), each bool (H, W)."""
    truth = truth.astype(bool, copy=False)
    counted = True if ignore is None else ~ignore.astype(bool, copy=False)
    if prediction is None:
        return ((truth & counted, True),)
    prediction = prediction.astype(bool, copy=False)
    return ((truth & ~prediction & counted, True), (prediction & ~truth & counted, False))


def next_click(
    truth: np.ndarray, prediction: np.ndarray | None = None, ignore: np.ndarray | None = None
) -> Point | None:
    """The next click for an object with mask ``truth`` bool (H, W), or None when nothing is wrong.

    It goes to the maximum of the distance transform of the largest 8-connected part of the error, where missed and
    exceeded pixels are taken apart: positive where ``truth`` was missed, negative where it was exceeded. Without a
    prediction the error is all of ``truth``. Pixels of ``ignore`` count neither way. The border of the picture counts
    as an edge. Of equals, missed comes before exceeded and the first in reading order wins. The click is at the
    centre of its pixel (column + 0.5, row + 0.5).
    """
    best = None
    for error, positive in _errors(truth, prediction, ignore):
        numbered, ids, stats, _ = components(error)
        if len(ids) and (best is None or stats[0, 4] > best[0]):
            x, y, w, h, area = (int(v) for v in stats[0])
            best = (area, numbered[y : y + h, x : x + w] == ids[0], x, y, positive)
    if best is None:
        return None
    _, part, x, y, positive = best
    row, col = divmod(int(np.argmax(inner_distance(part))), part.shape[1])
    return Point(x + col + 0.5, y + row + 0.5, positive)


def sample_training_clicks(
    truth: np.ndarray,
    prediction: np.ndarray | None,
    rng: np.random.Generator,
    n: int = 1,
    ignore: np.ndarray | None = None,
) -> list[Point]:
    """Up to ``n`` clicks as people scatter them: bigger errors are likelier, places well inside are likelier.

    All of them correct the same ``prediction`` (None: all are positive, on ``truth``). Fewer come back when the error
    has fewer parts than needed to keep the clicks apart; none when nothing is wrong.
    """
    parts = []
    for error, positive in _errors(truth, prediction, ignore):
        numbered, ids, stats, _ = components(error)
        for k, (x, y, w, h, area) in zip(ids[:8], stats.tolist(), strict=False):
            parts.append((area, numbered[y : y + h, x : x + w] == k, x, y, positive))
    clicks: list[Point] = []
    for _ in range(n):
        areas = np.array([p[0] for p in parts], float)
        if not areas.sum():
            break
        chosen = int(rng.choice(len(parts), p=areas / areas.sum()))
        _, part, x, y, positive = parts[chosen]
        depth = inner_distance(part)
        rows, cols = np.nonzero(depth >= rng.uniform(0.3, 1.0) * depth.max())
        k = int(rng.integers(len(rows)))
        row, col = int(rows[k]), int(cols[k])
        clicks.append(Point(x + col + 0.5, y + row + 0.5, positive))
        # The next click goes elsewhere: what this one plainly covers is taken out.
        reach = max(2.0, float(depth[row, col]))
        near = (np.arange(part.shape[1]) - col) ** 2 + (np.arange(part.shape[0])[:, None] - row) ** 2 <= reach * reach
        left = part & ~near
        parts[chosen] = (int(np.count_nonzero(left)), left, x, y, positive)
    return clicks
