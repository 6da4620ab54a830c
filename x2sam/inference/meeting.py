"""Between two masks that a person gave, an object is walked to from both sides, and the two walks meet.

A walk away from a known mask gets worse with every frame; between two of them each frame is near one. So what the walk
from one side found and what the walk from the other side found are mixed by distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from x2sam.inference.drift import Rating, disagreement, met_rating
from x2sam.inference.follow import exclude
from x2sam.inference.refine_evidence import log_odds, sigmoid
from x2sam.inference.walk import Found, Tracked, at_picture_size

EMPTY_COUNTS = 0.3  # of its weight, where one side has lost the object and the other has not
_MOST = 4.0  # log-odds: no side is so sure that the other can't be heard


@dataclass(frozen=True, eq=False)
class Stop:
    """A frame on the way: masks and scores, probabilities float32 (h, w) on the working grid, and how doubtful each
    mask is, by object id."""

    frame: int
    found: Mapping[str, Found]
    probabilities: Mapping[str, np.ndarray]
    size: tuple[int, int]
    ratings: Mapping[str, Rating] = field(default_factory=dict)


def meeting_frames(objects: Iterable[Tracked], frames: Sequence[int]) -> list[int]:
    """Frames behind the first of ``frames``, in their order, where a person's mask of one of the objects waits."""
    locked = {f for o in objects for f, anchor in o.anchors.items() if anchor.locked}
    return [f for f in frames[1:] if f in locked]


def from_the_other_side(objects: Iterable[Tracked], end: int) -> list[Tracked]:
    """The objects that are walked back from the frame ``end``: those that a person gave a mask of there."""
    return [o for o in objects if end in o.anchors and o.anchors[end].locked and len(o.anchors) > 1]


def span_before(thing: Tracked, end: int, step: int) -> int:
    """Frames from the nearest earlier known mask of an object to ``end``; ``step`` 1 or -1 is the walk's direction."""
    known = [f for f, anchor in thing.anchors.items() if not anchor.walked]
    earlier = [(end - f) * step for f in known if (end - f) * step > 0]
    return min(earlier, default=0)


def meet(there: Stop, back: Stop, end: int, spans: Mapping[str, int], exclusive: bool = True) -> dict[str, Found]:
    """The masks of a frame that both walks have come by.

    there: what the walk so far found; back: what the walk from the frame ``end`` found, for some of the objects
    spans: of :func:`span_before`; objects without one are left as the first walk found them
    exclusive: whether objects hide one another, as in the walks themselves
    """
    mixed: dict[str, np.ndarray] = {}
    for name, span in spans.items():
        if name not in there.probabilities or name not in back.probabilities or span <= 0:
            continue
        share = 1 - abs(end - there.frame) / span
        sides = [(there.probabilities[name], 1 - share), (back.probabilities[name], share)]
        if 0 < share < 1 and sides[0][0].shape == sides[1][0].shape:
            mixed[name] = _mix(sides)
    found = dict(there.found)
    together = exclude({**there.probabilities, **mixed}) if exclusive else mixed
    for name in mixed:
        mask = at_picture_size(together[name], there.size)
        found[name] = (mask, max(there.found[name][1], back.found[name][1]) if mask.any() else 0.0)
    return found


def meet_ratings(there: Stop, back: Stop, end: int, spans: Mapping[str, int]) -> dict[str, Rating]:
    """How doubtful the masks of :func:`meet` are: both walks tell, and whether they agree."""
    ratings = dict(there.ratings)
    left = abs(end - there.frame)
    for name, span in spans.items():
        if name in there.ratings and name in back.ratings and 0 < left < span:
            sides = (there.probabilities[name], back.probabilities[name])
            # Frames of another size can't be compared, and were not mixed.
            if sides[0].shape == sides[1].shape:
                far = min(left, span - left)
                ratings[name] = met_rating(there.ratings[name], back.ratings[name], disagreement(*sides), far)
    return ratings


def _mix(sides: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    empty = [not (p > 0.5).any() for p, _ in sides]
    weights = [w * (EMPTY_COUNTS if e and not all(empty) else 1.0) for (_, w), e in zip(sides, empty, strict=True)]
    odds = [np.clip(log_odds(p), -_MOST, _MOST) for p, _ in sides]
    total = sum(o * np.float32(w / sum(weights)) for o, w in zip(odds, weights, strict=True))
    return sigmoid(total).astype(np.float32)
