"""Expressions on pictures that are generated on the spot: nobody can have trained on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.data.scenes import generate_picture
from x2sam.errors import PromptError
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.dataset import Progress, silent
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.evaluation.metrics.iou import IouTotals
from x2sam.evaluation.referring import union_of
from x2sam.evaluation.worst import WorstCases, side_by_side
from x2sam.structures import Prompt, Sample

_STREAM = 4_061_989
"""Keeps these pictures apart from those of training, which are drawn from (seed, number) pairs."""


@dataclass
class SceneScores:
    """IoU of every expression, its picture, and whether it means a countable object."""

    totals: IouTotals = field(default_factory=IouTotals)
    iou: list[float] = field(default_factory=list)
    picture: list[int] = field(default_factory=list)
    thing: list[bool] = field(default_factory=list)

    def summary(self) -> dict:
        """``miou`` with its 95 % interval over pictures, and the same of things and of stuff."""
        everything = np.ones(len(self.iou), bool)
        return {
            "pictures": len(set(self.picture)),
            **self._part(everything),
            "ciou": self.totals.ciou if self.iou else None,
            "things": self._part(np.array(self.thing, bool)),
            "stuff": self._part(~np.array(self.thing, bool)),
        }

    def _part(self, chosen: np.ndarray) -> dict:
        values = np.array(self.iou)[chosen]
        groups = [p for p, c in zip(self.picture, chosen, strict=True) if c]
        mean = float(values.mean()) if len(values) else None
        return {"objects": len(values), "miou": mean, "miou_ci": bootstrap_mean(values, groups)}


def scene_picture(seed: int, number: int, size: int) -> tuple[Sample, np.random.Generator]:
    """The picture with this number, and a generator for what is asked about it."""
    rng = np.random.default_rng((_STREAM, seed, number))
    return generate_picture(rng, (size, size)), rng


def evaluate_scenes(
    engine: Opener,
    pictures: int = 100,
    seed: int = 0,
    size: int = 320,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
) -> SceneScores:
    """Ask for every object that has an expression, by one of its expressions drawn at random from the seed."""
    if pictures < 1 or size < 64:
        raise PromptError("ask for at least 1 picture of at least 64 pixels")
    scores = SceneScores()
    for number in progress(range(pictures)[:limit], "scenes"):
        sample, rng = scene_picture(seed, number, size)
        picture, labels = sample.frames[0], sample.labels[0]
        session = engine.open(picture, key=None)
        try:
            for thing in sample.objects:
                if not thing.phrases:
                    continue
                phrase = thing.phrases[int(rng.integers(len(thing.phrases)))]
                truth = labels == thing.id
                found = union_of(session.segment(Prompt(text=phrase, task="refseg"), frame=0), truth.shape)
                value = scores.totals.add(found, truth, labels == IGNORE)
                scores.iou.append(value)
                scores.picture.append(number)
                scores.thing.append(thing.thing)
                if worst is not None:
                    draw = lambda p=picture, t=truth, f=found: side_by_side(p, [t], [f])  # noqa: E731
                    worst.offer(value, f"scene{number:05d}_{phrase}", draw)
        finally:
            session.close()
    return scores
