"""Everything that is computed from frames before a prompt is known, each thing once while the cache holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from x2sam.data.tasks import Task
from x2sam.errors import FramesError
from x2sam.inference.close_look import Window
from x2sam.inference.feature_cache import FeatureCache, Sized
from x2sam.inference.frames import FrameSource
from x2sam.inference.interpreter import Interpreter, Looked
from x2sam.inference.network import Network
from x2sam.inference.preprocess import FrameSizes, frame_sizes
from x2sam.model.mask_decoder import Condition, LevelPrediction, PreparedMaps
from x2sam.model.x2sam import X2SAM, EncodedFrame, FrameFeatures
from x2sam.stages import stage

Kept = TypeVar("Kept", bound=Sized)

WALKED_AGAIN = 96
"""Frames of a clip at most, whose features a track keeps (while they fit) for the next walk: a task of pages, as it is
imported, has half as many."""


@dataclass
class _Held:
    """A frame that ``users`` jobs look at."""

    picture: np.ndarray
    digest: str | None
    users: int = 0
    pixels: torch.Tensor | None = None  # for the mask encoder, where they were made ahead


class Looking:
    """The features of one piece of media. ``key`` names it in the cache that all media share; ``named``: somebody gave
    it that name and may come back with it; ``network``: how the model's parts are called, eagerly unless it is given;
    ``part``: names the part of the media that these frames are, where they are one.

    Where the frames tell a digest of their content (see :class:`x2sam.inference.frames.FrameSource`), features are
    kept by that, so the same picture is known again in other media and after a restart.

    A frame may come from a network or a slow disk, so whoever hands a job to the device's thread opens :meth:`hold`
    around it: the thread then finds every frame in memory and waits for nobody.
    """

    def __init__(
        self, interpreter: Interpreter, cache: FeatureCache, frames: FrameSource, key: Hashable, named: bool = False,
        network: Network | None = None, part: tuple[int, ...] = (),
    ):  # fmt: skip
        self.part = part
        self.interpreter, self.cache, self.frames, self.key, self.named = interpreter, cache, frames, key, named
        self.model: X2SAM = interpreter.model
        self.network = network or Network(interpreter.model)
        self._digest_of = getattr(frames, "digest", None)
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.frames)

    def picture(self, frame: int) -> np.ndarray:
        if not 0 <= frame < len(self.frames):
            raise FramesError(f"there is no frame {frame}; this media has {len(self.frames)} (counted from 0)")
        held = self._held.get(frame)
        return self.frames[frame] if held is None else held.picture

    @contextmanager
    def hold(self, frames: Iterable[int]) -> Iterator[None]:
        """Fetches and decodes frames in this thread and keeps them for the jobs that are run inside.

        Raises FramesError, or what the source raises, for a frame that can't be had.
        """
        taken: list[int] = []
        try:
            for frame in dict.fromkeys(frames):
                self._take(frame)
                taken.append(frame)
            yield
        finally:
            with self._lock:
                for frame in taken:
                    self._held[frame].users -= 1
                    if not self._held[frame].users:
                        del self._held[frame]

    def _take(self, frame: int) -> None:
        with self._lock:
            held = self._held.get(frame)
        if held is None:  # outside the lock: others may look at frames that are here
            held = _Held(self.picture(frame), None if self._digest_of is None else str(self._digest_of(frame)))
        with self._lock:
            self._held.setdefault(frame, held).users += 1

    def make_ready(self, frame: int) -> None:
        """Makes what the mask encoder wants of a frame that is held, so that the device need not wait for it."""
        held = self._held[frame]
        if held.pixels is None and self._place("later", [frame]) not in self.cache:
            held.pixels = self.interpreter.pixels(held.picture)

    def seen(self, task: Task, frame: int) -> list[int]:
        """The frames that an answer about ``frame`` looks at: to be held for it."""
        shown = self.shown(task, frame)
        known = self._digest_of is None and self._place(f"looked {task.modality}", shown) in self.cache
        return [frame] if known else shown

    def closely(self, frame: int, window: Window) -> Looking:
        """At a part of one frame, as a picture of its own. What is computed of it is kept with that of this media, in
        memory only."""
        part = self.picture(frame)[window.pixels]  # a view: for a further click nothing of it is read
        place = (frame, window.x0, window.y0, window.x1, window.y1)
        return Looking(self.interpreter, self.cache, part[None], self.key, self.named, self.network, place)

    def sizes(self, frame: int) -> FrameSizes:
        return frame_sizes(*self.picture(frame).shape[:2], self.model.config.preprocess)

    def encoded(self, frame: int) -> EncodedFrame:
        return self._kept("encoded", [frame], lambda: self.encode(frame))

    def encode(self, frame: int) -> EncodedFrame:
        """The mask encoder's maps, not cached: for frames that are visited once."""
        held = self._held.get(frame)
        pixels = None if held is None else held.pixels
        return self.network.encode(self.interpreter.placed(self.picture(frame) if pixels is None else pixels))

    def features(self, frame: int) -> FrameFeatures:
        """Of a picture, or of the frame that a track starts from."""
        make = lambda: self.model.decode_pixels(self.encoded(frame), first=True)  # noqa: E731
        return self._kept("features", [frame], make)

    def prepared(self, frame: int) -> PreparedMaps:
        """What the mask decoder makes of :meth:`features` for every prompt. Large and quickly made again, so it is
        never kept on disk."""
        make = lambda: self.model.prepare(self.features(frame))  # noqa: E731
        return self._kept("prepared", [frame], make, derived=True)

    def decode(self, frame: int, condition: Condition, sketch: torch.Tensor | None = None) -> LevelPrediction:
        """What the network answers to B prompts about a frame by itself; ``sketch`` (B, 1, h, w) is what was drawn."""
        return self.network.decode(self.features(frame), condition, sketch, self.prepared(frame))

    def region_map(self, frame: int) -> torch.Tensor:
        """Where regions are read from, (1, h, w, D)."""
        make = lambda: self.model.mask_encoder.region_map(self.encoded(frame).stage3)  # noqa: E731
        return self._kept("regions", [frame], make, derived=True)

    def later_features(self, frame: int) -> FrameFeatures:
        """Of a frame that comes after another one in a track. Kept for clips that are short enough: they are walked
        again after each correction. Of longer ones nothing is kept, so that their length does not matter."""
        key = self._place("later", [frame])
        make = lambda: self.model.decode_pixels(self.encode(frame), first=False)  # noqa: E731
        if key in self.cache:
            return self.cache.get(key, make)
        features = make()
        if len(self) <= WALKED_AGAIN and features.nbytes * len(self) <= self.cache.budget // 4:
            self.cache.put(key, features)
        return features

    def looked(self, task: Task, frame: int) -> Looked:
        """What the language model sees when frame ``frame`` is prompted: that one first, then others evenly spread."""
        shown = self.shown(task, frame)

        def make() -> Looked:
            frames = np.stack([self._same_size(i, frame) for i in shown])
            return self.interpreter.look(frames, task, encoded=lambda: self.encoded(frame))

        return self._kept(f"looked {task.modality}", shown, make)

    def shown(self, task: Task, frame: int) -> list[int]:
        if task.modality == "image":
            return [frame]
        count = min(len(self), task.llm_frames, self.model.config.language_frames)
        spread = np.linspace(0, len(self) - 1, count).astype(int).tolist()
        nearest = min(spread, key=lambda i: abs(i - frame))
        return [frame, *(i for i in spread if i not in (frame, nearest))]

    def _kept(self, what: str, shown: list[int], make: Callable[[], Kept], derived: bool = False) -> Kept:
        """The cached value of frames: by their content where that is known, else by their places in the media. What is
        known by its content may be kept on disk too, unless it is quickly ``derived`` from what is."""
        with stage("encode"):
            if self._digest_of is None:
                key, lasting = self._place(what, shown), False
            else:
                # the size too: the same file may be decoded at another size under other settings
                content = tuple((self._digest(i), *map(int, self.picture(i).shape[:2])) for i in shown)
                key, lasting = ("content", what, *content), True
            return self.cache.derive(key, make) if derived else self.cache.get(key, make, lasting)

    def _place(self, what: str, shown: list[int]) -> Hashable:
        return (self.key, what, *self.part, *shown)

    def _digest(self, frame: int) -> str:
        held = self._held.get(frame)
        return str(self._digest_of(frame)) if held is None else held.digest

    def _same_size(self, index: int, frame: int) -> np.ndarray:
        """A clip for the language model needs one size; pages of a task may differ, so they follow the prompted one."""
        wanted, picture = self.picture(frame), self.picture(index)
        if picture.shape == wanted.shape:
            return picture
        plane = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(plane, wanted.shape[:2], mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).numpy()
