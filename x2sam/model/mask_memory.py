"""MaskMemory: what the frames before have left behind. A container; it owns no weights and looks at no picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MemoryEntry:
    """One frame's memory: for each memory level the tokens (B, H*W, C), all on the same (coarsest) grid.

    ``sketch`` (B, 1, h, w) in 0..1 at stride 4 is there when the entry is what a person drew on the very frame that
    reads it; such an entry lies pixel on pixel and is added as well as attended to.
    """

    time: int
    levels: tuple[Tensor, ...]
    grid: tuple[int, int]
    sketch: Tensor | None = None

    def __getitem__(self, rows: slice) -> MemoryEntry:
        sketch = None if self.sketch is None else self.sketch[rows]
        return MemoryEntry(self.time, tuple(level[rows] for level in self.levels), self.grid, sketch)

    @classmethod
    def stacked(cls, entries: Sequence[MemoryEntry]) -> MemoryEntry:
        """Entries of one frame as one, their rows one after another."""
        first = entries[0]
        if len(entries) == 1:
            return first
        levels = tuple(torch.cat(parts) for parts in zip(*(e.levels for e in entries), strict=True))
        sketches = [e.sketch for e in entries if e.sketch is not None]
        return cls(first.time, levels, first.grid, torch.cat(sketches) if sketches else None)


class MaskMemory:
    """First in, first out, with ``slots`` places; pinned entries (a person's masks) stay beside it until reset.

    Of pinned entries the ``slots`` latest in order of writing are kept, so the whole never exceeds twice ``slots``.
    """

    def __init__(self, slots: int = 5):
        if slots < 1:
            raise ValueError("a mask memory needs at least one slot")
        self._fifo: deque[MemoryEntry] = deque(maxlen=slots)
        self._pinned: deque[MemoryEntry] = deque(maxlen=slots)

    def push(self, entry: MemoryEntry, pin: bool = False) -> None:
        """Append; the oldest one of the same kind makes room. A pinned entry replaces one of the same time."""
        if pin:
            kept = [e for e in self._pinned if e.time != entry.time]
            self._pinned.clear()
            self._pinned.extend(kept)
            self._pinned.append(entry)
        else:
            self._fifo.append(entry)

    def read(self) -> list[MemoryEntry]:
        """Pinned entries first, then oldest to newest; never the same frame twice (the pinned one wins)."""
        pinned = {e.time for e in self._pinned}
        return [*self._pinned, *(e for e in self._fifo if e.time not in pinned)]

    def reset(self) -> None:
        self._fifo.clear()
        self._pinned.clear()

    def copy(self) -> MaskMemory:
        """A second memory with the same entries (they are immutable and shared)."""
        other = MaskMemory(self._fifo.maxlen or 1)
        other._fifo.extend(self._fifo)
        other._pinned.extend(self._pinned)
        return other

    def __len__(self) -> int:
        return len(self.read())
