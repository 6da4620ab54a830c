"""Objects walked over the frames of a video, of which only the boxes are kept: within a time limit, and on."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backend.engines import Session
from backend.errors import EXPECTED, MediaError
from backend.geometry import Box, mask_to_box
from backend.remembered import PackedMask
from x2sam.errors import CancelledError, FramesError
from x2sam.structures import FrameMasks

_PAUSED = 8


@dataclass(frozen=True, eq=False)
class Thing:
    """An object to follow, and its masks by frame where it is known; at least one shows it. Empty ones say that it is
    out of sight."""

    name: str
    known: Mapping[int, PackedMask]

    @property
    def seen(self) -> list[int]:
        return sorted(frame for frame, mask in self.known.items() if mask.box is not None)


@dataclass
class Path:
    """Where an object was found: ``boxes`` by frame, None where it was out of sight; how sure that is, 0..1, where it
    was seen."""

    boxes: dict[int, Box | None] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


class BoxWalk:
    """Objects on their way over ``stop`` frames: forward from where the first is known, meeting what is known further
    on from both sides; then backward from where each is known first, unless ``forward`` only. One thread at a time may
    use it.

    problem: why it ended early; None unless something went wrong
    """

    def __init__(
        self, open_session: Callable[[], Session], things: Sequence[Thing], directions: Sequence[str], stop: int
    ):
        self.paths = {thing.name: Path() for thing in things}
        self.finished, self.problem = False, None
        self._open, self._things = open_session, things
        self._steps = self._walk(directions, stop)
        self.wanted = {thing.name: _wanted(thing, directions, stop) for thing in things}

    @property
    def total(self) -> int:
        return len(set().union(*self.wanted.values()))

    @property
    def done(self) -> int:
        """Frames on which everything that should come by has come by."""
        missing = {frame for name, wanted in self.wanted.items() for frame in wanted - self.paths[name].boxes.keys()}
        return self.total - len(missing)

    def go_on(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Walks until it is finished or ``seconds`` are over, one frame at least.

        :raises CancelledError: the engine was closed.
        """
        end = time.monotonic() + seconds
        try:
            for masks in self._steps:
                for mask in masks.masks if masks is not None else ():
                    path = self.paths[mask.object_id]
                    if masks.frame not in path.boxes:
                        path.boxes[masks.frame] = box = mask_to_box(mask.mask)
                        if box is not None:
                            path.scores[masks.frame] = mask.score if mask.doubt is None else 1 - mask.doubt
                if time.monotonic() >= end or stopping():
                    return
        except CancelledError:
            raise
        except EXPECTED as error:
            if not any(path.boxes for path in self.paths.values()):
                raise
            self.problem = str(error)
        self.finished = True

    def close(self) -> None:
        self._steps.close()

    def _walk(self, directions: Sequence[str], stop: int) -> Iterator[FrameMasks | None]:
        """Where a frame can't be read, the other way is walked all the same, before that is raised."""
        unreadable: FramesError | MediaError | None = None
        for direction in directions:
            known = {thing.name: _on_the_way(thing, direction, stop) for thing in self._things}
            known = {name: masks for name, masks in known.items() if masks}
            nothing_behind = direction != directions[0] and not any(thing.seen[0] for thing in self._things)
            if not known or nothing_behind:
                continue
            # A session of its own: what is known now counts, not what other requests have left in a shared one.
            session = self._open()
            try:
                for name, masks in known.items():
                    # An object is made from a mask that shows it; empty ones come after.
                    for frame, mask in sorted(masks.items(), key=lambda item: (item[1].box is None, item[0])):
                        session.correct(frame, name, mask.unpack())
                        yield None
                yield from session.track(list(known), 0, stop, direction, pauses=True)
            except (FramesError, MediaError) as error:
                unreadable = unreadable or error
            finally:
                session.close()
        if unreadable is not None:
            raise unreadable


class PausedWalks:
    """Walks that ran out of time, by what they are about; the oldest are given up. Threads may share one."""

    def __init__(self, capacity: int = _PAUSED):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._walks: OrderedDict[tuple[Hashable, ...], BoxWalk] = OrderedDict()

    def __len__(self) -> int:
        return len(self._walks)

    def take(self, key: Hashable) -> BoxWalk | None:
        """The walk with this key, which is no longer kept here."""
        with self._lock:
            return self._walks.pop(key, None)

    def give_up_others(self, version: str) -> None:
        """Those of other versions of the model than the one in service; their keys begin with a version."""
        with self._lock:
            given_up = [self._walks.pop(key) for key in list(self._walks) if key[0] != version]
        for one in given_up:
            one.close()

    def put(self, key: Hashable, walk: BoxWalk) -> None:
        with self._lock:
            given_up = [self._walks.pop(key)] if key in self._walks else []
            self._walks[key] = walk
            while len(self._walks) > self._capacity:
                given_up.append(self._walks.popitem(last=False)[1])
        for one in given_up:
            one.close()


def _wanted(thing: Thing, directions: Sequence[str], stop: int) -> set[int]:
    first = thing.seen[0]
    return set().union(*(range(first, stop) if way == "forward" else range(first + 1) for way in directions))


def _on_the_way(thing: Thing, direction: str, stop: int) -> dict[int, PackedMask]:
    """What is known from the first sight on forward, and at it and before backward."""
    first = thing.seen[0]
    ahead = range(first, stop) if direction == "forward" else range(first + 1)
    return {frame: mask for frame, mask in thing.known.items() if frame in ahead}
