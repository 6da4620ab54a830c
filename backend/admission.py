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


class Admission:
    """Lets at most ``places`` requests in, with bodies of at most ``max_bytes`` together. One is always let in."""

    def __init__(self, places: int, max_bytes: int):
        self._places, self._max_bytes = places, max_bytes
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
        taken = self._max_bytes if size is None else min(size, self._max_bytes)
        with self._changed:
            if self._stopping:
                raise StoppingError("The ML backend is being stopped; try again in a moment.")
            full = self._running >= self._places or self._bytes + taken > self._max_bytes
            if self._running and full:
                raise OverloadedError("The ML backend has too many requests at once; try again in a moment.")
            self._running += 1
            self._bytes += taken
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._bytes -= taken
                self._changed.notify_all()

    def stop(self) -> None:
        """No new work from now on."""
        with self._changed:
            self._stopping = True

    def wait_idle(self, seconds: float) -> bool:
        """Waits until nothing is worked on; False when that takes longer."""
        until = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, max(0.0, until - time.monotonic()))
