"""A patient annotator: prompts objects of a clip, looks at the whole track, sets the worst frame right, tracks again.

Two ways of going on from a frame that was set right. *Corrected*: the mask joins what is known of the object, and the
whole clip is followed again with all of it. *Restarted*, what tools without a memory of corrections do: the track
begins anew at that frame, nothing before it is known any more; frames before it stay as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.evaluation.clicks import answer, first_prompt
from x2sam.evaluation.contract import Opener, Session
from x2sam.evaluation.dataset import Clip, object_mask
from x2sam.evaluation.metrics.boundary import ObjectScores
from x2sam.structures import FrameMasks, Prompt

Watch = Callable[[int, str, float, np.ndarray, np.ndarray], None]
"""Told of each scored mask: frame, object, J, truth and answer bool (H, W)."""


@dataclass(frozen=True)
class Followed:
    """One pass over a clip.

    scores:    J and F of each object, frame by frame of ``scored``
    corrected: per object, the frames that were set right before this pass
    frames, seconds: how many were followed, and the tracker's own time
    """

    scores: list[ObjectScores]
    scored: list[int]
    frames: int
    seconds: float
    corrected: list[frozenset[int]] = field(default_factory=list)

    def jf(self) -> list[float]:
        """Mean of J and F of each object over its frames; NaN for one without frames."""
        return [float(np.mean([np.mean(s.j), np.mean(s.f)])) if s.j else float("nan") for s in self.scores]


def prompted(session: Session, clip: Clip, first: int, ids: Sequence[int], prompt: str) -> None:
    """Each object on frame ``first`` by its true mask, or by one click as the click protocol places it."""
    labels = clip.labels(first)
    for k in ids:
        truth, ignore = object_mask(labels, [k])
        if prompt == "mask":
            session.correct(first, str(k), truth)
        else:
            given = first_prompt("click", truth, ignore)
            session.segment(Prompt(points=given.points, object_id=str(k)), frame=first)


def follow(
    engine: Opener, video: VideoReader, clip: Clip, first: int, ids: Sequence[int], prompt: str, corrections: int,
    watch: Watch | None = None,
) -> list[Followed]:  # fmt: skip
    """Prompt objects on frame ``first`` and follow them to the end; once more after each correction.

    ``watch`` sees what the last pass answers.
    """
    names = [str(k) for k in ids]
    targets = {str(k): [k] for k in ids}
    session = engine.open(video, key=None)
    try:
        prompted(session, clip, first, ids, prompt)
        passes: list[Followed] = []
        corrected = [frozenset[int]() for _ in ids]
        for turn in range(corrections + 1):
            if turn:
                corrected = _correct_worst(session, clip, ids, passes[-1], corrected)
            track = session.track(names, first, len(video), "forward")
            passes.append(score_frames(clip, track, targets, first, watch if turn == corrections else None, corrected))
        return passes
    finally:
        session.close()


def restart(
    engine: Opener, video: VideoReader, clip: Clip, ids: Sequence[int], begun: Followed, restarts: int
) -> list[Followed]:
    """After the pass ``begun``: each object is restarted at its worst frame, so often, each time from the frame's true
    mask alone. Returns a pass for each restart."""
    passes = [begun]
    for _ in range(restarts):
        last = passes[-1]
        scores, frames, seconds = [], 0, 0.0
        for k, before in zip(ids, last.scores, strict=True):
            new = _restarted(engine, video, clip, k, before, last.scored)
            scores.append(new.scores[0])
            frames, seconds = frames + new.frames, seconds + new.seconds
        passes.append(Followed(scores, last.scored, frames, seconds))
    return passes[1:]


def _restarted(
    engine: Opener, video: VideoReader, clip: Clip, k: int, before: ObjectScores, scored: list[int]
) -> Followed:
    if not before.j:
        return Followed([before], scored, 0, 0.0)
    worst = scored[int(np.argmin(before.j))]
    session = engine.open(video, key=None)
    try:
        session.correct(worst, str(k), object_mask(clip.labels(worst), [k])[0])
        track = session.track([str(k)], worst, len(video), "forward")
        new = score_frames(clip, track, {str(k): [k]}, worst - 1)
    finally:
        session.close()
    from_there = {frame: n for n, frame in enumerate(new.scored)}
    joined = ObjectScores()
    for n, frame in enumerate(scored):
        source, at = (new.scores[0], from_there[frame]) if frame in from_there else (before, n)
        joined.j.append(source.j[at])
        joined.f.append(source.f[at])
    return Followed([joined], scored, new.frames, new.seconds)


def _correct_worst(
    session: Session, clip: Clip, ids: Sequence[int], followed: Followed, corrected: list[frozenset[int]]
) -> list[frozenset[int]]:
    """Each object gets its true mask on the frame where it was found worst. Returns the frames set right so far; an
    object whose every frame is right already has its first frame confirmed."""
    so_far = []
    for k, scores, done in zip(ids, followed.scores, corrected, strict=True):
        if scores.j:
            frame = followed.scored[int(np.argmin(scores.j))]
            session.correct(frame, str(k), object_mask(clip.labels(frame), [k])[0])
            done = done | {frame}
        so_far.append(done)
    return so_far


def uncorrected_iou(before: Followed, after: Followed) -> list[tuple[float, float]]:
    """Per object, the mean IoU before and after a correction over the frames that nobody set right; objects without
    such a frame are left out."""
    means = []
    for old, new, corrected in zip(before.scores, after.scores, after.corrected, strict=True):
        left = [n for n, frame in enumerate(after.scored) if frame not in corrected]
        if left and new.j:
            means.append((float(np.mean([old.j[n] for n in left])), float(np.mean([new.j[n] for n in left]))))
    return means


def score_frames(
    clip: Clip, track: Iterable[FrameMasks], targets: dict[str, Sequence[int]], after: int,
    watch: Watch | None = None, corrected: Sequence[frozenset[int]] = (),
) -> Followed:  # fmt: skip
    """Score what a track answers on the frames behind ``after``.

    targets: id in the session -> ids in the label maps. A frame without an answer counts as an empty mask.
    """
    scores = {name: ObjectScores() for name in targets}
    answered: dict[int, dict[str, tuple[float, float]]] = {}
    wanted = [frame for frame in clip.scored_frames if frame > after]
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
        if step.frame in wanted and step.frame not in answered:
            answered[step.frame] = _score_frame(clip, step, targets, watch)
    for frame in wanted:
        if frame not in answered:
            answered[frame] = _score_frame(clip, FrameMasks(frame), targets, watch)
        for name, (j, f) in answered[frame].items():
            scores[name].j.append(j)
            scores[name].f.append(f)
    return Followed(list(scores.values()), wanted, frames, seconds, list(corrected))


def _score_frame(
    clip: Clip, step: FrameMasks, targets: dict[str, Sequence[int]], watch: Watch | None
) -> dict[str, tuple[float, float]]:
    labels = clip.labels(step.frame)
    found_at: dict[str, tuple[float, float]] = {}
    for name, ids in targets.items():
        truth, ignore = object_mask(labels, ids)
        own = [m for m in step.masks if m.object_id == name]
        found = answer(own, labels.shape, name)
        score = ObjectScores()
        score.add(found, truth, ignore)
        found_at[name] = (score.j[0], score.f[0])
        if watch is not None:
            watch(step.frame, name, score.j[0], truth, found)
    return found_at
