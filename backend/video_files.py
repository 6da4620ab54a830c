"""Videos of Video tags: fetched like pictures, decoded frame by frame when somebody looks, a few frames kept.

Label Studio's frame ``n`` is what stands on the screen at ``(n - 1) / framerate`` seconds, whatever the file's own
frames are: :class:`ClipFrames` has each of those frames of the file once, and knows which of them each number shows.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from backend.errors import LabelConfigError, MediaError, MediaTimeoutError, MediaTooLargeError
from backend.geometry import Size
from backend.label_config import ObjectTag, task_value
from backend.media import MediaFetcher
from backend.settings import MEGABYTE
from x2sam.data.video import VideoReader
from x2sam.data.video_index import VideoIndex, frames_at_rate
from x2sam.errors import FramesError
from x2sam.stages import stage

_OPEN = 4
_READER_BYTES = 64 * MEGABYTE
_INDEXES = 32
_INDEX_SECONDS = 30.0
_USUAL_RATE = 24.0
_HIGHEST_RATE = 1000.0
_MOST_FRAMES = 500_000


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A video as it was when it was looked at: ``digest`` of its content, ``times`` float64 (T,) in seconds; of its
    end ``missing`` seconds, which its header promises, can't be read."""

    address: str
    digest: str
    times: np.ndarray
    size: Size
    missing: float = 0.0


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    reader: VideoReader | None = None


class VideoFiles:
    """Opens videos by address and reads their frames. Threads may share one; those who read one video take turns.

    At most ``most_open`` are open, each with ``reader_bytes`` of decoded frames; a closed one is opened again when it
    is needed. What was once found out about where its frames are is remembered.
    """

    def __init__(
        self, fetcher: MediaFetcher, max_pixels: int, most_open: int = _OPEN, reader_bytes: int = _READER_BYTES
    ):
        self._fetcher, self._max_pixels = fetcher, max_pixels
        self._most_open, self._reader_bytes = most_open, reader_bytes
        self._guard = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._indexes: OrderedDict[str, VideoIndex] = OrderedDict()

    def open(self, address: str) -> VideoFile:
        """The video behind an address.

        :raises MediaError: it can't be had, is none that can be decoded, or takes too long to be looked through.
        """
        with stage("fetch"):
            digest = self._fetcher.fetch(address).digest
        entry = self._entry(digest)
        with entry.lock, stage("decode"):
            reader = self._reader(entry, address, digest)
            return VideoFile(address, digest, reader.times, reader.size, reader.missing)

    def frame(self, video: VideoFile, number: int) -> np.ndarray:
        """A frame of a video, counted from 0: uint8 (H, W, 3).

        :raises FramesError: it can't be decoded.
        :raises MediaError: the file is not to be had any more, or has changed.
        """
        entry = self._entry(video.digest)
        with entry.lock, stage("decode"):
            for last in (False, True):
                reader = self._reader(entry, video.address, video.digest)
                try:
                    return reader[number]
                except FramesError as error:
                    # Going back in some files opens them anew, and the cache may have dropped this one since.
                    entry.reader = None
                    if last or reader.path.exists():
                        moment = f"{video.times[number]:.2f} s"
                        raise FramesError(f"The video can't be decoded at {moment}; convert it to H.264.") from error
        raise AssertionError("one of two tries returns or raises")

    def _entry(self, digest: str) -> _Entry:
        with self._guard:
            entry = self._entries.setdefault(digest, _Entry())
            self._entries.move_to_end(digest)
            while len(self._entries) > self._most_open:
                # The last one who uses it lets it go; its file is closed with it.
                self._entries.popitem(last=False)
        return entry

    def _reader(self, entry: _Entry, address: str, digest: str) -> VideoReader:
        if entry.reader is None:
            entry.reader = self._opened(address, digest)
        return entry.reader

    def _opened(self, address: str, digest: str) -> VideoReader:
        file = self._fetcher.fetch(address)
        if file.digest != digest:
            raise MediaError("The video was changed while it was worked on; reload the page.")
        until = time.monotonic() + _INDEX_SECONDS

        def check(_: int) -> None:
            if time.monotonic() > until:
                raise MediaTimeoutError(
                    "The video tells too little about where its frames are, and looking through it takes too long; "
                    "convert it to H.264 in an MP4 file."
                )

        with self._guard:
            index = self._indexes.get(digest)
        index = index or self._fetcher.videos.index_of(digest)
        try:
            reader = VideoReader(file.path, self._reader_bytes, index, check)
        except FramesError as error:
            raise MediaError(
                "The file is not a video that can be decoded; if a browser plays it, convert it to H.264."
            ) from error
        height, width = reader.size
        if height * width > self._max_pixels:
            reader.close()
            raise MediaTooLargeError(f"The video has {width} x {height} pixels; see X2SAM_MAX_MEGAPIXELS.")
        with self._guard:
            self._indexes[digest] = reader.index
            self._indexes.move_to_end(digest)
            while len(self._indexes) > _INDEXES:
                self._indexes.popitem(last=False)
        return reader


class ClipFrames(Sequence):
    """The frames of a video that Label Studio shows at a rate, each once: ``len()`` and ``[i]``, uint8 (H, W, 3).

    shown: int64 (F,), for each of Label Studio's frames, counted from 0 here, the number ``i`` of what it shows
    """

    def __init__(self, files: VideoFiles, video: VideoFile, rate: float):
        if video.times[-1] * rate > _MOST_FRAMES:
            raise LabelConfigError(f"At {rate:g} frames per second the video has more than {_MOST_FRAMES} frames.")
        self.rate, self.video = rate, video
        self._files = files
        shown = frames_at_rate(video.times, rate)
        gap = np.diff(video.times)[-1:].sum() or 1 / rate
        count = max(int((video.times[-1] + gap) * rate + 0.5), 1)  # as many as the editor counts
        self._numbers, self.shown = np.unique(shown[:count], return_inverse=True)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._files.frame(self.video, int(self._numbers[index]))

    @property
    def key(self) -> str:
        """Names the frames by the content of the file and the rate."""
        return sha256(f"video {self.video.digest} {self.rate!r}".encode()).hexdigest()[:32]

    def digest(self, index: int) -> str:
        """Names the content of one frame."""
        return sha256(f"frame {self.video.digest} {self._numbers[index]}".encode()).hexdigest()[:32]

    def size_of(self, _index: int) -> Size:
        """``(H, W)`` of every frame."""
        return self.video.size

    def at(self, frame: int) -> int:
        """The number here of what Label Studio's frame shows, counted from 1; of the last one beyond the end."""
        return int(self.shown[min(max(frame, 1), len(self.shown)) - 1])


def frame_rate(tag: ObjectTag, data: Mapping[str, Any]) -> float:
    """Frames per second that the editor counts in, as it reads the tag: below 1 it is seconds per frame, and what is
    no number is 24.

    :raises LabelConfigError: it is higher than any video's.
    """
    written: Any = tag.framerate
    if tag.framerate.startswith("$"):
        try:
            written = task_value(ObjectTag(tag.name, tag.kind, tag.framerate, False), data)
        except LabelConfigError:
            written = None
    try:
        rate = float(written) if isinstance(written, str | int | float) else math.nan
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate) or rate == 0:
        return _USUAL_RATE
    rate = 1 / rate if rate < 1 else rate
    if not 0 < rate <= _HIGHEST_RATE:
        raise LabelConfigError(f"framerate of '{tag.name}' must be frames per second, at most {_HIGHEST_RATE:g}.")
    return rate
