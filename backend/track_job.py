"""One track over pages: what it is about, what was found so far, and how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.carried import Known
from backend.journal_tracks import RUNNING, TrackRecord
from backend.tracking import pages_wanted

LOOK_UP = 0.25
"""Seconds after which whoever waits looks whether the server stops."""

Found = Mapping[int, Mapping[str, Known]]
"""Masks by page and object."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How a track stands. ``left`` are the seconds that it will take, where that can be told; ``done`` and ``total``
    are pages; ``begun``: it waits for no other track."""

    found: Found
    done: int
    total: int
    state: str
    problem: str | None = None
    left: float | None = None
    begun: bool = True


class TrackJob:
    """One track, with what was found so far. Threads may share it."""

    def __init__(self, record: TrackRecord, found: Found):
        self.record = record
        self.person = record.person
        self._changed = threading.Condition()
        self._found: dict[int, dict[str, Known]] = {page: dict(masks) for page, masks in found.items()}
        self._wanted = pages_wanted(record.objects, record.reach, len(record.pages))
        for one in record.objects:
            for page in one.known.keys() & self._wanted[one.object_id]:
                self._found.setdefault(page, {})[one.object_id] = one.known[page]
        self._state, self._problem = record.state, record.problem
        self._began: tuple[float, int] | None = None
        self._taken = False
        self.cancelled = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(one.object_id for one in self.record.objects)

    @property
    def running(self) -> bool:
        return self._state == RUNNING

    def progress(self) -> Progress:
        """How it stands now."""
        with self._changed:
            found = {page: dict(masks) for page, masks in self._found.items()}
            done, total, left = self._done(), len(set().union(*self._wanted.values())), None
            if self._began is not None and done > self._began[1]:
                left = (total - done) * (time.monotonic() - self._began[0]) / (done - self._began[1])
            return Progress(found, done, total, self._state, self._problem, left, self._taken)

    def wait(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> Progress:
        """How it stands when it has ended, or after so many seconds, or when the server stops."""
        end = time.monotonic() + seconds
        with self._changed:
            while self.running and not stopping() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, LOOK_UP))
        return self.progress()

    def taken(self) -> None:
        """It has a thread and waits for no other track any more."""
        self._taken = True

    def began(self) -> None:
        """Its thread starts to work."""
        with self._changed:
            self._began = (time.monotonic(), self._done())

    def add(self, page: int, masks: Mapping[str, Known]) -> None:
        """New masks of a page."""
        with self._changed:
            self._found.setdefault(page, {}).update(masks)

    def end(self, state: str, problem: str | None = None) -> None:
        """It does not run any more."""
        with self._changed:
            self._state, self._problem = state, problem
            self._changed.notify_all()

    def _done(self) -> int:
        pages = set().union(*self._wanted.values())
        return sum(
            all(name in self._found.get(page, ()) for name, wanted in self._wanted.items() if page in wanted)
            for page in pages
        )
