"""The data engine: datasets of all tasks as one stream of steps (X2SAM, data engine).

    engine = DataEngine(datasets, RowBuilder(...).build, seed=0, processes=1)
    passes = engine.step(17, process=0)          # what this process learns from in step 17

A sample that can't be read is replaced by the next one of the same length in its dataset, and named; one in which
nothing can be prompted is replaced too, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.data.engine_rows import NothingToAskError, TaskRow
from x2sam.data.engine_schedule import BatchSizes, Schedule, Source
from x2sam.data.task_sample import TaskDataset, TaskSample
from x2sam.errors import TrainingError, X2SAMError

MOST_BROKEN_IN_A_ROW = 20
Build = Callable[[TaskSample, np.random.Generator], TaskRow]


@dataclass(frozen=True, eq=False)
class RowPass:
    """Rows of one forward pass, all of one task.

    broken: a sentence for every sample that could not be read; empty: how many had nothing to ask about
    """

    rows: list[TaskRow]
    broken: list[str]
    empty: int = 0


class DataEngine:
    """threshold: datasets with a smaller share of all samples than this are repeated (:func:`repeat_factors`)."""

    def __init__(
        self,
        datasets: Sequence[TaskDataset],
        build: Build,
        sizes: BatchSizes = BatchSizes(),
        threshold: float = 0.1,
        seed: int = 0,
        processes: int = 1,
    ):
        self.datasets, self.build, self.seed = tuple(datasets), build, seed
        sources = [Source(d.name, d.modality, np.asarray(d.lengths)) for d in datasets]
        self.schedule = Schedule(sources, sizes, processes, seed, threshold)

    def step(self, number: int, process: int = 0) -> list[RowPass]:
        """The forward passes of step ``number`` on ``process``."""
        batch = self.schedule[number]
        return [
            self._pass(batch.source, members, (self.seed, number, process, index))
            for index, members in enumerate(batch.samples[:, process])
        ]

    def _pass(self, source: int, members: np.ndarray, seed: tuple[int, ...]) -> RowPass:
        dataset = self.datasets[source]
        rows: list[TaskRow] = []
        broken: list[str] = []
        empty = 0
        for place, member in enumerate(members):
            for attempt, candidate in enumerate(neighbours(np.asarray(dataset.lengths), int(member))):
                try:
                    rows.append(self.build(dataset[candidate], np.random.default_rng((*seed, place, attempt))))
                    break
                except NothingToAskError:
                    empty += 1
                except X2SAMError as problem:
                    broken.append(f"{dataset.name} number {candidate}: {problem}")
            else:
                raise TrainingError(
                    f"{dataset.name}: {attempt + 1} samples one after the other can't be used; the last problem: "
                    f"{broken[-1] if broken else 'there is no object in them'}"
                )
        return RowPass(rows, broken, empty)


def neighbours(lengths: np.ndarray, index: int) -> list[int]:
    """``index`` and the samples of the same length behind it, in a circle; at most ``MOST_BROKEN_IN_A_ROW``."""
    same = np.flatnonzero(lengths == lengths[index])
    start = int(np.searchsorted(same, index))
    return np.roll(same, -start)[:MOST_BROKEN_IN_A_ROW].tolist()
