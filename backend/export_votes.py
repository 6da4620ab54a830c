"""Several annotations of one task -> one: which of their objects are the same, and what most of them agree on.

Objects are the same when they have the same name, or the same label and overlap enough on all pages together. An object
stays when more than half of the annotators drew it; of its pixels those that more than half of them drew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backend.export_masks import Runs, majority, overlap

SAME = 0.5
"""Masks of one label that overlap by this are taken for one object."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """An object on a frame. ``frame`` counts from the beginning of the whole video; ``place`` is its position among the
    results, later ones lie on top; ``agreement`` is how many annotators there were, how many drew it, and the mean
    overlap of theirs with the outcome; ``point`` is ``(x, y)`` in pixels where it is a keypoint."""

    frame: int
    object: str
    place: int
    label: str
    runs: Runs
    origin: str
    shape: str
    score: float | None = None
    annotation: int = 0
    annotator: int | None = None
    agreement: tuple[int, int, float] | None = None
    point: tuple[float, float] | None = None


def vote(annotations: Sequence[Sequence[Drawn]]) -> tuple[list[Drawn], int]:
    """The outcome, and how many objects were outvoted. Annotations in a fixed order; each is one annotator's."""
    if len(annotations) == 1:
        return list(annotations[0]), 0
    needed = len(annotations) // 2 + 1
    same: list[dict[int, dict[int, Drawn]]] = []
    for number, drawn in enumerate(annotations):
        objects: dict[str, dict[int, Drawn]] = {}
        for one in drawn:
            objects.setdefault(one.object, {})[one.frame] = one
        before = list(same)
        for frames in objects.values():
            found = _same(frames, [members for members in before if number not in members])
            (found if found is not None else _new(same))[number] = frames
    result, outvoted = [], 0
    for members in same:
        if len(members) < needed:
            outvoted += len(members)
            continue
        result += _outcome(members, needed, len(annotations))
    return sorted(result, key=lambda one: (one.frame, one.place, one.object)), outvoted


def _new(same: list[dict[int, dict[int, Drawn]]]) -> dict[int, dict[int, Drawn]]:
    same.append({})
    return same[-1]


def _same(frames: Mapping[int, Drawn], among: Sequence[dict[int, dict[int, Drawn]]]) -> dict | None:
    first = next(iter(frames.values()))
    best, most = None, SAME
    for members in among:
        other = next(iter(members.values()))
        one = next(iter(other.values()))
        if one.object == first.object:
            return members
        if one.label == first.label and (found := _overlap(frames, other)) >= most:
            best, most = members, found
    return best


def _overlap(one: Mapping[int, Drawn], other: Mapping[int, Drawn]) -> float:
    return overlap((_runs(one, frame), _runs(other, frame)) for frame in sorted(one.keys() | other.keys()))


def _runs(frames: Mapping[int, Drawn], frame: int) -> Runs | None:
    return frames[frame].runs if frame in frames else None


def _outcome(members: Mapping[int, Mapping[int, Drawn]], needed: int, annotators: int) -> list[Drawn]:
    """The object as most drew it, under the name and label that most gave it; ties go to the first annotation."""
    first = next(iter(members.values()))
    everything = [one for frames in members.values() for one in frames.values()]
    label = Counter(one.label for one in everything).most_common(1)[0][0]
    name = next(iter(first.values())).object
    agreed: dict[int, Drawn] = {}
    for frame in sorted({one.frame for one in everything}):
        drawn = [frames[frame] for frames in members.values() if frame in frames]
        size = drawn[0].runs.size
        runs = majority([one.runs.resized(size) for one in drawn], needed) if len(drawn) >= needed else None
        if runs is not None and runs.area:
            best = drawn[0]
            origin = best.origin if all(one.origin == best.origin for one in drawn) else "edited"
            agreed[frame] = replace(
                best, object=name, label=label, runs=runs, origin=origin, annotation=0, annotator=None
            )
    if not agreed:
        return []
    mean = sum(_overlap(frames, agreed) for frames in members.values()) / len(members)
    agreement = (annotators, len(members), round(mean, 4))
    return [replace(one, agreement=agreement) for one in agreed.values()]
