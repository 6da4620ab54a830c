"""Following objects through clips: region similarity J, contour accuracy F, speed and memory.

Every object is prompted where it is first annotated, by its mask or by one click, and scored on later frames with
ground truth only (semi-supervised video segmentation as in DAVIS).
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.clicks import answer, first_prompt
from x2sam.evaluation.contract import Opener, Session
from x2sam.evaluation.dataset import Clip, Progress, object_mask, read_clips, silent
from x2sam.evaluation.metrics.boundary import ObjectScores, mean_jf
from x2sam.structures import FrameMasks, Prompt

PROMPTS = ("mask", "click")


@dataclass
class VideoScores:
    """J and F per clip; frames followed, and the seconds that took."""

    clips: dict[str, dict[str, float]] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0

    def summary(self) -> dict:
        """The result as the command writes it; means over clips."""
        means = {k: float(np.mean([c[k] for c in self.clips.values()])) for k in ("J", "F", "JF")}
        return {
            "clips": self.clips,
            **means,
            "fps": self.frames / self.seconds if self.seconds else None,
            "peak_rss_mb": peak_rss_mb(),
        }


def peak_rss_mb() -> float:
    """Most memory this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def evaluate_video(
    engine: Opener,
    data: str | Path,
    prompt: str = "mask",
    limit: int | None = None,
    progress: Progress = silent,
) -> VideoScores:
    """Follow every object of the clips with ground truth; ``limit`` takes only the first of them."""
    if prompt not in PROMPTS:
        raise PromptError(f"prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
    clips = read_clips(Path(data))
    if not clips:
        raise FramesError(f"{data} has no clip with ground truth")
    scores = VideoScores()
    for clip in progress(clips[:limit], "clips"):
        objects: list[ObjectScores] = []
        with VideoReader(clip.video) as video:
            for first, ids in appearances(clip).items():
                found, frames, seconds = _follow(engine, video, clip, first, ids, prompt)
                objects.extend(found)
                scores.frames += frames
                scores.seconds += seconds
        scores.clips[clip.name] = mean_jf(objects)
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


def _follow(
    engine: Opener, video: VideoReader, clip: Clip, first: int, ids: Sequence[int], prompt: str
) -> tuple[list[ObjectScores], int, float]:
    """Prompt objects on frame ``first`` and follow them to the end: their scores, frames followed, seconds."""
    labels = clip.labels(first)
    session = engine.open(video, key=None)
    try:
        for k in ids:
            truth, ignore = object_mask(labels, [k])
            if prompt == "mask":
                session.correct(first, str(k), truth)
            else:
                given = first_prompt("click", truth, ignore)
                session.segment(Prompt(points=given.points, object_id=str(k)), frame=first)
        return score_track(session, clip, {str(k): [k] for k in ids}, first, len(video), after=first)
    finally:
        session.close()


def score_track(
    session: Session, clip: Clip, targets: dict[str, Sequence[int]], start: int, stop: int, after: int
) -> tuple[list[ObjectScores], int, float]:
    """Track from ``start`` and score the frames behind ``after``: scores per target, frames followed, seconds.

    targets: id in the session -> ids in the label maps. A frame without an answer counts as an empty mask.
    """
    scored = {frame for frame in clip.scored_frames if frame > after}
    scores = {name: ObjectScores() for name in targets}
    missing = set(scored)
    frames, seconds = 0, 0.0
    steps = iter(session.track(list(targets), start, stop, "forward"))
    while True:
        # Only the tracker's own time counts, not the reading and scoring of ground truth.
        began = time.perf_counter()
        step = next(steps, None)
        seconds += time.perf_counter() - began
        if step is None:
            break
        frames += 1
        if step.frame in missing:
            missing.discard(step.frame)
            _score_frame(clip, step, targets, scores)
    for frame in sorted(missing):
        _score_frame(clip, FrameMasks(frame), targets, scores)
    return list(scores.values()), frames, seconds


def _score_frame(
    clip: Clip, step: FrameMasks, targets: dict[str, Sequence[int]], scores: dict[str, ObjectScores]
) -> None:
    labels = clip.labels(step.frame)
    for name, ids in targets.items():
        truth, ignore = object_mask(labels, ids)
        own = [m for m in step.masks if m.object_id == name]
        scores[name].add(answer(own, labels.shape, name), truth, ignore)
