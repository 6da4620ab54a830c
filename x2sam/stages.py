"""How long the parts of one request take, added up wherever the request goes, the device's thread included.

A caller who wants to know opens :func:`watching`; the code on the way names what it does with :func:`stage`. Without a
watcher that costs nothing. Times are exclusive: what an inner stage takes does not count for the one around it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class StageTimes:
    """Seconds by stage. Threads may add to one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def seconds(self) -> Mapping[str, float]:
        """What was measured so far; never below zero."""
        with self._lock:
            return {name: max(seconds, 0.0) for name, seconds in self._seconds.items()}


@dataclass(frozen=True)
class _Place:
    times: StageTimes
    stage: str | None = None


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def watching() -> Iterator[StageTimes]:
    """Collects the times of every stage that happens inside, also in threads that copy the context."""
    times = StageTimes()
    token = _PLACE.set(_Place(times))
    try:
        yield times
    finally:
        _PLACE.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What happens inside is ``name``, except for stages within."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    start = time.perf_counter()
    token = _PLACE.set(_Place(place.times, name))
    try:
        yield
    finally:
        _PLACE.reset(token)
        spent(name, time.perf_counter() - start)


def spent(name: str, seconds: float) -> None:
    """Adds time that was measured elsewhere; it is taken from the stage that is open."""
    place = _PLACE.get()
    if place is not None:
        place.times.add(name, seconds)
        if place.stage is not None:
            place.times.add(place.stage, -seconds)
