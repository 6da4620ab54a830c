"""Frames of a video file, by number, in the order in which they are shown.

Frame ``i`` is the ``i``-th picture that a player shows (edit lists applied), whatever the time stamps are; pictures
are turned as the file's display matrix says. Only a few frames are held, so that the length of a video does not matter.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from x2sam.data.video_index import Progress, VideoIndex, decode, index_packets, index_pictures
from x2sam.errors import FramesError

CACHE_BYTES = 128 * 2**20


_ROUNDED, _ROUNDED_SHARE = 2.5, 0.01  # frames, and share of the whole, by which headers are off


class VideoReader:
    """A lazy sequence of frames, each uint8 (H, W, 3) RGB.

    Reading forward decodes each frame once. Any other frame costs a seek to the key frame before it; the frames
    decoded on the way are kept within ``cache_bytes``, so that reading backward is not quadratic.

    path: of the video file
    fps:  frames per second, as the file states it, or as its time stamps give it
    size: (H, W) of every frame, turned upright

    ``index`` is the file's index where it is known (see :meth:`VideoIndex.to_bytes`): without it the whole file is read
    once, and decoded where its header does not tell enough; ``progress`` hears how far that is.

    Raises :class:`FramesError` when the file can't be opened, has no picture track or not one readable picture.
    May be used from several threads; they take turns.
    """

    def __init__(
        self,
        path: str | Path,
        cache_bytes: int = CACHE_BYTES,
        index: VideoIndex | None = None,
        progress: Progress | None = None,
    ):
        self.path = Path(path)
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._container, self._stream = self._open()
        try:
            self._index = index or self._read_index(progress)
            if not len(self._index):
                raise FramesError(f"{self.path.name} has no readable picture; check that it opens in a player")
            self._next = 0
            self._last: av.VideoFrame | None = None
            self._restart(0)
            self.size: tuple[int, int] | None = None
            self._capacity = 1
            first = self[0]
        except av.error.FFmpegError as error:
            self.close()
            raise FramesError(f"{self.path.name} can't be decoded ({error.strerror}); convert it to H.264") from error
        except FramesError:
            self.close()
            raise
        self.size = first.shape[:2]
        self._capacity = max(2, int(cache_bytes // max(first.nbytes, 1)))
        self.fps = self._rate()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, frame: int) -> np.ndarray:
        """Frame ``frame``, uint8 (H, W, 3) RGB; negative numbers count from the end. The array is read-only."""
        count = len(self)
        if not -count <= frame < count:
            raise IndexError(f"{self.path.name} has {count} frames, there is no frame {frame}")
        frame %= count
        with self._lock:
            if frame not in self._cache:
                try:
                    self._fetch(frame)
                except av.error.FFmpegError as error:
                    raise self._undecodable(frame) from error
                if frame not in self._cache:  # what the file says of its pictures is not so
                    raise self._undecodable(frame)
            self._cache.move_to_end(frame)
            return self._cache[frame]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. Frames that are not cached can't be read afterwards."""
        with self._lock:
            self._container.close()

    @property
    def index(self) -> VideoIndex:
        """Where the frames are; to be handed in when the same file is opened again."""
        return self._index

    @property
    def times(self) -> np.ndarray:
        """float64 (T,), seconds from the first frame to each frame."""
        if not self._index.exact:
            return np.arange(len(self)) / float(self.fps)
        stamps = np.array(self._index.stamps, np.float64)
        return (stamps - stamps[0]) * float(self._stream.time_base)

    @property
    def missing(self) -> float:
        """Seconds that the file's header promises and that can't be read: more than 0 where it was cut off.

        Of a file that promises nothing (a transport stream, sound that is longer than the pictures) it is 0.
        """
        if 0 < self._stream.frames <= len(self):
            return 0.0  # all are there; the last one may stand longer than the one before it
        promised = _promised(self._container, self._stream)
        times = self.times
        last = np.diff(times)[-1:].sum() or 1 / self.fps
        short = promised - float(times[-1] + last)
        return short if short > max(_ROUNDED / self.fps, _ROUNDED_SHARE * promised) else 0.0

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            container = av.open(str(self.path), metadata_errors="replace")  # titles come in any encoding
        except (av.error.FFmpegError, OSError) as error:
            raise FramesError(
                f"{self.path.name} can't be read as a video ({error.strerror}); check that it opens in a player"
            ) from error
        if not container.streams.video:
            container.close()
            raise FramesError(f"{self.path.name} has no picture track; give a file with pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return container, stream

    def _read_index(self, progress: Progress | None) -> VideoIndex:
        index = index_packets(self._container, self._stream, progress)
        if index is None:
            self._rewind()
            index = index_pictures(self._container, self._stream, progress)
        return index

    def _rate(self) -> float:
        stated = self._stream.average_rate or self._stream.guessed_rate
        if stated:
            return float(Fraction(stated))
        span = (self._index.stamps[-1] - self._index.stamps[0]) * float(self._stream.time_base or 0)
        return (len(self) - 1) / span if self._index.exact and span > 0 else 1.0

    def _rewind(self) -> None:
        """A fresh start of the file: works for every container, also those that can't seek."""
        self._container.close()
        self._container, self._stream = self._open()

    def _restart(self, frame: int) -> None:
        """Decoding goes on from a key frame at or before ``frame``."""
        self._next, self._last = self._index.key_before(frame), None
        if self._next == 0:
            self._start_over()
            return
        self._container.seek(self._index.stamps[self._next], stream=self._stream)
        self._pictures = decode(self._container, self._stream)

    def _start_over(self) -> None:
        self._next, self._last = 0, None
        self._rewind()
        self._pictures = decode(self._container, self._stream)

    def _fetch(self, frame: int) -> None:
        """Decode up to ``frame`` into the cache."""
        keep_from = frame - self._capacity + 1
        if not self._next <= frame or (self._index.exact and self._index.key_before(frame) > self._next):
            self._restart(frame)
        while True:
            picture = next(self._pictures, None)
            number = len(self) if picture is None else self._index.number(picture, self._next)
            if number > frame and self._last is None and self._next:
                # The seek landed too late (transport streams have no index); a start from 0 never does.
                self._start_over()
                continue
            if picture is None:
                break
            # A damaged picture is shown by players as the one before it; so is it here.
            for missed in range(max(self._next, keep_from), min(number, frame + 1)):
                self._keep(missed, self._last or picture)
            self._next, self._last = number + 1, picture
            if keep_from <= number:
                self._keep(number, picture)
            if number >= frame:
                return
        if self._last is None:
            raise self._undecodable(frame)
        for missed in range(max(self._next, keep_from), frame + 1):
            self._keep(missed, self._last)
        self._next = len(self)

    def _undecodable(self, frame: int) -> FramesError:
        return FramesError(f"frame {frame} of {self.path.name} can't be decoded; convert the file to H.264")

    def _keep(self, number: int, picture: av.VideoFrame) -> None:
        image = np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90) % 4)
        if self.size is not None and image.shape[:2] != self.size:
            image = cv2.resize(image, (self.size[1], self.size[0]), interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(image)
        image.setflags(write=False)
        self._cache[number] = image
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)


def _promised(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """How long the pictures last by the header, in seconds; 0 where it does not tell."""
    counted = float(stream.frames / stream.average_rate) if stream.frames and stream.average_rate else 0.0
    if stream.duration:
        return max(float(stream.duration * stream.time_base), counted)
    alone = len(container.streams) == 1  # else it may be the sound that lasts so long
    return max(container.duration / av.time_base if container.duration and alone else 0.0, counted)
