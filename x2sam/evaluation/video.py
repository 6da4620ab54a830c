"""Following objects through clips: region similarity J, contour accuracy F, speed and memory.

Every object is prompted where it is first annotated, by its mask or by one click, and scored on later frames with
ground truth only (semi-supervised video segmentation as in DAVIS).
"""

from __future__ import annotations

import resource
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.correcting import Followed, Watch, follow, restart, uncorrected_iou
from x2sam.evaluation.dataset import Clip, Progress, read_clips, silent
from x2sam.evaluation.metrics.boundary import mean_jf
from x2sam.evaluation.worst import WorstCases, side_by_side

REACH = 0.8
PROMPTS = ("mask", "click")


@dataclass
class VideoScores:
    """J and F per clip; frames followed, and the seconds that took.

    clips:     of the last pass
    passes:    the same after 0, 1, ... corrections; restarts: the same after 1, ... restarts, where they were asked for
    held:      per correction and clip, mean IoU before and after it on the frames that nobody set right
    objects:   J&F of each object after 0, 1, ... corrections
    """

    clips: dict[str, dict[str, float]] = field(default_factory=dict)
    passes: list[dict[str, dict[str, float]]] = field(default_factory=list)
    restarts: list[dict[str, dict[str, float]]] = field(default_factory=list)
    held: list[dict[str, tuple[float, float]]] = field(default_factory=list)
    objects: dict[str, list[float]] = field(default_factory=dict)
    reach: float = REACH
    frames: int = 0
    seconds: float = 0.0

    def summary(self) -> dict:
        """The result as the command writes it; means over clips. What corrections did is there where some were made."""
        summary = {
            "clips": self.clips,
            **means_of(self.clips),
            "fps": self.frames / self.seconds if self.seconds else None,
            "peak_rss_mb": peak_rss_mb(),
        }
        if len(self.passes) > 1:
            summary["corrections"] = [self._corrected(turn) for turn in range(len(self.passes))]
            summary["interactions"] = interactions(self.objects, self.reach)
        if self.restarts:
            summary["restarts"] = [{"restarts": n, **means_of(r)} for n, r in enumerate(self.restarts, 1)]
        return summary

    def _corrected(self, turn: int) -> dict:
        row: dict = {"corrections": turn, **means_of(self.passes[turn])}
        if turn and self.held[turn - 1]:
            before, after = np.mean(list(self.held[turn - 1].values()), 0)
            row["uncorrected_iou"] = {"before": float(before), "after": float(after)}
        return row

    def add(self, clip: str, followed: Sequence[Sequence[Followed]], restarted: Sequence[Sequence[Followed]]) -> None:
        """All passes over a clip, one sequence for each frame on which objects first appeared."""
        turns = list(zip(*followed, strict=True))
        for table, passes in ((self.passes, turns), (self.restarts, list(zip(*restarted, strict=True)))):
            table.extend({} for _ in range(len(passes) - len(table)))
            for row, parts in zip(table, passes, strict=True):
                row[clip] = mean_jf([scores for part in parts for scores in part.scores])
        self.held.extend({} for _ in range(len(turns) - 1 - len(self.held)))
        for row, before, after in zip(self.held, turns, turns[1:], strict=False):
            pairs = [pair for a, b in zip(before, after, strict=True) for pair in uncorrected_iou(a, b)]
            if pairs:
                old, new = np.mean(pairs, 0)
                row[clip] = (float(old), float(new))
        self.clips[clip] = self.passes[-1][clip]
        for part in (p for passes in (*followed, *restarted) for p in passes):
            self.frames, self.seconds = self.frames + part.frames, self.seconds + part.seconds


def means_of(clips: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """J, F and J&F over clips."""
    return {k: float(np.mean([c[k] for c in clips.values()])) for k in ("J", "F", "JF")}


def interactions(objects: Mapping[str, Sequence[float]], reach: float) -> dict:
    """How many interactions, the prompt and then corrections, an object takes to reach a J&F of ``reach``.

    objects: J&F of each after 0, 1, ... corrections. One that never gets there counts with all of them (``cap``).
    """
    counts, reached = [], 0
    for scores in objects.values():
        there = next((n for n, jf in enumerate(scores, 1) if jf >= reach), None)
        reached += there is not None
        counts.append(len(scores) if there is None else there)
    cap = max((len(s) for s in objects.values()), default=0)
    mean = float(np.mean(counts)) if counts else None
    return {"reach": reach, "mean": mean, "cap": cap, "objects": len(counts), "reached": reached}


def peak_rss_mb() -> float:
    """Most memory this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def evaluate_video(
    engine: Opener,
    data: str | Path,
    prompt: str = "mask",
    corrections: int = 0,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
    restarts: bool = False,
    reach: float = REACH,
) -> VideoScores:
    """Follow every object of the clips with ground truth.

    corrections: how often each object then gets its true mask on its worst frame, and is followed again; the last
    pass is scored, corrected frames included. limit: only the first clips with ground truth; restarts: also measure
    beginning anew at the worst frame as often, in place of correcting it; reach: of :func:`interactions`
    """
    if prompt not in PROMPTS:
        raise PromptError(f"prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
    if corrections < 0:
        raise PromptError(f"{corrections} corrections can't be made; ask for 0 or more")
    clips = read_clips(Path(data))
    if not clips:
        raise FramesError(f"{data} has no clip with ground truth")
    scores = VideoScores(reach=reach)
    for clip in progress(clips[:limit], "clips"):
        followed, restarted = [], []
        with VideoReader(clip.video) as video:
            for first, ids in appearances(clip).items():
                watch = None if worst is None else _watcher(worst, clip, video)
                passes = follow(engine, video, clip, first, ids, prompt, corrections, watch)
                followed.append(passes)
                if restarts and corrections:
                    restarted.append(restart(engine, video, clip, ids, passes[0], corrections))
                for k, jfs in zip(ids, zip(*(p.jf() for p in passes), strict=True), strict=True):
                    scores.objects[f"{clip.name}/{k}"] = list(jfs)
        scores.add(clip.name, followed, restarted)
    return scores


def appearances(clip: Clip) -> dict[int, list[int]]:
    """The first annotated frame of each object: frame -> ids. Objects that never appear are left out."""
    first: dict[int, list[int]] = defaultdict(list)
    waiting = set(clip.objects)
    for frame in clip.gt_frames:
        here = waiting & set(np.unique(clip.labels(frame)).tolist())
        if here:
            first[frame].extend(sorted(here))
            waiting -= here
        if not waiting:
            break
    return dict(first)


def _watcher(worst: WorstCases, clip: Clip, video: VideoReader) -> Watch:
    def watch(frame: int, name: str, j: float, truth: np.ndarray, found: np.ndarray) -> None:
        key = f"{clip.name}_{frame:05d}_{name}"
        worst.offer(j, key, lambda: side_by_side(video[frame], [truth], [found]))

    return watch
