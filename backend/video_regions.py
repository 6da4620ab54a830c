"""Rectangles over time that stand on a Video tag, and which of their keyframes are a person's.

A keyframe is a person's unless we answered it just so. After a restart nothing is remembered, and all that stands is
taken for the person's, as on pages.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.protocol import Json
from backend.video_boxes import is_keyframe

Keyframes = Mapping[int, Mapping[str, Any]]
"""Keyframes by Label Studio's number of their frame, counted from 1."""

_KEPT = 256
_MOST_KEYFRAMES = 200_000
_SAME_PERCENT = 1e-3
_MEASURES = ("x", "y", "width", "height", "rotation")


@dataclass(frozen=True, eq=False)
class VideoRegion:
    """A ``videorectangle`` result: its id is the editor's, or a name of ours."""

    id: str
    label: str
    keyframes: Keyframes
    from_name: str = ""

    def hidden(self, frames: int, among: Keyframes | None = None) -> set[int]:
        """The frames, of 1 to ``frames``, that a keyframe hides; ``among`` says which keyframes count."""
        numbers = sorted(self.keyframes)
        gone: set[int] = set()
        for number, after in zip(numbers, [*numbers[1:], frames + 1], strict=True):
            counts = among is None or number in among
            if counts and not self.keyframes[number].get("enabled", True):
                gone.update(range(number + 1, min(after, frames + 1)))
        return gone


def video_regions(items: Iterable[Json]) -> tuple[VideoRegion, ...]:
    """The rectangles over time among result items; damaged keyframes are passed over."""
    found = []
    for item in items:
        value = item.get("value")
        name = item.get("id")
        if item.get("type") != "videorectangle" or not isinstance(value, dict) or not isinstance(name, str):
            continue
        sequence = value.get("sequence")
        keys = sequence[:_MOST_KEYFRAMES] if isinstance(sequence, list) else []
        keyframes = {key["frame"]: key for key in keys if isinstance(key, dict) and is_keyframe(key)}
        labels = value.get("labels")
        label = labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else ""
        if keyframes:
            from_name = item.get("from_name")
            found.append(VideoRegion(name, label, keyframes, from_name if isinstance(from_name, str) else ""))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Told:
    ours: Mapping[int, tuple]
    frames: frozenset[int]
    state: Any = None


class ToldSequences:
    """The keyframes that we made last, by task and region, as numbers only. Threads may share one."""

    def __init__(self, capacity: int = _KEPT):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()

    def note(
        self, task_id: str, region_id: str, sequence: Sequence[Mapping[str, Any]], fixed: Keyframes, state: Any = None
    ) -> None:
        """Takes note of an answer, of which ``fixed`` are a person's; ``state`` says what it was made from, where it is
        finished."""
        ours = {one["frame"]: numbers_of(one) for one in sequence if one["frame"] not in fixed}
        with self._lock:
            key = task_id, region_id
            self._told[key] = _Told(ours, frozenset(one["frame"] for one in sequence), state)
            self._told.move_to_end(key)
            while len(self._told) > self._capacity:
                self._told.popitem(last=False)

    def forget(self, task_id: str, region_id: str) -> None:
        """From now on all that stands is the person's."""
        with self._lock:
            self._told.pop((task_id, region_id), None)

    def state(self, task_id: str, region_id: str) -> Any:
        """What the last answer was made from; None where it was not finished, or is forgotten."""
        told = self._get(task_id, region_id)
        return told.state if told is not None else None

    def frames(self, task_id: str, region_id: str) -> frozenset[int]:
        """The frames of all keyframes of the last answer."""
        told = self._get(task_id, region_id)
        return told.frames if told is not None else frozenset()

    def persons(self, task_id: str, region: VideoRegion) -> dict[int, Mapping[str, Any]]:
        """The keyframes of a region that are not as we made them."""
        told = self._get(task_id, region.id)
        if told is None:
            return dict(region.keyframes)
        return {
            number: key
            for number, key in region.keyframes.items()
            if number not in told.ours or not _same(told.ours[number], numbers_of(key))
        }

    def _get(self, task_id: str, region_id: str) -> _Told | None:
        with self._lock:
            return self._told.get((task_id, region_id))


def numbers_of(key: Mapping[str, Any]) -> tuple[float, ...]:
    """What a keyframe draws: whether it is enabled, x, y, width, height and rotation."""
    return (bool(key.get("enabled", True)), *(float(key.get(name, 0)) for name in _MEASURES))


def _same(one: tuple, other: tuple) -> bool:
    return one[0] == other[0] and all(abs(a - b) <= _SAME_PERCENT for a, b in zip(one[1:], other[1:], strict=True))
