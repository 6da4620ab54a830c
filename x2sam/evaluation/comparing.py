"""Two models on the same objects: is the newer one better here, and not worse there?

Every object gets the same simulated person (:mod:`x2sam.evaluation.clicks`) from both. What is compared is its mean IoU
over the clicks, so an object that is right after fewer of them counts more. The difference of an object is one number;
objects are drawn with replacement, whole pictures at a time since objects of one picture resemble each other (paired
bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from x2sam.data.masks import label_areas, visible_objects
from x2sam.data.readers.labelmaps import LabelMapDataset
from x2sam.data.readers.own_pictures import OwnPictures, open_pictures
from x2sam.evaluation.clicks import refine_object
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.dataset import object_mask
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.evaluation.scenes import scene_picture
from x2sam.structures import Sample

GENERAL_PICTURES = 24
_SIZE = 320
_OBJECTS = 6  # of a picture, so that no picture with a hundred cells decides alone
_GENERAL_SEED = 2_027


@dataclass(frozen=True)
class Comparison:
    """Mean IoU over the clicks before and after, their difference with its one-sided 95 % bounds, and of how many
    objects and pictures. The bounds are None where there are fewer than two pictures."""

    objects: int
    pictures: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Thresholds:
    """gain: the least lower bound of the difference on held-out corrections
    loss: how far below zero the lower bound of the difference on the general set may be
    objects: held-out objects without which nothing is decided"""

    gain: float = 0.0
    loss: float = 0.02
    objects: int = 5


@dataclass(frozen=True)
class Verdict:
    """Whether the newer model takes the older one's place, in words as well."""

    promoted: bool
    reason: str
    corrections: Comparison
    general: Comparison

    def summary(self) -> dict:
        return asdict(self)


Samples = Sequence[Callable[[], Sample]]


def held_out(pictures: OwnPictures | LabelMapDataset, most: int = 100) -> Samples:
    """Pictures of a directory, evenly spread where there are more than ``most``."""
    places = np.unique(np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)) if len(pictures) else ()
    return [lambda place=int(place): pictures.bare(place) for place in places]


def general_set(directory: Path | None = None, pictures: int = GENERAL_PICTURES) -> Samples:
    """The fixed general set: generated scenes, always the same, or the labelled pictures of a directory."""
    if directory is not None:
        return held_out(open_pictures(directory))
    return [lambda number=number: scene_picture(_GENERAL_SEED, number, _SIZE)[0] for number in range(pictures)]


@dataclass(frozen=True, eq=False)
class ClickTable:
    """IoU float (objects, clicks) of every object, and the number of its picture (objects,)."""

    iou: np.ndarray
    picture: np.ndarray


def click_table(
    engine: Opener, samples: Samples, clicks: int = 3, before_picture: Callable[[], None] = lambda: None
) -> ClickTable:
    """What a simulated person gets from the engine, for up to six objects of each picture, the largest and others
    spread over its sizes. ``before_picture`` may wait."""
    rows: list[list[float]] = []
    owners: list[int] = []
    for number, make in enumerate(samples):
        before_picture()
        sample = make()
        session = engine.open(sample.frames[0], key=None)
        try:
            for thing in _chosen(sample):
                truth, ignore = object_mask(sample.labels[0], [thing])
                rows.append(refine_object(session, truth, ignore, str(thing), "click", clicks)[0])
                owners.append(number)
        finally:
            session.close()
    return ClickTable(np.array(rows, float).reshape(-1, clicks), np.array(owners, int))


def _chosen(sample: Sample) -> list[int]:
    areas = label_areas(sample.labels[0])
    ids = sorted((one.id for one in visible_objects(sample)), key=lambda one: -areas[one])
    places = np.unique(np.linspace(0, len(ids) - 1, min(_OBJECTS, len(ids))).astype(int)) if ids else ()
    return [ids[place] for place in places]


def compare(before: ClickTable, after: ClickTable) -> Comparison:
    """The newer model's table against the older one's, of the same objects in the same order."""
    if before.iou.shape != after.iou.shape or not np.array_equal(before.picture, after.picture):
        raise ValueError("the tables are not of the same objects")
    old, new = before.iou.mean(1), after.iou.mean(1)
    bounds = bootstrap_mean(new - old, before.picture.tolist(), level=0.9) or [None, None]
    if not len(old):
        return Comparison(0, 0, 0.0, 0.0, 0.0, None, None)
    means = float(old.mean()), float(new.mean())
    return Comparison(len(old), len(set(before.picture.tolist())), *means, means[1] - means[0], *bounds)


def judge(corrections: Comparison, general: Comparison, thresholds: Thresholds = Thresholds()) -> Verdict:
    """Better on held-out corrections and not worse elsewhere, each with 95 % confidence, or it stays as it was."""
    reason = _against(corrections, general, thresholds)
    words = (
        f"on {corrections.objects} held-out masks {corrections.before:.3f} to {corrections.after:.3f} mean IoU, "
        f"elsewhere {general.before:.3f} to {general.after:.3f}"
    )
    return Verdict(not reason, f"{reason}: {words}" if reason else f"better: {words}", corrections, general)


def _against(corrections: Comparison, general: Comparison, thresholds: Thresholds) -> str:
    if corrections.objects < thresholds.objects:
        return f"only {corrections.objects} held-out masks, {thresholds.objects} are needed to decide"
    if corrections.low is None or general.low is None:
        return "all held-out masks are on one picture, nothing can be decided"
    if corrections.low <= thresholds.gain:
        return f"not clearly better (95 % sure of {corrections.low:+.3f} only, more than {thresholds.gain:g} is needed)"
    if general.low < -thresholds.loss:
        return f"may be worse elsewhere (by {-general.low:.3f}, at most {thresholds.loss:g} is allowed)"
    return ""
