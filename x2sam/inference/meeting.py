"""Between two masks that a person gave, an object is walked to from both sides, and the two walks meet.

A walk away from a known mask gets worse with every frame; between two of them each frame is near one. So what the walk
from one side found and what the walk from the other side found are mixed by distance. Each object meets its own masks:
what was corrected of others on the way does not part it from them.

    meetings = Meetings(objects, frames)
    meetings.add(stop)                          each frame of the walk
    for frame in meetings.way_back(end):        where masks are known that were walked to,
        meetings.meet(end, back)                what ``meetings.returning(end)`` look like on the way back
    meetings.ready(end)                         frames that wait for nothing any more
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from x2sam.inference.drift import Rating, disagreement, met_rating
from x2sam.inference.follow import exclude
from x2sam.inference.refine_evidence import log_odds, sigmoid
from x2sam.inference.walk import Bits, Found, Tracked, at_picture_size

HELD = 96  # frames that wait at most; what lies further from a known mask ahead is told as the first walk found it
EMPTY_COUNTS = 0.3  # of its weight, where one side has lost the object and the other has not
_MOST = 4.0  # log-odds: no side is so sure that the other can't be heard


@dataclass(frozen=True, eq=False)
class Stop:
    """A frame on the way: masks and scores, probabilities float32 (h, w) on the working grid, and how doubtful each
    mask is, by object id; ``mixed`` are the probabilities of objects that were met, before they excluded others."""

    frame: int
    found: Mapping[str, Found]
    probabilities: Mapping[str, np.ndarray]
    size: tuple[int, int]
    ratings: Mapping[str, Rating] = field(default_factory=dict)
    mixed: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Stretch:
    """The way of an object from a known mask on the frame ``begin`` to a person's on the frame ``end``."""

    thing: Tracked
    begin: int
    end: int

    @property
    def span(self) -> int:
        return abs(self.end - self.begin)

    def holds(self, frame: int) -> bool:
        """Whether the frame lies between the two."""
        return min(self.begin, self.end) < frame < max(self.begin, self.end)


def stretches(objects: Iterable[Tracked], frames: Sequence[int]) -> list[Stretch]:
    """Those of the objects on the way over ``frames``, in the order in which they end."""
    step = 1 if frames[0] <= frames[-1] else -1
    place = {frame: number for number, frame in enumerate(frames)}
    found = []
    for thing in objects:
        known = [f for f, anchor in thing.anchors.items() if not anchor.walked]
        for end, anchor in thing.anchors.items():
            before = [f for f in known if (end - f) * step > 0]
            if anchor.locked and place.get(end) and before:
                found.append(Stretch(thing, max(before, key=lambda f: f * step), end))
    return sorted(found, key=lambda one: place[one.end])


class Meetings:
    """What a walk over ``frames`` has found where it will be met. It takes no more memory than ``held`` frames, on
    which masks take a bit for each pixel, however far the known masks are apart."""

    def __init__(self, objects: Iterable[Tracked], frames: Sequence[int], exclusive: bool = True, held: int = HELD):
        self._open = stretches(objects, frames)
        self._exclusive, self._most = exclusive, held
        self._waiting: deque[Stop] = deque()

    def add(self, stop: Stop) -> None:
        """The next frame of the walk."""
        self._waiting.append(_packed(stop) if self._open else stop)

    def returning(self, end: int) -> list[Tracked]:
        """The objects that are walked back from the frame ``end``, which was added last."""
        return [one.thing for one in self._ending(end)]

    def way_back(self, end: int) -> list[int]:
        """The frames of that walk, ``end`` first; none where nobody returns."""
        ending = self._ending(end)
        way = [stop.frame for stop in reversed(self._waiting) if any(one.holds(stop.frame) for one in ending)]
        return [end, *way] if way else []

    def meet(self, end: int, back: Stop) -> None:
        """What the walk back from the frame ``end`` found on one of its frames."""
        spans = {one.thing.object_id: one.span for one in self._ending(end)}
        for number, there in enumerate(self._waiting):
            if there.frame == back.frame:
                self._waiting[number] = _packed(meet(there, back, end, spans, self._exclusive))

    def ready(self, frame: int) -> list[Stop]:
        """What can be told after ``frame``, the one added last, was walked to and back from."""
        self._open = [one for one in self._open if one.end != frame]
        ready = []
        while self._waiting:
            first = self._waiting[0].frame
            waited_for = [one for one in self._open if one.holds(first)]
            if waited_for and len(self._waiting) <= self._most:
                break
            for one in waited_for:
                one.begin = first  # what is told already is met no more
            ready.append(_unpacked(self._waiting.popleft()))
        return ready

    def _ending(self, end: int) -> list[Stretch]:
        return [one for one in self._open if one.end == end]


def meet(there: Stop, back: Stop, end: int, spans: Mapping[str, int], exclusive: bool = True) -> Stop:
    """A frame that both walks have come by.

    there: what the walk so far found; back: what the walk from the frame ``end`` found, for some of the objects
    spans: frames from the nearest known mask before it to ``end``, of the objects that meet; others stay as they were
    exclusive: whether objects hide one another, as in the walks themselves
    """
    left = abs(end - there.frame)
    mixed, ratings = {}, {}
    for name, span in spans.items():
        if not 0 < left < span or name not in there.probabilities or name not in back.probabilities:
            continue
        sides = there.probabilities[name], back.probabilities[name]
        if sides[0].shape != sides[1].shape:  # pages of another size can't be compared
            continue
        mixed[name] = _mix([(sides[0], left / span), (sides[1], 1 - left / span)])
        if name in there.ratings and name in back.ratings:
            far = min(left, span - left)
            ratings[name] = met_rating(there.ratings[name], back.ratings[name], disagreement(*sides), far)
    if not mixed:
        return there
    mixed = {**there.mixed, **mixed}
    together = exclude({**there.probabilities, **mixed}) if exclusive else mixed
    found = dict(there.found)
    for name in mixed:
        mask = at_picture_size(together[name], there.size)
        score = max(there.found[name][1], back.found[name][1] if name in back.found else 0.0)
        found[name] = (mask, score if mask.any() else 0.0)
    return replace(there, found=found, ratings={**there.ratings, **ratings}, mixed=mixed)


def _packed(stop: Stop) -> Stop:
    """The same, its masks as :class:`Bits`."""
    packed = {k: (m if isinstance(m, Bits) else Bits(m), score) for k, (m, score) in stop.found.items()}
    return replace(stop, found=packed)


def _unpacked(stop: Stop) -> Stop:
    plain = {k: (m.mask if isinstance(m, Bits) else m, score) for k, (m, score) in stop.found.items()}
    return replace(stop, found=plain)


def _mix(sides: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    empty = [not (p > 0.5).any() for p, _ in sides]
    weights = [w * (EMPTY_COUNTS if e and not all(empty) else 1.0) for (_, w), e in zip(sides, empty, strict=True)]
    odds = [np.clip(log_odds(p), -_MOST, _MOST) for p, _ in sides]
    total = sum(o * np.float32(w / sum(weights)) for o, w in zip(odds, weights, strict=True))
    return sigmoid(total).astype(np.float32)
