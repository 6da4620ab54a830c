"""Wall time that does not jump while the process runs, for whatever has an age.

The machine's clock may be set right, or wrong, at any moment. What an annotator did must not look years old because of
that, so ages are counted from what the clock said at the start and what has passed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Seconds since 1970, as of the start and by a clock that nobody sets."""

    def __init__(self, wall: Callable[[], float] | None = None, passed: Callable[[], float] | None = None):
        self._passed = passed or time.monotonic
        self._start = (wall or time.time)() - self._passed()

    def __call__(self) -> float:
        return self._start + self._passed()
