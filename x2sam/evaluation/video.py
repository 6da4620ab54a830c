"""Following objects through clips: region similarity J, contour accuracy F, speed and memory.

Every object is prompted where it is first annotated, by its mask or by one click, and scored on later frames with
ground truth only (semi-supervised video segmentation as in DAVIS).
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.clicks import answer, first_prompt
from x2sam.evaluation.contract import Opener, Session
from x2sam.evaluation.dataset import Clip, Progress, object_mask, read_clips, silent
from x2sam.evaluation.metrics.boundary import ObjectScores, mean_jf
from x2sam.evaluation.worst import WorstCases, side_by_side
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
    corrections: int = 0,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
) -> VideoScores:
    """Follow every object of the clips with ground truth.

    corrections: how often each object then gets its true mask on its worst frame, and is followed again; the last
    pass is scored, corrected frames included. limit: only the first clips with ground truth
    """
    if prompt not in PROMPTS:
        raise PromptError(f"prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
    if corrections < 0:
        raise PromptError(f"{corrections} corrections can't be made; ask for 0 or more")
    clips = read_clips(Path(data))
    if not clips:
        raise FramesError(f"{data} has no clip with ground truth")
    scores = VideoScores()
    for clip in progress(clips[:limit], "clips"):
        objects: list[ObjectScores] = []
        with VideoReader(clip.video) as video:
            for first, ids in appearances(clip).items():
                watch = None if worst is None else _watcher(worst, clip, video)
                passes = _follow(engine, video, clip, first, ids, prompt, corrections, watch)
                objects.extend(passes[-1].scores)
                scores.frames += sum(p.frames for p in passes)
                scores.seconds += sum(p.seconds for p in passes)
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


@dataclass(frozen=True)
class Followed:
    """One pass over a clip: scores of each target, the scored frames in their order, frames followed, seconds."""

    scores: list[ObjectScores]
    scored: list[int]
    frames: int
    seconds: float


def _follow(
    engine: Opener, video: VideoReader, clip: Clip, first: int, ids: Sequence[int], prompt: str, corrections: int,
    watch: Watch | None = None,
) -> list[Followed]:  # fmt: skip
    """Prompt objects on frame ``first`` and follow them to the end; once more after each correction.

    ``watch`` sees what the last pass answers.
    """
    labels = clip.labels(first)
    names = [str(k) for k in ids]
    targets = {str(k): [k] for k in ids}
    session = engine.open(video, key=None)
    try:
        for k in ids:
            truth, ignore = object_mask(labels, [k])
            if prompt == "mask":
                session.correct(first, str(k), truth)
            else:
                given = first_prompt("click", truth, ignore)
                session.segment(Prompt(points=given.points, object_id=str(k)), frame=first)
        passes = []
        for turn in range(corrections + 1):
            if turn:
                _correct_worst(session, clip, ids, passes[-1])
            track = session.track(names, first, len(video), "forward")
            passes.append(score_frames(clip, track, targets, first, watch if turn == corrections else None))
        return passes
    finally:
        session.close()


def _correct_worst(session: Session, clip: Clip, ids: Sequence[int], followed: Followed) -> None:
    """Each object gets its true mask on the frame where it was found worst, as a patient annotator would do."""
    for k, scores in zip(ids, followed.scores, strict=True):
        if scores.j:
            frame = followed.scored[int(np.argmin(scores.j))]
            session.correct(frame, str(k), object_mask(clip.labels(frame), [k])[0])


Watch = Callable[[int, str, float, np.ndarray, np.ndarray], None]
"""Told of each scored mask: frame, object, J, truth and answer bool (H, W)."""


def _watcher(worst: WorstCases, clip: Clip, video: VideoReader) -> Watch:
    def watch(frame: int, name: str, j: float, truth: np.ndarray, found: np.ndarray) -> None:
        key = f"{clip.name}_{frame:05d}_{name}"
        worst.offer(j, key, lambda: side_by_side(video[frame], [truth], [found]))

    return watch


def score_frames(
    clip: Clip, track: Iterable[FrameMasks], targets: dict[str, Sequence[int]], after: int, watch: Watch | None = None
) -> Followed:
    """Score what a track answers on the frames behind ``after``.

    targets: id in the session -> ids in the label maps. A frame without an answer counts as an empty mask.
    """
    scores = {name: ObjectScores() for name in targets}
    missing = {frame for frame in clip.scored_frames if frame > after}
    scored: list[int] = []
    frames, seconds = 0, 0.0
    steps = iter(track)
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
            scored.append(step.frame)
            _score_frame(clip, step, targets, scores, watch)
    for frame in sorted(missing):
        scored.append(frame)
        _score_frame(clip, FrameMasks(frame), targets, scores, watch)
    return Followed(list(scores.values()), scored, frames, seconds)


def _score_frame(
    clip: Clip, step: FrameMasks, targets: dict[str, Sequence[int]], scores: dict[str, ObjectScores],
    watch: Watch | None,
) -> None:  # fmt: skip
    labels = clip.labels(step.frame)
    for name, ids in targets.items():
        truth, ignore = object_mask(labels, ids)
        own = [m for m in step.masks if m.object_id == name]
        found = answer(own, labels.shape, name)
        scores[name].add(found, truth, ignore)
        if watch is not None:
            watch(step.frame, name, scores[name].j[-1], truth, found)
