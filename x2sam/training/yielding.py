"""A training run that lets people go first: it waits between steps while they are being answered.

Whoever answers people holds a shared lock on a file meanwhile; the run looks whether it could have the file for itself.
Nothing is left behind by a kill of either, and it works whatever device the two share.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path

PATIENT = 3600.0
"""Seconds that one step may take: the run goes last on a machine that may be busy, and no person waits for it."""
_LOOK_SECONDS = 0.05


class PeopleFirst:
    """Call it between two pieces of work. It waits for at most ``most`` seconds, so that the run ends some day even
    where somebody always clicks. ``waited`` adds up."""

    def __init__(
        self, path: Path | None, most: float = 30.0, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):  # fmt: skip
        self._path, self._most, self._clock, self._sleep = path, most, clock, sleep
        self.waited = 0.0

    def __call__(self) -> None:
        begun = self._clock()
        while self._held() and self._clock() - begun < self._most:
            self._sleep(_LOOK_SECONDS)
        self.waited += self._clock() - begun

    def _held(self) -> bool:
        if self._path is None:
            return False
        try:
            with self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # nobody has answered anybody yet
            return False
        return False


class ProgressFile:
    """How far a run is, for whoever looks at the file: replaced as a whole, at most twice a second."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock, self._next = path, clock, 0.0

    def tell(self, part: str, done: int, whole: int, waited: float) -> None:
        """``part``: training, outlining or comparing."""
        if self._path is None or (self._clock() < self._next and done < whole):
            return
        self._next = self._clock() + 0.5
        told = self._path.with_name(f".{self._path.name}.part")
        told.write_text(json.dumps({"part": part, "done": done, "of": whole, "waited": round(waited, 1)}))
        told.replace(self._path)
