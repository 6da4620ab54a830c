"""Batches of episodes from pictures with outlines and generated scenes, each built from its number alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from x2sam.data.mixture import TrainingMixture
from x2sam.errors import TrainingError, X2SAMError
from x2sam.training.batches import Place
from x2sam.training.episodes import EpisodeBuilder
from x2sam.training.settings import DataConfig
from x2sam.training.steps import Batch, collate

MOST_TRIED = 1000


class EpisodeBatches:
    """The steps of one process: lists of one batch each (see :mod:`x2sam.training.batches`)."""

    def __init__(self, builder: EpisodeBuilder, config: DataConfig, size: tuple[int, int], place: Place = Place()):
        self.builder, self.config, self.place = builder, config, place
        mixture = dict(
            train_root=config.root, size=size, real_fraction=config.real_fraction, paste=config.paste,
            frames=config.frames, hold_out=config.hold_out, split=config.split,
            leave_out=config.leave_out, patchwork=config.patchwork, close=config.close,
        )  # fmt: skip
        self.pictures = TrainingMixture(config.seed, clip_fraction=0.0, **mixture)
        self.clips = TrainingMixture(config.seed + 1, clip_fraction=1.0, **mixture)

    def step(self, number: int) -> list[Batch]:
        return [self.batch(number)]

    def batch(self, number: int) -> Batch:
        clip = self.config.clip_every > 0 and number % self.config.clip_every == self.config.clip_every - 1
        source, count = (self.clips, self.config.clip_batch) if clip else (self.pictures, self.config.batch)
        place = number * self.place.count + self.place.index
        episodes, broken, empty = [], [], 0
        for attempt in range(MOST_TRIED):
            rng = np.random.default_rng((self.config.seed, place, attempt))
            try:
                episode = self.builder.build(source.sample_at(place * MOST_TRIED + attempt), rng)
            except X2SAMError as problem:
                broken.append(str(problem))
                continue
            if episode is None:
                empty += 1
                continue
            episodes.append(episode)
            if len(episodes) == count:
                return collate(episodes, broken, empty)
        raise TrainingError(
            f"batch {number}: {MOST_TRIED} samples without an object to prompt; check the data "
            f"({broken[-1] if broken else 'none of them is broken'})"
        )


def phrases_of(config: DataConfig, count: int = 300) -> Iterator[str]:
    """Names and expressions of the first samples, for the tokenizer."""
    mixture = TrainingMixture(
        config.seed,
        config.root,
        (128, 128),
        config.real_fraction,
        0.0,
        paste=0.0,
        leave_out=config.leave_out,
        split=config.split,
    )
    objects = [o for i in range(count) for o in mixture.sample_at(i).objects]
    return (text for o in objects for text in (o.category, *o.phrases))
