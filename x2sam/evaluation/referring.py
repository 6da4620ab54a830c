"""Finding what a phrase means: IoU on pictures, J and F on clips (X2SAM, evaluation of referring tasks)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.readers.labelmaps import LabelMapDataset
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.correcting import score_frames
from x2sam.evaluation.dataset import Clip, Expression, Progress, object_mask, read_clips, read_expressions, silent
from x2sam.evaluation.metrics.boundary import mean_jf
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.evaluation.metrics.iou import IouTotals
from x2sam.evaluation.worst import WorstCases, side_by_side
from x2sam.structures import Mask, Prompt

OBJECT = "referred"


@dataclass
class ReferringScores:
    """IoU over the expressions on pictures; JF of each expression on a clip."""

    images: IouTotals = field(default_factory=IouTotals)
    videos: list[float] = field(default_factory=list)
    image_iou: list[float] = field(default_factory=list)
    image_of: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        """The result as the command writes it; None where there was nothing to score. ``miou_ci``: 95 %, by picture."""
        some = self.images.count > 0
        return {
            "images": {
                "n": self.images.count,
                "miou": self.images.giou if some else None,
                "ciou": self.images.ciou if some else None,
                "miou_ci": bootstrap_mean(self.image_iou, self.image_of),
            },
            "videos": {"n": len(self.videos), "JF": float(np.mean(self.videos)) if self.videos else None},
        }


def evaluate_referring(
    engine: Opener,
    data: str | Path,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
) -> ReferringScores:
    """Ask for every expression of ``referring.json``; ``limit`` takes the first on pictures and the first on clips."""
    root = Path(data)
    expressions = read_expressions(root)
    scores = ReferringScores()
    on_pictures = [e for e in expressions if e.image][:limit]
    if on_pictures:
        dataset = LabelMapDataset(root)
        for expression in progress(on_pictures, "expressions on pictures"):
            _picture(engine, dataset, expression, scores, worst)
    on_clips = [e for e in expressions if e.video][:limit]
    clips = {str(c.video.relative_to(root)): c for c in read_clips(root)} if on_clips else {}
    for expression in progress(on_clips, "expressions on clips"):
        if expression.video not in clips:
            raise FramesError(f"{root / 'videos.json'} has no ground truth for {expression.video}")
        clip = clips[expression.video]
        with VideoReader(clip.video) as video:
            scores.videos.append(_clip(engine, video, clip, expression))
    return scores


def _clip(engine: Opener, video: VideoReader, clip: Clip, expression: Expression) -> float:
    """JF of what a phrase finds on the first frame, followed to the end."""
    session = engine.open(video, key=None)
    try:
        found = union_of(session.segment(Prompt(text=expression.text), frame=0), video.size)
        targets = {OBJECT: expression.object_ids}
        # The first frame is the model's own answer too, so it counts where DAVIS counts it.
        if not found.any():
            return mean_jf(score_frames(clip, (), targets, after=-1).scores)["JF"]
        session.correct(0, OBJECT, found)
        steps = session.track([OBJECT], 0, len(video), "forward")
        return mean_jf(score_frames(clip, steps, targets, after=-1).scores)["JF"]
    finally:
        session.close()


def _picture(
    engine: Opener, dataset: LabelMapDataset, expression: Expression, scores: ReferringScores, worst: WorstCases | None
) -> None:
    picture, labels = dataset.read(dataset.index_of(expression.image))
    truth, ignore = object_mask(labels, expression.object_ids)
    session = engine.open(picture, key=None)
    try:
        masks = session.segment(Prompt(text=expression.text), frame=0)
    finally:
        session.close()
    found = union_of(masks, truth.shape)
    scores.image_iou.append(scores.images.add(found, truth, ignore))
    scores.image_of.append(expression.image)
    if worst is not None:
        key = f"{Path(expression.image).stem}_{expression.text}"
        worst.offer(scores.image_iou[-1], key, lambda: side_by_side(picture, [truth], [found]))


def union_of(masks: Sequence[Mask], shape: tuple[int, int]) -> np.ndarray:
    """bool (H, W): everything that the answer names; an expression may mean several objects, or none."""
    union = np.zeros(shape, bool)
    for mask in masks:
        union |= mask.mask
    return union
