"""Panoptic quality, of pictures (PQ) and of tubes through a clip (VPQ).

PQ is from Kirillov et al., "Panoptic Segmentation" (CVPR 2019): segments of one category match when their IoU exceeds
0.5; then PQ = sum of matched IoU / (TP + FP / 2 + FN / 2) = SQ x RQ per category, averaged over the categories that
occur. VPQ is from Kim et al., "Video Panoptic Segmentation" (CVPR 2020): the same over all windows of k consecutive
frames, where a segment is its tube through the window.

It is written here because the library at hand (torchmetrics 1.9) does not count a true segment as missed when the
answer leaves its pixels unlabelled, and takes seconds for a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.evaluation.metrics.segments import FrameTable, PixelCounts

WINDOWS = (1, 2, 4, 6)


@dataclass
class _Sums:
    """Of one category: sum of matched IoU, matched, answered too much, missed."""

    iou: float = 0.0
    hits: int = 0
    extra: int = 0
    missed: int = 0

    @property
    def weight(self) -> float:
        return self.hits + 0.5 * self.extra + 0.5 * self.missed


class PanopticTotals:
    """Sums over pictures or windows, by category."""

    def __init__(self) -> None:
        self.sums: dict[Hashable, _Sums] = defaultdict(_Sums)

    def add(self, tables: Iterable[FrameTable]) -> None:
        """One picture, or the frames of one window.

        Void pixels are left out of the union; an answered segment that matches nothing and lies on void by more than
        half is not held against the answer.
        """
        counts = PixelCounts(tables)
        matched_answers, matched_truths = set(), set()
        for (answer, truth), both in counts.both.items():
            if answer is None or truth is None or answer[0] != truth[0]:
                continue
            on_void = counts.both.get((answer, None), 0)
            overlap = both / (counts.answered[answer] + counts.true[truth] - both - on_void)
            if overlap > 0.5:
                matched_answers.add(answer)
                matched_truths.add(truth)
                self.sums[answer[0]].iou += overlap
                self.sums[answer[0]].hits += 1
        for truth in counts.true:
            if truth is not None and truth not in matched_truths:
                self.sums[truth[0]].missed += 1
        for answer, area in counts.answered.items():
            if answer is None or answer in matched_answers:
                continue
            if counts.both.get((answer, None), 0) / area <= 0.5:
                self.sums[answer[0]].extra += 1

    def result(self, things: Collection[Hashable]) -> dict:
        """``pq``, ``sq``, ``rq``, the same of countable categories (``things``) and of ``stuff``; None where nothing
        was to be found."""
        parts = {
            "things": self._mean([s for c, s in self.sums.items() if c in things]),
            "stuff": self._mean([s for c, s in self.sums.items() if c not in things]),
        }
        return {**self._mean(list(self.sums.values())), **parts}

    @staticmethod
    def _mean(sums: list[_Sums]) -> dict:
        sums = [s for s in sums if s.weight > 0]
        if not sums:
            return {"pq": None, "sq": None, "rq": None, "categories": 0}
        sq = np.array([s.iou / max(s.hits, 1) for s in sums])
        rq = np.array([s.hits / s.weight for s in sums])
        means = {"pq": float((sq * rq).mean()), "sq": float(sq.mean()), "rq": float(rq.mean())}
        return {**means, "categories": len(sums)}


class VideoPanopticTotals:
    """VPQ: one :class:`PanopticTotals` for each length of window; a shorter clip is one window."""

    def __init__(self, windows: Sequence[int] = WINDOWS):
        self.by_window = {k: PanopticTotals() for k in windows}

    def add(self, clip: Sequence[FrameTable]) -> None:
        """The frames of one clip in order of time. Names of segments are those of the whole clip."""
        for k, totals in self.by_window.items():
            for start in range(max(len(clip) - k + 1, 1) if clip else 0):
                totals.add(clip[start : start + k])

    def result(self, things: Collection[Hashable]) -> dict:
        """``vpq`` (mean over the windows), the same of things and stuff, and ``k`` with each window's own."""
        each = {str(k): totals.result(things) for k, totals in self.by_window.items()}
        out: dict = {"vpq": _mean_of(r["pq"] for r in each.values())}
        for part in ("things", "stuff"):
            out[f"vpq_{part}"] = _mean_of(r[part]["pq"] for r in each.values())
        return {**out, "k": {k: r["pq"] for k, r in each.items()}}


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
