"""Objects carried over the pages of a task: how far, step by step within a time limit, stopped and gone on with."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.carried import Carried, Known
from backend.engines import Engine, Session
from backend.errors import EXPECTED
from backend.remembered import PackedMask
from x2sam.errors import CancelledError
from x2sam.structures import FrameMasks

_COMMAND = re.compile(r"track(?:\s+(?:(forward|backward)s?|([1-9]\d{0,4})(?:\s+pages?)?))?\s*[.!]*", re.IGNORECASE)
_CONTINUE = re.compile(r"continue\s*[.!]*", re.IGNORECASE)
_PAUSED = 4


@dataclass(frozen=True)
class Reach:
    """How far to carry. ``direction`` is ``forward``, ``backward`` or ``both``; ``pages`` ends it so many pages after
    ``page``, or after the first page where an object is known. ``earlier``: what was on the pages of the task before
    comes along."""

    direction: str = "both"
    pages: int | None = None
    page: int | None = None
    earlier: bool = False


def command_of(text: str, page: int | None = None) -> Reach | None:
    """The command ``track``, ``track forward``, ``track backward``, ``track 20`` or ``continue`` typed on ``page``;
    None for other texts."""
    if _CONTINUE.fullmatch(text.strip()):
        return Reach(earlier=True)
    found = _COMMAND.fullmatch(text.strip())
    if found is None:
        return None
    if found[2]:
        return Reach("forward", int(found[2]), page)
    return Reach(found[1].lower() if found[1] else "both")


@dataclass(frozen=True, eq=False)
class _Leg:
    """A walk in one direction over pages up to ``stop`` - 1, with the masks it knows by object."""

    direction: str
    known: Mapping[str, Mapping[int, Known]]
    stop: int


class Track:
    """Objects on their way over the pages. Forward they meet what is known further on from both sides; backward they
    go from where each is known first. One thread at a time may use it.

    found:   masks by page and object, those that were known included
    wanted:  the pages of each object that the walk comes by
    problem: why it ended early; None unless something went wrong
    """

    def __init__(self, open_session: Callable[[], Session], pages: int, objects: Sequence[Carried], reach: Reach):
        self.objects, self.pages = objects, pages
        self.found: dict[int, dict[str, Known]] = {}
        self.finished, self.problem = False, None
        self._open = open_session
        legs, self.wanted = _legs(objects, reach, pages)
        self._steps = self._walk(legs)

    @property
    def done(self) -> int:
        """Pages on which every object that should come by has come by."""
        return sum(all(name in self.found.get(page, ()) for name in names) for page, names in self._by_page().items())

    @property
    def total(self) -> int:
        return len(self._by_page())

    def go_on(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Walks until it is finished or ``seconds`` are over, one frame at least.

        :raises CancelledError: the engine was closed.
        """
        end = time.monotonic() + seconds
        try:
            for masks in self._steps:
                for mask in masks.masks if masks is not None else ():
                    known = Known(PackedMask.of(mask.mask), mask.score)
                    self.found.setdefault(masks.frame, {}).setdefault(mask.object_id, known)
                if time.monotonic() >= end or stopping():
                    return
        except CancelledError:
            raise
        except EXPECTED as error:
            if not self.found:
                raise
            self.problem = str(error)
        self.finished = True

    def close(self) -> None:
        self._steps.close()

    def _walk(self, legs: Sequence[_Leg]) -> Iterator[FrameMasks | None]:
        for leg in legs:
            # A session of its own: what is known now counts, not what other requests have left in a shared one.
            session = self._open()
            try:
                for name, known in leg.known.items():
                    # An object is made from a mask that shows it; empty ones come after.
                    for page, one in sorted(known.items(), key=lambda item: (item[1].mask.box is None, item[0])):
                        session.correct(page, name, one.mask.unpack())
                        yield None
                yield from session.track(list(leg.known), 0, leg.stop, leg.direction, pauses=True)
            finally:
                session.close()

    def _by_page(self) -> dict[int, list[str]]:
        pages: dict[int, list[str]] = {}
        for name, wanted in self.wanted.items():
            for page in wanted:
                pages.setdefault(page, []).append(name)
        return pages


class PausedTracks:
    """Tracks that ran out of time, by what they are about; the oldest are given up. Threads may share one."""

    def __init__(self, capacity: int = _PAUSED):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._tracks: OrderedDict[Hashable, Track] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tracks)

    def take(self, key: Hashable) -> Track | None:
        """The track with this key, which is no longer kept here."""
        with self._lock:
            return self._tracks.pop(key, None)

    def put(self, key: Hashable, track: Track) -> None:
        with self._lock:
            given_up = [self._tracks.pop(key)] if key in self._tracks else []
            self._tracks[key] = track
            while len(self._tracks) > self._capacity:
                given_up.append(self._tracks.popitem(last=False)[1])
        for one in given_up:
            one.close()


def session_opener(engine: Engine, frames: Sequence, key: str) -> Callable[[], Session]:
    """Opens sessions on the same frames; they share features."""
    return lambda: engine.open(frames, key=key)


def _legs(objects: Sequence[Carried], reach: Reach, pages: int) -> tuple[list[_Leg], dict[str, set[int]]]:
    """The walks, and the pages of each object that they come by. A walk begins where an object is seen; pages with
    numbers below 0 are of the task before: walks begin there, but nothing is wanted of them."""
    first, last = ({one.object_id: one.seen[end] for one in objects} for end in (0, -1))
    if reach.direction == "backward":
        known = {one.object_id: _between(one, 0, last[one.object_id]) for one in objects if one.seen[-1] >= 0}
        wanted = {name: set(range(page + 1)) for name, page in last.items()}
        return [_Leg("backward", known, pages)] if known else [], wanted
    stop = pages
    if reach.pages is not None:
        begin = reach.page if reach.page is not None else max(min(first.values()), 0)
        stop = min(pages, begin + reach.pages + 1)
    wanted = {name: set(range(max(page, 0), stop)) for name, page in first.items()}
    ahead = {one.object_id: _between(one, first[one.object_id], stop - 1) for one in objects}
    legs = [_Leg("forward", {name: known for name, known in ahead.items() if known}, stop)]
    if reach.direction == "both" and any(page > 0 for page in first.values()):
        # What is known further on was met on the way forward.
        behind = {one.object_id: _between(one, 0, first[one.object_id]) for one in objects if one.seen[0] >= 0}
        legs.append(_Leg("backward", behind, pages))
        wanted = {name: every | set(range(first[name])) for name, every in wanted.items()}
    return [leg for leg in legs if leg.known], wanted


def _between(one: Carried, first: int, last: int) -> dict[int, Known]:
    return {page: known for page, known in one.known.items() if first <= page <= last}
