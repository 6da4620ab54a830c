"""What the loop learns from: steps by their number, prepared ahead in other processes.

A step depends on the seed, its number, and this process's place among those that train together. So a resumed run sees
what the dead one would have seen, and how many processes prepare batches changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from x2sam.errors import TrainingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """This process among those that train together."""

    index: int = 0
    count: int = 1


class AnyBatch(Protocol):
    """What one forward pass learns from. ``names`` of its samples; ``broken``: why others had to be replaced;
    ``empty``: how many others had nothing to ask about."""

    names: list[str]
    broken: list[str]
    empty: int

    def to(self, device: torch.device | str) -> AnyBatch: ...


class Steps(Protocol):
    """Random access to the steps of one process: the batches of step ``number``, one per forward pass."""

    def step(self, number: int) -> list[AnyBatch]: ...


class _Stream(IterableDataset):
    def __init__(self, steps: Steps, start: int, stop: int):
        self.steps, self.start, self.stop = steps, start, stop

    def __iter__(self) -> Iterator[tuple[int, list[AnyBatch]]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.start + first, self.stop, stride):
            yield number, self.steps.step(number)


def steps_ahead(steps: Steps, start: int, stop: int, workers: int) -> DataLoader:
    """(number, batches) of the steps ``start`` to ``stop - 1`` in order, prepared by ``workers`` processes."""
    ahead = 4 if workers else None
    return DataLoader(_Stream(steps, start, stop), batch_size=None, num_workers=workers, prefetch_factor=ahead)


class Skipped:
    """Counts samples that could not be used, names each of them in the log, and stops the run when it is too many.

    share: of all samples, how many may be broken; the first ``FREE`` always may
    """

    FREE = 10

    def __init__(self, share: float, notes: Mapping[str, int] = MappingProxyType({})):
        self.share = share
        self.seen, self.broken, self.empty = (int(notes.get(name, 0)) for name in ("seen", "broken", "empty"))

    @property
    def notes(self) -> dict[str, int]:
        """The counts, to be given back when the run is resumed."""
        return {"seen": self.seen, "broken": self.broken, "empty": self.empty}

    def add(self, batches: Sequence[AnyBatch]) -> None:
        """Raises TrainingError when more are broken than may be."""
        for batch in batches:
            self.seen += len(batch.names)
            self.empty += batch.empty
            for problem in batch.broken:
                self.broken += 1
                log.warning("sample skipped (%d so far): %s", self.broken, problem)
        if self.broken > self.FREE + self.share * self.seen:
            last = next(problem for batch in batches[::-1] for problem in batch.broken[::-1])
            raise TrainingError(
                f"{self.broken} broken samples among {self.seen}; mend the data or raise data.broken. The last: {last}"
            )
