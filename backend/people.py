"""People go first: a lock on a file, held while somebody waits for an answer and a moment longer, tells trainings."""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_AFTER_SECONDS = 2.0  # people click several times in a row


class PeopleLock:
    """Threads share one. :meth:`settle` is to be called now and then: it lets go when nobody was answered for a while.

    Taking the lock never waits: whoever looks whether it is held has it for an instant only, and where it can't be had
    or the disk is full a training goes on and people are answered all the same.
    """

    def __init__(self, path: Path, after: float = _AFTER_SECONDS, clock: Callable[[], float] = time.monotonic):
        self._path, self._after, self._clock = path, after, clock
        self._lock = threading.Lock()
        self._waiting = 0
        self._until = 0.0
        self._file: IO[bytes] | None = None

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Somebody waits for an answer meanwhile."""
        with self._lock:
            self._waiting += 1
            self._take()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._until = self._clock() + self._after

    def settle(self) -> None:
        """Lets go of the lock where nobody waits any more."""
        with self._lock:
            if not self._waiting and self._clock() >= self._until:
                self._release()

    def close(self) -> None:
        with self._lock:
            self._release()

    def _take(self) -> None:
        if self._file is not None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self._path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                file.close()  # the next one who waits takes it
                return
            self._file = file

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
