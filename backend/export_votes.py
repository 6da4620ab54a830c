"""Several annotations of one task -> one: which of their objects are the same, and what most of them agree on.

Objects are the same when they overlap enough on all pages together and have the same name, or else the same label; of
the others those with the same name that overlap at all, as the n-th object of one person need not be the n-th of
another. An object stays when more than half of the annotators drew it; of its pixels those that more than half of them
drew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count

from backend.export_masks import Drawn, Runs, majority, overlap

SAME = 0.5
"""Masks of one label that overlap by this are taken for one object."""


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
        before, left = list(same), []
        for frames in objects.values():
            found = _same(frames, [members for members in before if number not in members])
            if found is None:
                left.append(frames)
            else:
                found[number] = frames
        for frames in left:
            found = _namesake(frames, [members for members in before if number not in members])
            (found if found is not None else _new(same))[number] = frames
    result, outvoted, names = [], 0, set()
    for members in same:
        if len(members) < needed:
            outvoted += len(members)
            continue
        name = _free_name(members, names)
        outcome = _outcome(members, name, needed, len(annotations))
        outvoted += 0 if outcome else len(members)
        names |= {one.object for one in outcome}
        result += outcome
    return sorted(result, key=lambda one: (one.frame, one.place, one.object)), outvoted


def _new(same: list[dict[int, dict[int, Drawn]]]) -> dict[int, dict[int, Drawn]]:
    same.append({})
    return same[-1]


def _same(frames: Mapping[int, Drawn], among: Sequence[dict[int, dict[int, Drawn]]]) -> dict | None:
    first = next(iter(frames.values()))
    best, most = None, (False, SAME)
    for members in among:
        other = next(iter(members.values()))
        one = next(iter(other.values()))
        if (by_name := one.object == first.object) or one.label == first.label:
            shared = _overlap(frames, other)
            if shared >= SAME and (by_name, shared) >= most:
                best, most = members, (by_name, shared)
    return best


def _namesake(frames: Mapping[int, Drawn], among: Sequence[dict[int, dict[int, Drawn]]]) -> dict | None:
    name = next(iter(frames.values())).object
    others = ((members, next(iter(members.values()))) for members in among)
    return next(
        (m for m, other in others if next(iter(other.values())).object == name and _overlap(frames, other)), None
    )


def _overlap(one: Mapping[int, Drawn], other: Mapping[int, Drawn]) -> float:
    return overlap((_runs(one, frame), _runs(other, frame)) for frame in sorted(one.keys() | other.keys()))


def _runs(frames: Mapping[int, Drawn], frame: int) -> Runs | None:
    return frames[frame].runs if frame in frames else None


def _free_name(members: Mapping[int, Mapping[int, Drawn]], taken: set[str]) -> str:
    """The first name that an annotation gave it and that is not another object's."""
    names = [next(iter(frames.values())).object for frames in members.values()]
    counted = (f"{names[0]} ({number})" for number in count(2))
    return next(name for name in chain(names, counted) if name not in taken)


def _outcome(members: Mapping[int, Mapping[int, Drawn]], name: str, needed: int, annotators: int) -> list[Drawn]:
    """The object as most drew it, under the label that most gave it; ties go to the first annotation."""
    everything = [one for frames in members.values() for one in frames.values()]
    label = Counter(one.label for one in everything).most_common(1)[0][0]
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
