"""Which samples make which step: resampling, grouping by length, one source per global batch (X2SAM, data engine).

A *source* is one dataset of one task and modality. One pass goes over every source ``r`` times, ``r`` its repeat
factor, which lifts small datasets. A *global batch* is everything that one optimizer step learns from, on all processes
and in all accumulation steps: samples of one source and of one length, since a step is as slow as its longest clip.

The whole plan follows from the lengths, the seed and the number of processes, so a step is found by its number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.data.tasks import VIDEO
from x2sam.errors import TrainingError


@dataclass(frozen=True)
class BatchSizes:
    """What one process takes at a time, and how many times in a step, by modality.

    images, clips:                           samples of one forward pass
    image_accumulation, clip_accumulation:   forward passes of one step
    """

    images: int = 4
    clips: int = 1
    image_accumulation: int = 1
    clip_accumulation: int = 4

    def __post_init__(self) -> None:
        if min(self.images, self.clips, self.image_accumulation, self.clip_accumulation) < 1:
            raise TrainingError("images, clips and both accumulations count samples and passes; give at least 1 each")

    def of(self, modality: str) -> tuple[int, int]:
        """(forward passes, samples in each) of one process and step."""
        video = modality == VIDEO
        return (self.clip_accumulation, self.clips) if video else (self.image_accumulation, self.images)


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset as the schedule sees it; ``lengths`` (n,) are frames per sample."""

    name: str
    modality: str
    lengths: np.ndarray


@dataclass(frozen=True, eq=False)
class GlobalBatch:
    """``samples`` (passes, processes, samples of a pass): indices into the source number ``source``."""

    source: int
    samples: np.ndarray


def repeat_factors(counts: Sequence[int], threshold: float = 0.1) -> list[float]:
    """``max(1, sqrt(threshold / f))`` for each dataset, ``f`` its share of all samples."""
    total = sum(counts)
    return [max(1.0, math.sqrt(threshold * total / count)) for count in counts]


def repeated(count: int, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Indices 0..count - 1, each ``floor(factor)`` times and a random rest once more, in random order.

    ``round(count * factor)`` indices.
    """
    wanted = round(count * factor)
    rounds = [rng.permutation(count) for _ in range(math.ceil(wanted / count))]
    return np.concatenate(rounds)[:wanted]


def groups_of_equal_length(order: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """``order`` cut into groups (n, size) of one length each, shortest first.

    What is left over of a length is filled up with those that stand before it, in a circle where they are too few: no
    sample is dropped, and none meets another length.
    """
    order = order[np.argsort(lengths[order], kind="stable")]
    groups = []
    for length in np.unique(lengths[order]):
        same = order[lengths[order] == length]
        whole = len(same) // size * size
        groups.append(same[:whole].reshape(-1, size))
        if whole < len(same):
            last = same[-size:] if whole else np.resize(same, size)
            groups.append(last[None])
    return np.concatenate(groups)


class Schedule:
    """Global batches by their number; when all sources are used up the next pass begins, in another order."""

    def __init__(
        self, sources: Sequence[Source], sizes: BatchSizes, processes: int = 1, seed: int = 0, threshold: float = 0.1
    ):
        empty = [source.name for source in sources if not len(source.lengths)]
        if empty or not sources:
            raise TrainingError(f"nothing to learn from: {', '.join(empty) or 'no dataset'} has no samples")
        self.sources, self.sizes, self.processes, self.seed = tuple(sources), sizes, processes, seed
        self.factors = repeat_factors([len(source.lengths) for source in sources], threshold)
        self._passes: list[_Pass] = []

    @property
    def steps_per_pass(self) -> int:
        """Of the first pass; later ones may have a few more or fewer, as the repeated samples' lengths fall."""
        return len(self._pass(0))

    def __getitem__(self, number: int) -> GlobalBatch:
        index = 0
        while number >= len(self._pass(index)):
            number -= len(self._pass(index))
            index += 1
        source, members = self._pass(index).batch(number)
        passes, samples = self.sizes.of(self.sources[source].modality)
        return GlobalBatch(source, members.reshape(passes, self.processes, samples))

    def _pass(self, index: int) -> _Pass:
        while len(self._passes) <= index:
            self._passes.append(self._plan(np.random.default_rng((self.seed, len(self._passes)))))
        return self._passes[index]

    def _plan(self, rng: np.random.Generator) -> _Pass:
        groups = []
        for source, factor in zip(self.sources, self.factors, strict=True):
            size = math.prod(self.sizes.of(source.modality)) * self.processes
            order = repeated(len(source.lengths), factor, rng)
            groups.append(rng.permutation(groups_of_equal_length(order, source.lengths, size)))
        return _Pass(groups, draw_sources([len(found) for found in groups], rng))


class _Pass:
    """One pass: the groups (n, size) of each source, and which source each step takes."""

    def __init__(self, groups: list[np.ndarray], sources: np.ndarray):
        self.groups, self.sources = groups, sources
        # step -> how many steps before it took the same source
        self.places = np.zeros(len(sources), np.int64)
        for source in range(len(groups)):
            at = np.flatnonzero(sources == source)
            self.places[at] = np.arange(len(at))

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        source = int(self.sources[number])
        return source, self.groups[source][self.places[number]]


def draw_sources(counts: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Source of each step: uniformly among those that have groups left, until none has. ``counts`` groups each."""
    left = np.array(counts)
    drawn = []
    while left.any():
        open_ = np.flatnonzero(left)
        # one draw for many steps: nothing changes before the smallest source could run out
        batch = open_[rng.integers(len(open_), size=left[open_].min())]
        drawn.append(batch)
        left -= np.bincount(batch, minlength=len(left))
    return np.concatenate(drawn)
