"""The latest click wins: which of a person's requests about one task and label is the newest.

Nothing in a request names the person. But the editor sends all prompts of one label together, each with an id that the
browser made, so requests of one person share ids and those of two people never do. A request that shares an id with an
earlier one, for the same task and label, is its successor: added to, moved, or partly undone.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence

from backend.protocol import DrawnRegion, TypedText
from x2sam.inference.scheduler import Turn

_REMEMBERED = 8192


class Turns:
    """Hands out turns in the order in which requests arrive. Threads may share one."""

    def __init__(self, remembered: int = _REMEMBERED):
        self._remembered = remembered
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._keys: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def take(
        self, task_id: str, prompts: Sequence[DrawnRegion | TypedText], person: str | None = None
    ) -> Turn | None:
        """The turn of a request with these prompts; None when nothing tells whose they are. ``person`` is the user
        whose draft came with the request, where there is one."""
        ids = [(task_id, prompt.label or "", prompt.id) for prompt in prompts if prompt.id]
        if ids and person is not None:
            ids.append((task_id, prompts[-1].label or "", f"user {person}"))
        if not ids:
            return None
        with self._lock:
            number = next(self._numbers)
            key = next((self._keys[one] for one in ids if one in self._keys), f"person {number}")
            for one in ids:
                self._keys[one] = key
                self._keys.move_to_end(one)
            while len(self._keys) > self._remembered:
                self._keys.popitem(last=False)
        return Turn(key, number)
