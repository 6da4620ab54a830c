"""What was computed from a picture alone, kept while it fits: least recently used out first, by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class FeatureCache:
    """``budget`` bytes. A single value larger than the budget is returned but not kept."""

    def __init__(self, budget: int):
        if budget < 0:
            raise ValueError("the cache budget can't be negative")
        self.budget = budget
        self.used = 0
        self.hits = self.misses = 0
        self._items: OrderedDict[Hashable, tuple[Sized, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under ``key``, made now if it is not there. ``make`` runs outside the lock."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                self.hits += 1
                return self._items[key][0]  # type: ignore[return-value]
            self.misses += 1
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

    def __len__(self) -> int:
        return len(self._items)

    def _remove(self, key: Hashable) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self.used -= item[1]
