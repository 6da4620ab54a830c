"""Where replicas tell how they do and the front looks. A process of its own, which starts fast: it imports nothing."""

from __future__ import annotations

import time
from typing import Any


class Board:
    """A Ray actor. What is told are plain values, ``features`` and ``vitals`` as dictionaries."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, dict[str, Any]]] = {}

    def tell(self, replica: str, about: dict[str, Any]) -> None:
        self._told[replica] = time.monotonic(), about

    def read(self, seconds: float) -> dict[str, dict[str, Any]]:
        """What was told by those that told something in the last ``seconds``; others are forgotten."""
        since = time.monotonic() - seconds
        self._told = {name: told for name, told in self._told.items() if told[0] >= since}
        return {name: about for name, (_, about) in self._told.items()}
