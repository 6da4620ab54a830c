"""How much is worked on at once, and the end of it all when the server is told to stop.

Threads that wait for the device must not use up all threads, or ``/health`` would wait behind them; and requests that
are worked on together must fit into memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import OverloadedError, StoppingError

ASIDE_BYTES = 4 * 2**20
STOPPING = "The ML backend is being stopped; try again in a moment."
FULL = "The ML backend has too many requests at once; try again in a moment."


class Admission:
    """Lets at most ``places`` requests in, with bodies of at most ``max_bytes`` together. One is always let in.

    Of those that are not, ``aside`` at a time may still be read, so that whoever waits at a screen is told why.
    """

    def __init__(self, places: int, max_bytes: int, aside: int = 0):
        self._places, self._max_bytes = places, max_bytes
        self._aside = threading.Semaphore(aside)
        self._changed = threading.Condition()
        self._running = self._bytes = 0
        self._stopping = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def stopping(self) -> bool:
        """Whether the server was told to stop: long work should end early."""
        return self._stopping

    @contextmanager
    def work(self, size: int | None) -> Iterator[None]:
        """Counts a request while it is worked on; ``size`` of its body in bytes, None where it is not announced.

        :raises StoppingError: the server stops.
        :raises OverloadedError: too much is worked on already.
        """
        with self._changed:
            if self._stopping:
                raise StoppingError(STOPPING)
            if self._running >= self._places:
                raise OverloadedError(FULL)
            taken = self._take(size)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._bytes -= taken
                self._changed.notify_all()

    @contextmanager
    def reading(self, size: int | None) -> Iterator[None]:
        """Counts only the bytes of a request: one that is short work, and taken in while the server stops, too.

        :raises OverloadedError: too much is in memory already.
        """
        with self._changed:
            taken = self._take(size)
        try:
            yield
        finally:
            with self._changed:
                self._bytes -= taken

    @contextmanager
    def aside(self, size: int | None) -> Iterator[bool]:
        """Whether a request that was not let in may be read: a short one, and few at a time."""
        free = size is not None and size <= ASIDE_BYTES and self._aside.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._aside.release()

    def _take(self, size: int | None) -> int:
        """The bytes that are counted now. One body is let in however long it is; how long it may be is checked where
        it is read."""
        taken = self._max_bytes if size is None else min(size, self._max_bytes)
        if self._bytes and self._bytes + taken > self._max_bytes:
            raise OverloadedError(FULL)
        self._bytes += taken
        return taken

    def stop(self) -> None:
        """No new work from now on."""
        with self._changed:
            self._stopping = True

    def wait_idle(self, seconds: float) -> bool:
        """Waits until nothing is worked on; False when that takes longer."""
        until = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, max(0.0, until - time.monotonic()))
