"""The same thing found on several frames of a clip becomes one object.

From the frame with the surest finding everything found there is carried to the other frames, both ways. What was found
there and overlaps what arrives is the same thing; what nothing arrives at is something else, and the surest of that is
where the next round begins. Nothing here touches the network: whoever joins hands in how masks are carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from x2sam.inference.clip_objects import Sighting

CONTINUES = 0.3
"""Overlap (IoU) above which a finding is the thing that arrives: less than the 0.5 of the published rule for ids from
one frame to the next, since several frames lie between."""
SAME = 0.7
"""Overlap above which two masks show the same thing, whatever it is called."""
AGREES = 0.6
"""Overlap above which a finding is as good as what arrives: then the object is known there. Less sure ones only say
that it is the same thing; a track outlines it better than they do."""
COVERED = 0.7
"""Share of the smaller mask inside the other above which a finding is a part of what arrives, seen badly."""
MOST_OBJECTS = 32
"""Of one search: each is carried by itself, so more would take a clip's whole time limit."""


class Walk(Protocol):
    """Things on their way from one frame to others in one direction, by number."""

    def to(self, frame: int) -> Mapping[int, np.ndarray]:
        """Their masks bool (H, W) on the next frame; an empty one, or none, where a thing is out of sight."""

    def confirm(self, frame: int, seen: Mapping[int, Sighting]) -> None:
        """What some of them turned out to be on the frame that was come to last: the way goes on from there."""


Carry = Callable[[Mapping[int, Sighting]], Walk]
"""Begins a walk from sightings of one frame."""


@dataclass(eq=False)
class Group:
    """One object: the sightings that are it, and the number that it is carried under. ``anchors`` are the members that
    show it well."""

    number: int
    members: list[Sighting]
    anchors: list[Sighting]

    @property
    def weight(self) -> float:
        """How much speaks for it: the sum of scores."""
        return sum(one.score for one in self.members)

    @property
    def name(self) -> Sighting:
        """The surest member of the category that most speaks for."""
        weights: dict[int, float] = {}
        for one in self.members:
            weights[one.category] = weights.get(one.category, 0.0) + one.score
        category = max(weights, key=lambda c: (weights[c], -c))
        return max((one for one in self.members if one.category == category), key=lambda one: one.score)


@dataclass(frozen=True)
class _Outline:
    """A mask (H, W), the box around it and its area, for quick comparing."""

    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int

    @classmethod
    def of(cls, mask: np.ndarray) -> _Outline | None:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        return cls(mask, (int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1), int(mask.sum()))

    def common(self, other: _Outline) -> int:
        """Pixels of both."""
        top, left = max(self.box[0], other.box[0]), max(self.box[2], other.box[2])
        bottom, right = min(self.box[1], other.box[1]), min(self.box[3], other.box[3])
        if top >= bottom or left >= right:
            return 0
        part = np.s_[top:bottom, left:right]
        return int(np.count_nonzero(self.mask[part] & other.mask[part]))

    def overlap(self, other: _Outline) -> float:
        """Intersection over union."""
        common = self.common(other)
        return common / (self.area + other.area - common)

    def covers(self, other: _Outline) -> float:
        """The share of the smaller one that lies in the larger one."""
        return self.common(other) / min(self.area, other.area)


@dataclass(eq=False)
class Joining:
    """Sightings on a few frames on their way to objects.

    things:   per category, whether it is counted one by one; all findings of another one are one object
    one_each: every category means one object at most (a phrase, or the phrases of a description)
    prefer:   with ``one_each``, the frame that decides which one where it is found there at least half surely
    stones:   frames between two of those with sightings that are carried over as well: shorter steps lose less
    """

    sightings: Sequence[Sighting]
    things: Sequence[bool] = ()
    one_each: bool = False
    prefer: int | None = None
    stones: int = 2
    groups: list[Group] = field(default_factory=list)
    left_out: int = 0

    def __post_init__(self) -> None:
        # in an order of their own, so that the same findings make the same objects
        ordered = sorted(self.sightings, key=lambda one: (one.frame, -one.score, one.category, one.finding.box))
        self._free = without_doubles(ordered)
        self._frames = sorted({one.frame for one in self._free})
        stuff = [one for one in self._free if self.things and not self.things[one.category]]
        for category in sorted({one.category for one in stuff}):
            own = [one for one in stuff if one.category == category]
            self.groups.append(Group(len(self.groups), own, own))
        self._free = [one for one in self._free if one not in stuff]
        self._round = self._begin()

    def steps(self, carry: Carry) -> Iterator[None]:
        """Joins; gives way after every frame that something is carried to. May be left at any time. ``carry`` is not
        kept: whose method it is keeps this."""
        while self._round:
            seeds, frame = self._round, self._round[0].members[0].frame
            for path in (self._path(frame, 1), self._path(frame, -1)):
                if self._wanted(path):
                    yield from self._go(carry({group.number: group.members[0] for group in seeds}), path)
            self._round = self._begin()

    def _go(self, walk: Walk, path: Sequence[int]) -> Iterator[None]:
        """Along a path, as long as there is something to compare with ahead."""
        for number, frame in enumerate(path):
            if not self._wanted(path[number:]):
                return
            seen = self._absorb(frame, walk.to(frame))
            if seen and self._wanted(path[number + 1 :]):
                walk.confirm(frame, seen)
            yield

    def _wanted(self, path: Sequence[int]) -> bool:
        return any(one.frame in path for one in self._free)

    def objects(self) -> list[Group]:
        """What was joined so far, in the order in which it was begun."""
        if not self.one_each:
            return list(self.groups)
        best: dict[int, Group] = {}
        for group in self.groups:
            category = group.members[0].category
            if category not in best or self._rank(group) > self._rank(best[category]):
                best[category] = group
        return [group for group in self.groups if best[group.members[0].category] is group]

    def _rank(self, group: Group) -> tuple[bool, float]:
        here = max((one.score for one in group.members if one.frame == self.prefer), default=0.0)
        return here >= 0.5, group.weight

    def _begin(self) -> list[Group]:
        """The objects of the next round: everything on the frame of the surest finding that has no object yet."""
        free = [one for one in self._free if self._may_win(one.category)] if self.one_each else self._free
        if not free:
            return []
        here = [one for one in free if one.frame == self.prefer] if self.one_each and not self.groups else []
        frame = here[0].frame if here else max(free, key=lambda one: (one.score, -one.frame)).frame
        begun = sorted((one for one in free if one.frame == frame), key=lambda one: -one.score)
        room = max(0, MOST_OBJECTS - len(self.groups))
        if not room:
            self.left_out = len(free)
            return []
        groups = [Group(len(self.groups) + n, [one], [one]) for n, one in enumerate(begun[:room])]
        self.groups += groups
        taken = begun[:room]
        self._free = [one for one in self._free if one not in taken]
        return groups

    def _may_win(self, category: int) -> bool:
        """Whether what is left of a category could still make a heavier object than those there are."""
        own = [group for group in self.groups if group.members[0].category == category]
        left = sum(one.score for one in self._free if one.category == category)
        if any(self._rank(group)[0] for group in own):
            return False
        return left > max((group.weight for group in own), default=0.0)

    def _path(self, frame: int, step: int) -> list[int]:
        """The frames to carry to in one direction."""
        ahead = sorted((f for f in self._frames if (f - frame) * step > 0), key=lambda f: f * step)
        path, before = [], frame
        for at in ahead:
            between = np.linspace(before, at, self.stones + 2).round().astype(int).tolist()
            path += [f for f in dict.fromkeys(between[1:]) if f != before]
            before = at
        return path

    def _absorb(self, frame: int, masks: Mapping[int, np.ndarray]) -> dict[int, Sighting]:
        """Gives the findings of a frame to the objects that arrive there; these by the number of the object."""
        here = [(one, outline) for one in self._free if one.frame == frame if (outline := _of(one)) is not None]
        arrived = [(self.groups[n], outline) for n, mask in masks.items() if (outline := _Outline.of(mask)) is not None]
        pairs = [
            (there.overlap(outline), group, one, self._related(group, one))
            for group, there in arrived
            for one, outline in here
        ]
        taken: dict[int, Sighting] = {}
        for overlap, group, one, related in sorted(pairs, key=lambda p: (-p[0], not p[3], p[1].number)):
            if group.number in taken or one in taken.values() or overlap <= (CONTINUES if related else SAME):
                continue
            if related or not self.one_each:
                group.members.append(one)
                taken[group.number] = one
                if overlap > AGREES:
                    group.anchors.append(one)
        used = list(taken.values())
        for group, there in arrived:
            used += [o for o, outline in here if self._related(group, o) and there.covers(outline) > COVERED]
        self._free = [one for one in self._free if one not in used]
        return taken

    @staticmethod
    def _related(group: Group, one: Sighting) -> bool:
        return any(member.category == one.category for member in group.members)


def without_doubles(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Without those that show the same thing as a surer one of their frame and category; empty masks go too."""
    found: set[Sighting] = set()
    for frame in {one.frame for one in sightings}:
        kept: list[tuple[Sighting, _Outline]] = []
        for one in sorted((one for one in sightings if one.frame == frame), key=lambda one: -one.score):
            outline = _of(one)
            rivals = [other for there, other in kept if there.category == one.category]
            if outline is not None and all(outline.overlap(other) <= SAME for other in rivals):
                kept.append((one, outline))
        found |= {one for one, _ in kept}
    return [one for one in sightings if one in found]


def _of(one: Sighting) -> _Outline | None:
    return _Outline.of(one.finding.mask())
