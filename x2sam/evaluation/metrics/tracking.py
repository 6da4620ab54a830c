"""STQ, segmentation and tracking quality (Weber et al., "STEP: Segmenting and Tracking Every Pixel", NeurIPS 2021).

STQ = sqrt(AQ x SQ). SQ is the mean IoU over categories. AQ looks at which pixels belong together through a clip,
whatever their category: for a true track g and an answered track p let TPA be the pixels of both, FPA those of p only,
FNA those of g only; then AQ = 1 / |tracks| x sum over g of 1 / |g| x sum over p of TPA x TPA / (TPA + FPA + FNA).
Only things have tracks. No Python package on the index carries it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence

from x2sam.evaluation.metrics.segments import FrameTable, PixelCounts
from x2sam.evaluation.metrics.semantic import SemanticTotals


class TrackingTotals:
    """Sums over clips."""

    def __init__(self) -> None:
        self.semantic = SemanticTotals()
        self.association, self.tracks = 0.0, 0

    def add(self, clip: Sequence[FrameTable], things: Collection[Hashable]) -> None:
        """The frames of one clip; ``things`` are the countable categories. Void pixels count neither way."""
        for table in clip:
            self.semantic.add(table)
        counts = PixelCounts(clip)
        truths = {name: area for name, area in counts.true.items() if name is not None and name[0] in things}
        shared: dict = {name: 0.0 for name in truths}
        for (answer, truth), both in counts.both.items():
            if truth not in truths or answer is None or answer[0] not in things:
                continue
            answered = counts.answered[answer] - counts.both.get((answer, None), 0)
            shared[truth] += both * both / (answered + truths[truth] - both)
        self.association += sum(value / truths[name] for name, value in shared.items())
        self.tracks += len(truths)

    def result(self) -> dict:
        """``stq``, ``aq``, ``sq``; None without things, or without any truth."""
        sq = self.semantic.result()["miou"]
        aq = self.association / self.tracks if self.tracks else None
        return {"stq": None if aq is None or sq is None else math.sqrt(aq * sq), "aq": aq, "sq": sq}
