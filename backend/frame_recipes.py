"""How another process gets at the frames that this one looks at: by their addresses, not by their pixels.

Engines in processes of their own (:mod:`backend.ray_engine`) fetch and decode pictures where they need them, with the
same settings, limits and rules for hosts, and keep them as this process does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.errors import MediaError
from backend.file_cache import FileCache
from backend.frames import DecodedPictures, TaskFrames
from backend.media import MediaFetcher
from backend.settings import Settings
from backend.video_files import ClipFrames, VideoFiles


class Recipe(Protocol):
    """What can be sent instead of frames."""

    def frames(self, kitchen: Kitchen) -> Sequence[np.ndarray]:
        """``len()`` and ``[i]``, uint8 (H, W, 3); digests as in the process that sent the recipe."""


class Kitchen:
    """What fetches and decodes in a process; threads may share one."""

    def __init__(self, settings: Settings):
        cache = FileCache(
            Path(settings.media_cache_dir).expanduser(), settings.media_cache_bytes, settings.media_cache_seconds
        )
        self.fetcher = MediaFetcher(settings, cache)
        self.decoded = DecodedPictures(settings.decoded_bytes)
        self.max_pixels = settings.max_pixels
        self.videos = VideoFiles(self.fetcher, settings.max_pixels)


@dataclass(frozen=True)
class PagesRecipe:
    """Pages of one or more tasks, by address."""

    addresses: tuple[str, ...]

    def frames(self, kitchen: Kitchen) -> TaskFrames:
        return TaskFrames(self.addresses, kitchen.fetcher, kitchen.decoded, kitchen.max_pixels)


@dataclass(frozen=True)
class ClipRecipe:
    """The frames of a video that are shown at a rate; ``digest`` of the file that was looked at."""

    address: str
    digest: str
    rate: float

    def frames(self, kitchen: Kitchen) -> ClipFrames:
        video = kitchen.videos.open(self.address)
        if video.digest != self.digest:
            raise MediaError("The video was changed while it was worked on; reload the page.")
        return ClipFrames(kitchen.videos, video, self.rate)


@dataclass(frozen=True, eq=False)
class PixelsRecipe:
    """Pixels that have no address, uint8 (H, W, 3) or (T, H, W, 3): a picture that is made to try an engine."""

    pixels: np.ndarray

    def frames(self, kitchen: Kitchen) -> np.ndarray:
        return self.pixels


def recipe_of(frames: Sequence[np.ndarray]) -> Recipe:
    """Frames of a Video tag tell their video and rate, those of tasks the addresses of their pages."""
    if isinstance(frames, np.ndarray):
        return PixelsRecipe(frames)
    video = getattr(frames, "video", None)
    if video is not None:
        return ClipRecipe(video.address, video.digest, frames.rate)
    return PagesRecipe(tuple(frames.addresses))
