"""Memory that was freed goes back to the machine.

The C library keeps a heap for each of many threads, and what is free in one stays with it: answers come and go in
hundreds of megabytes, so a server would hold twice what it uses. glibc gives it back when asked; others need not be.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 1.0
_IDLE_SECONDS, _LONGEST_SECONDS = 10.0, 60.0
"""Between two times: where nobody is being answered, and at the latest. It takes about 0.3 ms for each MB given back,
during which a thread that wants memory of the same heap waits."""


def release() -> Callable[[], object] | None:
    """What gives free memory back; None where the C library has no such function."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return lambda: trim(0)  # without Python's lock


class HeapKeeper:
    """One for a process. ``busy`` tells whether somebody is being answered."""

    def __init__(
        self, busy: Callable[[], bool], give_back: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._busy, self._give_back, self._clock = busy, give_back or release(), clock
        self._last = clock()

    def start(self) -> None:
        """Looks after it until the process ends."""
        if self._give_back is not None:
            threading.Thread(target=self._work, name="heap", daemon=True).start()

    def look(self) -> bool:
        """Gives memory back where it is time to; whether it was."""
        since = self._clock() - self._last
        if since < _IDLE_SECONDS or (since < _LONGEST_SECONDS and self._busy()):
            return False
        self._give_back()
        self._last = self._clock()
        return True

    def _work(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            self.look()
