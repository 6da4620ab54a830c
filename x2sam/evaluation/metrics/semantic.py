"""Semantic maps: mean IoU over categories, and how steady a clip's map is (VC).

mIoU is the mean over the categories that occur in the truth or in the answers of TP / (TP + FP + FN), pixels summed
over the whole set (Everingham et al., the PASCAL VOC challenge, 2010). VC_n is the video consistency of Miao et al.,
"VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild" (CVPR 2021): of the pixels whose true category stays
the same through n frames, the part whose answer does too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence

import numpy as np

from x2sam.evaluation.metrics.segments import FrameTable

CONSISTENCY = (8, 16)


class SemanticTotals:
    """Pixels by category: right ones, all that were answered, all that are true."""

    def __init__(self) -> None:
        self.right: Counter[Hashable] = Counter()
        self.answered: Counter[Hashable] = Counter()
        self.true: Counter[Hashable] = Counter()

    def add(self, table: FrameTable) -> None:
        """Void pixels count neither way; pixels without an answer are missed."""
        counted = table.counts[:, 1:]
        for (category, _), pixels in zip(table.answered, counted[1:].sum(1).tolist(), strict=True):
            self.answered[category] += pixels
        for (category, _), pixels in zip(table.true, counted.sum(0).tolist(), strict=True):
            self.true[category] += pixels
        for i, j in np.argwhere(counted[1:]).tolist():
            if table.answered[i][0] == table.true[j][0]:
                self.right[table.true[j][0]] += int(counted[1 + i, j])

    def iou(self) -> dict[Hashable, float]:
        """By category; those that neither are there nor were answered are left out."""
        either = {c: self.answered[c] + self.true[c] - self.right[c] for c in self.answered | self.true}
        return {c: self.right[c] / pixels for c, pixels in either.items() if pixels}

    def result(self) -> dict:
        """``miou``, ``categories`` (how many it is the mean of), ``pixel_accuracy``."""
        iou, total = self.iou(), self.true.total()
        return {
            "miou": float(np.mean(list(iou.values()))) if iou else None,
            "categories": len(iou),
            "pixel_accuracy": self.right.total() / total if total else None,
        }


class Consistency:
    """mVC over windows of each length in ``lengths``; only as many maps as the longest window are held.

    ``mvc<n>`` counts as the data set's own script does, so that figures can be compared: the answer has to stay the
    same, right or wrong; void that stays void counts; of a clip of T frames the windows 0 ... T - n - 1; the mean over
    all windows of all clips. ``mvc<n>_right`` takes every window, leaves void out, and asks for the true category.
    """

    def __init__(self, lengths: Sequence[int] = CONSISTENCY):
        self.lengths = tuple(lengths)
        self.steady: dict[int, list[float]] = {n: [] for n in self.lengths}
        self.right: dict[int, list[float]] = {n: [] for n in self.lengths}
        self.begin()

    def begin(self) -> None:
        """A new clip."""
        self._maps: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=max(self.lengths))
        self._waiting: dict[int, float] = {}

    def add(self, answer: np.ndarray, truth: np.ndarray) -> None:
        """The next frame of the clip: category of each pixel, int (H, W), -1 for none and for void."""
        self._maps.append((answer, truth))
        for n in self.lengths:
            if len(self._maps) < n:
                continue
            # The script leaves the last window of a clip out: one is added when the next frame shows it was not last.
            if n in self._waiting:
                self.steady[n].append(self._waiting.pop(n))
            self._window(n)

    def _window(self, n: int) -> None:
        window = list(self._maps)[-n:]
        first_answer, first_truth = window[0]
        common = np.ones(first_truth.shape, bool)
        same = np.ones_like(common)
        for answer, truth in window[1:]:
            common &= truth == first_truth
            same &= answer == first_answer
        if common.any():
            self._waiting[n] = np.count_nonzero(common & same) / np.count_nonzero(common)
        labelled = common & (first_truth >= 0)
        if labelled.any():
            right = labelled & same & (first_answer == first_truth)
            self.right[n].append(np.count_nonzero(right) / np.count_nonzero(labelled))

    def result(self) -> dict:
        """None where no clip was long enough."""
        out: dict[str, float | None] = {}
        for n in self.lengths:
            out[f"mvc{n}"] = float(np.mean(self.steady[n])) if self.steady[n] else None
            out[f"mvc{n}_right"] = float(np.mean(self.right[n])) if self.right[n] else None
        return out
