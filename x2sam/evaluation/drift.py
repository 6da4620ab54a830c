"""How well the drift radar names the frames to look at: beside the network's score alone, and any order.

Objects are followed from their first frame; a frame is bad where the IoU with the truth is less than a half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, MeasurementError, PromptError
from x2sam.evaluation.contract import Opener, Session
from x2sam.evaluation.correcting import prompted
from x2sam.evaluation.dataset import Clip, Progress, object_mask, read_clips, silent
from x2sam.evaluation.metrics.iou import iou
from x2sam.evaluation.ranking import calibration_error, found_early, most_early, separation, squared_error
from x2sam.evaluation.video import PROMPTS, appearances
from x2sam.structures import Mask

BAD = 0.5  # IoU below which a frame is bad
SHARES = (0.05, 0.1, 0.2)
"""Of all frames, that somebody looks at."""


@dataclass
class Doubts:
    """What was said of frames, and what was true: the radar's doubt, the network's score, the IoU; by clip."""

    doubt: dict[str, list[float]] = field(default_factory=dict)
    score: dict[str, list[float]] = field(default_factory=dict)
    iou: dict[str, list[float]] = field(default_factory=dict)

    def add(self, clip: str, mask: Mask, overlap: float) -> None:
        """Raises MeasurementError for a mask that nothing was estimated of."""
        if mask.doubt is None:
            raise MeasurementError("this model or memory mode does not tell how doubtful a mask is; use nano, pinned")
        for table, value in ((self.doubt, mask.doubt), (self.score, mask.score), (self.iou, overlap)):
            table.setdefault(clip, []).append(float(value))

    def summary(self) -> dict:
        """Per order, the share of the bad frames among the first of all frames, over all clips together
        (``together``), and mean over clips with bad frames, each in its own order (``by_clip``)."""
        doubt, score, overlap = (np.concatenate([np.array(v) for v in t.values()]) for t in self._tables())
        bad = overlap < BAD
        said = {"radar": doubt, "score": 1 - score}
        order = {}
        for name, key in (("radar", self.doubt), ("score", self.score)):
            sign = 1 if name == "radar" else -1
            clips = [(sign * np.array(key[c]), np.array(self.iou[c]) < BAD) for c in self.iou]
            order[name] = {
                "together": {f"{s:g}": found_early(said[name], bad, s) for s in SHARES},
                "by_clip": {f"{s:g}": _mean(found_early(v, b, s) for v, b in clips) for s in SHARES},
                "separation": separation(said[name], bad),
            }
        order["random"] = {way: {f"{s:g}": s for s in SHARES} for way in ("together", "by_clip")}
        each = [np.array(v) < BAD for v in self.iou.values()]
        order["best possible"] = {
            "together": {f"{s:g}": most_early(bad, s) for s in SHARES},
            "by_clip": {f"{s:g}": _mean(most_early(b, s) for b in each) for s in SHARES},
        }
        calibration = {
            name: {"error": calibration_error(np.clip(v, 0, 1), bad), "brier": squared_error(v, bad)}
            for name, v in said.items()
        }
        return {
            "frames": len(bad), "bad": int(bad.sum()), "clips": len(each), "found": order, "calibration": calibration,
            "mean_doubt": float(doubt.mean()),
        }  # fmt: skip

    def _tables(self) -> tuple[dict[str, list[float]], ...]:
        return self.doubt, self.score, self.iou


def _mean(values: Iterator[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def evaluate_drift(
    engine: Opener, data: str | Path, prompt: str = "mask", limit: int | None = None, progress: Progress = silent
) -> Doubts:
    """Follow every object of the clips with ground truth and note what is said of each frame.

    limit: only the first clips with ground truth
    """
    if prompt not in PROMPTS:
        raise PromptError(f"prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
    clips = read_clips(Path(data))
    if not clips:
        raise FramesError(f"{data} has no clip with ground truth")
    doubts = Doubts()
    for clip in progress(clips[:limit], "clips"):
        with VideoReader(clip.video) as video:
            for first, ids in appearances(clip).items():
                session = engine.open(video, key=None)
                try:
                    prompted(session, clip, first, ids, prompt)
                    note(session, clip, first, ids, len(video), doubts)
                finally:
                    session.close()
    return doubts


def note(session: Session, clip: Clip, first: int, ids: list[int], stop: int, doubts: Doubts) -> None:
    """Adds the frames behind ``first`` that count."""
    scored = set(clip.scored_frames)
    for step in session.track([str(k) for k in ids], first, stop, "forward"):
        if step.frame <= first or step.frame not in scored:
            continue
        labels = clip.labels(step.frame)
        for mask in step.masks:
            truth, ignore = object_mask(labels, [int(mask.object_id)])
            doubts.add(clip.name, mask, iou(mask.mask, truth, ignore))
