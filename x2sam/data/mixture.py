"""The stream of training samples: real and generated, pictures and clips, resumable by index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from x2sam.data.augment import augment, picture_to_clip
from x2sam.data.cutouts import paste_objects
from x2sam.data.patchwork import patchwork
from x2sam.data.readers.labelmaps import DAILY_LIFE
from x2sam.data.readers.own_pictures import open_pictures
from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.structures import Sample

Size = tuple[int, int]


def _raise_malloc_thresholds() -> None:
    """Let the C library keep freed megabytes instead of returning them to the kernel after every picture.

    Freeing one large block raises glibc's dynamic thresholds for the rest of the process; page faults are a third of
    the time of a generated picture otherwise. Other C libraries are not affected.
    """
    np.empty(31 << 20, np.uint8)


class TrainingMixture:
    """An infinite sequence of samples at one ``size``; sample ``i`` depends on the seed, the settings and ``i`` only.

    real_fraction: share of samples made from the pictures of ``train_root`` (0 without one)
    clip_fraction: share of clips of ``frames`` frames; the rest are single pictures
    paste:         share of samples that get objects of another sample laid over them
    patchwork:     share of single pictures put together from surfaces and objects of real ones, of those made from
                   real ones
    close:         share of single real pictures that show one object from close by
    hold_out:      about one picture in so many is kept for choosing and fitting; 0 uses all
    leave_out:     sources that are never drawn, such as a domain to be measured as unknown
    split:         of an export in our own layout as ``train_root``: only pictures of this split
    """

    def __init__(
        self,
        seed: int,
        train_root: str | Path | None = None,
        size: Size = (320, 320),
        real_fraction: float = 0.6,
        clip_fraction: float = 0.25,
        frames: int = 4,
        paste: float = 0.2,
        patchwork: float = 0.0,
        close: float = 0.0,
        boosts: Mapping[str, float] = DAILY_LIFE,
        start: int = 0,
        hold_out: int = 0,
        split: str = "",
        leave_out: Collection[str] = (),
    ):
        shares = dict(
            real_fraction=real_fraction, clip_fraction=clip_fraction, paste=paste, patchwork=patchwork, close=close
        )  # fmt: skip
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1, not {share}")
        self.seed, self.size, self.frames, self.start = seed, size, frames, start
        self.real_fraction = real_fraction if train_root is not None else 0.0
        self.clip_fraction, self.paste, self.patchwork, self.close = clip_fraction, paste, patchwork, close
        self.pictures = open_pictures(train_root, split) if train_root is not None else None
        _raise_malloc_thresholds()
        self._cumulative = None
        if self.pictures is not None:
            self._cumulative = np.cumsum(self.pictures.weights(boosts=boosts, hold_out=hold_out, leave_out=leave_out))

    def __iter__(self) -> Iterator[Sample]:
        index = self.start
        while True:
            yield self.sample_at(index)
            index += 1

    def sample_at(self, index: int) -> Sample:
        """Sample number ``index`` (0, 1, ...)."""
        rng = np.random.default_rng((self.seed, index))
        clip, real = rng.random() < self.clip_fraction, rng.random() < self.real_fraction
        if real:
            return self._real(rng, clip)
        photos = self._photos(rng)
        if clip:
            return generate_clip(rng, self.frames, self.size, photos)
        sample = generate_picture(rng, self.size, photos)
        if self.pictures is not None and rng.random() < self.paste:
            return augment(paste_objects(sample, self._draw(rng), rng, 3), rng, self.size)
        return sample

    def _draw(self, rng: np.random.Generator) -> Sample:
        pick = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        return self.pictures.bare(min(pick, len(self.pictures) - 1))

    def _photos(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Photographs for half of the generated scenes, as backdrops and surfaces."""
        if self.pictures is None or rng.random() < 0.5:
            return []
        return [self._draw(rng).frames[0] for _ in range(2)]

    def _donor(self, rng: np.random.Generator) -> Sample:
        return self._draw(rng) if rng.random() < 0.6 else generate_picture(rng, self.size)

    def _real(self, rng: np.random.Generator, clip: bool) -> Sample:
        sample = self._draw(rng)
        if clip:
            donor = self._donor(rng) if rng.random() < 0.5 else None
            return picture_to_clip(sample, rng, self.frames, self.size, donor)
        if self.patchwork and rng.random() < self.patchwork:
            grounds = [sample, *(self._draw(rng) for _ in range(int(rng.integers(1, 4))))]
            donors = [self._draw(rng) for _ in range(int(rng.integers(1, 4)))]
            return augment(patchwork(grounds, donors, rng, self.size), rng, self.size)
        if rng.random() < self.paste:
            sample = paste_objects(sample, self._donor(rng), rng)
        return augment(sample, rng, self.size, self.close)
