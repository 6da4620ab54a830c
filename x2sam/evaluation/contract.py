"""What evaluation asks of a model. :class:`x2sam.inference.engine.Engine` answers to it, and so do stand-ins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.structures import FrameMasks, Mask, Prompt


class Session(Protocol):
    """An open picture (frame 0) or clip."""

    def segment(self, prompt: Prompt, frame: int = 0) -> list[Mask]:
        """Masks bool (H, W) for all that was asked so far about ``prompt.object_id``."""

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        """The true mask bool (H, W) of an object on a frame."""

    def track(self, object_ids: Sequence[str], start: int, stop: int, direction: str) -> Iterable[FrameMasks]:
        """Follow objects that were prompted or corrected over the frames ``start`` to ``stop`` - 1."""

    def close(self) -> None: ...


class Opener(Protocol):
    """An engine."""

    def open(self, frames: np.ndarray | VideoReader, key: str | None = None) -> Session: ...
