"""Everything that is computed from frames before a prompt is known, each thing once while the cache holds it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import numpy as np
import torch

from x2sam.data.tasks import Task
from x2sam.errors import FramesError
from x2sam.inference.feature_cache import FeatureCache, Sized
from x2sam.inference.frames import FrameSource
from x2sam.inference.interpreter import Interpreter, Looked
from x2sam.inference.preprocess import FrameSizes, frame_sizes, mask_frames
from x2sam.model.x2sam import X2SAM, EncodedFrame, FrameFeatures
from x2sam.stages import stage

Kept = TypeVar("Kept", bound=Sized)


class Looking:
    """The features of one piece of media. ``key`` names it in the cache that all media share; ``named``: somebody gave
    it that name and may come back with it.

    Where the frames tell a digest of their content (see :class:`x2sam.inference.frames.FrameSource`), features are
    kept by that, so the same picture is known again in other media and after a restart.
    """

    def __init__(
        self, interpreter: Interpreter, cache: FeatureCache, frames: FrameSource, key: Hashable, named: bool = False
    ):
        self.interpreter, self.cache, self.frames, self.key, self.named = interpreter, cache, frames, key, named
        self.model: X2SAM = interpreter.model
        self._digest = getattr(frames, "digest", None)

    def __len__(self) -> int:
        return len(self.frames)

    def picture(self, frame: int) -> np.ndarray:
        if not 0 <= frame < len(self.frames):
            raise FramesError(f"there is no frame {frame}; this media has {len(self.frames)} (counted from 0)")
        return self.frames[frame]

    def sizes(self, frame: int) -> FrameSizes:
        return frame_sizes(*self.picture(frame).shape[:2], self.model.config.preprocess)

    def encoded(self, frame: int) -> EncodedFrame:
        return self._kept("encoded", [frame], lambda: self.encode(frame))

    def encode(self, frame: int) -> EncodedFrame:
        """The mask encoder's maps, not cached: for frames that are visited once."""
        pixels = mask_frames(self.picture(frame), self.model.config.preprocess).pixels
        return self.model.encode(pixels.to(self.interpreter.device, self.model.no_memory_embedding.dtype))

    def features(self, frame: int) -> FrameFeatures:
        """Of a picture, or of the frame that a track starts from."""
        make = lambda: self.model.decode_pixels(self.encoded(frame), first=True)  # noqa: E731
        return self._kept("features", [frame], make)

    def later_features(self, frame: int) -> FrameFeatures:
        """Of a frame that comes after another one in a track."""
        return self.model.decode_pixels(self.encode(frame), first=False)

    def looked(self, task: Task, frame: int) -> Looked:
        """What the language model sees when frame ``frame`` is prompted: that one first, then others evenly spread."""
        shown = self.shown(task, frame)
        make = lambda: self.interpreter.look(np.stack([self._same_size(i, frame) for i in shown]), task)  # noqa: E731
        return self._kept(f"looked {task.modality}", shown, make)

    def shown(self, task: Task, frame: int) -> list[int]:
        if task.modality == "image":
            return [frame]
        count = min(len(self), task.llm_frames, self.model.config.language_frames)
        spread = np.linspace(0, len(self) - 1, count).astype(int).tolist()
        nearest = min(spread, key=lambda i: abs(i - frame))
        return [frame, *(i for i in spread if i not in (frame, nearest))]

    def _kept(self, what: str, shown: list[int], make: Callable[[], Kept]) -> Kept:
        """The cached value of frames: by their content where that is known, else by their places in the media."""
        with stage("encode"):
            if self._digest is None:
                return self.cache.get((self.key, what, *shown), make)
            # the size too: the same file may be decoded at another size under other settings
            content = tuple((str(self._digest(i)), *map(int, self.picture(i).shape[:2])) for i in shown)
            return self.cache.get(("content", what, *content), make, lasting=True)

    def _same_size(self, index: int, frame: int) -> np.ndarray:
        """A clip for the language model needs one size; pages of a task may differ, so they follow the prompted one."""
        wanted, picture = self.picture(frame), self.picture(index)
        if picture.shape == wanted.shape:
            return picture
        plane = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(plane, wanted.shape[:2], mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).numpy()
