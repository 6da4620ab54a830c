"""The open engine sessions: one for each picture or clip and model version, at most so many, closed when nobody uses
them for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from backend.engines import Session

Key = tuple[str, str]
"""The version of the engine, and what names the media."""


@dataclass
class _Entry:
    opening: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    users: int = 0
    used: float = 0.0


class SessionRegistry:
    """Sessions by version and media key. One in use is never closed; so there may be more than ``capacity``
    for a moment."""

    def __init__(self, capacity: int, lifetime: float, clock: Callable[[], float] = time.monotonic):
        self._capacity = capacity
        self._lifetime = lifetime
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def use(self, key: Key, open_session: Callable[[], Session]) -> Iterator[Session]:
        """The session for a key, opened by the first caller while the others wait for it."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.users += 1
        try:
            with entry.opening:
                if entry.session is None:
                    entry.session = open_session()
            yield entry.session
        finally:
            with self._lock:
                entry.users -= 1
                entry.used = self._clock()
                idle = self._take_idle()
            _close(idle)

    def drop_other_versions(self, version: str) -> None:
        """Closes sessions of other versions that nobody uses; the others when they are done."""
        with self._lock:
            others = [key for key, entry in self._entries.items() if key[0] != version and not entry.users]
            taken = [self._entries.pop(key) for key in others]
        _close(taken)

    def close(self) -> None:
        """Closes every session."""
        with self._lock:
            entries = list(self._entries.values())
            self._entries.clear()
        _close(entries)

    def _take_idle(self) -> list[_Entry]:
        """Removes what is too old, too many, or was never opened; the caller closes it outside the lock."""
        taken = []
        for key, entry in list(self._entries.items()):
            old = self._clock() - entry.used > self._lifetime
            if not entry.users and (old or entry.session is None or len(self._entries) > self._capacity):
                taken.append(self._entries.pop(key))
        return taken


def _close(entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.session is not None:
            entry.session.close()
