"""Answers and truth of one frame as a small table of shared pixels, which most metrics can be worked out from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Name = tuple[Hashable, Hashable]
"""A segment: its category, and what tells it from others of the category. Equal names on two frames are one segment
through time."""


def dense_map(masks: Sequence[np.ndarray], shape: tuple[int, int], ignore: np.ndarray | None = None) -> np.ndarray:
    """int32 (H, W): 1 + the index of the last of ``masks`` bool (H, W) on each pixel, 0 for none; ignored pixels 0."""
    out = np.zeros(shape, np.int32)
    for number, mask in enumerate(masks, 1):
        out[mask] = number
    if ignore is not None:
        out[ignore] = 0
    return out


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Shared pixels of answered and true segments of one frame.

    counts: int64 (1 + answered, 1 + true). Row 0 are pixels without an answer, column 0 pixels without truth (void).
    """

    answered: tuple[Name, ...]
    true: tuple[Name, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, answer: np.ndarray, answered: Iterable[Name], truth: np.ndarray, true: Iterable[Name]) -> FrameTable:
        """From two maps as :func:`dense_map` makes them and the names of their segments."""
        answered, true = tuple(answered), tuple(true)
        if answer.shape != truth.shape:
            raise ValueError(f"the answer is {answer.shape}, the truth {truth.shape}; they must have one size")
        columns = 1 + len(true)
        pairs = (answer.astype(np.int64) * columns + truth).ravel()
        joint = np.bincount(pairs, minlength=columns * (1 + len(answered)))
        return cls(answered, true, joint.reshape(1 + len(answered), columns))


class PixelCounts:
    """Tables of several frames added up, by the names of segments; None is "no answer" and "void"."""

    def __init__(self, tables: Iterable[FrameTable] = ()):
        self.both: dict[tuple[Name | None, Name | None], int] = {}
        self.answered: dict[Name | None, int] = {}
        self.true: dict[Name | None, int] = {}
        for table in tables:
            self.add(table)

    def add(self, table: FrameTable) -> None:
        rows, columns = (None, *table.answered), (None, *table.true)
        for i, j in np.argwhere(table.counts).tolist():
            count = int(table.counts[i, j])
            row, column = rows[i], columns[j]
            self.both[row, column] = self.both.get((row, column), 0) + count
            self.answered[row] = self.answered.get(row, 0) + count
            self.true[column] = self.true.get(column, 0) + count
