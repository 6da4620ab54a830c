"""What was computed from a picture alone, kept while it fits: least recently used out first, by bytes.

With a :class:`Shelf` behind it (files on disk, see :mod:`x2sam.inference.feature_store`) what was put out of memory, or
was computed by an earlier process, is read back instead of being computed again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


class Shelf(Protocol):
    """A larger, slower place for values whose key names their content."""

    def take(self, key: Hashable) -> Any | None:
        """The value, or None when it is not there."""

    def offer(self, key: Hashable, value: Any) -> None:
        """May keep the value; returns at once."""

    @property
    def used(self) -> int: ...


@dataclass(frozen=True)
class FeatureCounts:
    """``hits`` were in memory, ``restored`` on disk, ``misses`` had to be computed; ``bytes`` in memory, ``stored``
    bytes on disk."""

    hits: int = 0
    restored: int = 0
    misses: int = 0
    bytes: int = 0
    stored: int = 0


Value = TypeVar("Value", bound=Sized)


class FeatureCache:
    """``budget`` bytes. A single value larger than the budget is returned but not kept."""

    def __init__(self, budget: int, shelf: Shelf | None = None):
        if budget < 0:
            raise ValueError("the cache budget can't be negative")
        self.budget = budget
        self.shelf = shelf
        self.used = 0
        self.hits = self.restored = self.misses = 0
        self._items: OrderedDict[Hashable, tuple[Sized, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value], lasting: bool = False) -> Value:
        """The value under ``key``, made now if it is not there. ``make`` runs outside the lock.

        ``lasting``: the key names the content that the value was made from, in this and any other process.
        """
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                self.hits += 1
                return self._items[key][0]  # type: ignore[return-value]
        shelf = self.shelf if lasting else None
        value = None if shelf is None else shelf.take(key)
        with self._lock:
            self.restored += value is not None
            self.misses += value is None
        if value is None:
            value = make()
            if shelf is not None:
                shelf.offer(key, value)
        self.put(key, value)
        return value

    def derive(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """A value that is quickly made from features: kept among them, but neither counted as one nor put on disk."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key][0]  # type: ignore[return-value]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: Hashable, value: Sized) -> None:
        size = value.nbytes
        with self._lock:
            self._remove(key)
            if size > self.budget:
                return
            self._items[key] = (value, size)
            self.used += size
            while self.used > self.budget:
                self._remove(next(iter(self._items)))

    def forget(self, media: Hashable) -> None:
        """Drops every value whose key starts with ``media``."""
        with self._lock:
            for key in [k for k in self._items if isinstance(k, tuple) and k[0] == media]:
                self._remove(key)

    def shrink(self, least: int) -> None:
        """Drops everything and halves the budget, though not below ``least`` bytes: memory is smaller than thought."""
        with self._lock:
            self.budget = min(self.budget, max(self.budget // 2, least))
            self._items.clear()
            self.used = 0

    @property
    def counts(self) -> FeatureCounts:
        stored = 0 if self.shelf is None else self.shelf.used
        with self._lock:
            return FeatureCounts(self.hits, self.restored, self.misses, self.used, stored)

    def __contains__(self, key: Hashable) -> bool:
        """Whether a value is in memory; asking is no use of it."""
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def _remove(self, key: Hashable) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self.used -= item[1]
