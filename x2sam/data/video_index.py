"""Which frames a video file has and where decoding may begin: found once, kept as bytes for the next time.

Frames are numbered by presentation time as a player shows them: pictures that an edit list leaves out have no number.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np

from x2sam.errors import FramesError

Progress = Callable[[int], None]
"""Called with the number of pictures seen so far."""

SLACK = 1e-3
"""Seconds by which a frame may begin after its moment and count as shown then: files round their time stamps, Matroska
to a thousandth, and players look a little late for that reason."""
_MARK = b"x2sam-index-1 "


class VideoIndex:
    """Time stamps of all frames in order; ``exact`` when they are known and differ, so that seeking by them works.

    stamps: in units of the stream's time base, one for each frame; all None where they are of no use
    """

    def __init__(self, stamps: list[int | None], keys: list[int]):
        self.exact = None not in stamps and len(set(stamps)) == len(stamps)
        self.stamps: list = sorted(stamps) if self.exact else [None] * len(stamps)
        self._keys = sorted(bisect_left(self.stamps, stamps[k]) for k in keys) if self.exact else []

    def __len__(self) -> int:
        return len(self.stamps)

    def key_before(self, frame: int) -> int:
        """The last frame at or before ``frame`` from which decoding may begin; 0 always may."""
        position = bisect_right(self._keys, frame)
        return self._keys[position - 1] if position else 0

    def number(self, picture: av.VideoFrame, expected: int) -> int:
        """Which frame a decoded picture is; without usable time stamps, the one that was due."""
        if not self.exact or picture.pts is None:
            return expected
        return max(bisect_right(self.stamps, picture.pts) - 1, 0)

    def to_bytes(self) -> bytes:
        """A short form for :meth:`from_bytes`."""
        keys = np.array(self._keys, "<i8")
        steps = np.diff(np.array(self.stamps if self.exact else [], "<i8"), prepend=0)
        counts = np.array([len(self), len(keys), self.exact], "<i8")
        return _MARK + zlib.compress(b"".join(part.astype("<i8").tobytes() for part in (counts, keys, steps)))

    @classmethod
    def from_bytes(cls, data: bytes) -> VideoIndex:
        """The index that :meth:`to_bytes` wrote.

        :raises FramesError: these bytes are something else.
        """
        try:
            if not data.startswith(_MARK):
                raise ValueError("no mark")
            numbers = np.frombuffer(zlib.decompress(data[len(_MARK) :]), "<i8")
            count, keys, exact = (int(value) for value in numbers[:3])
            if len(numbers) != 3 + keys + count * exact:
                raise ValueError("wrong length")
        except (ValueError, zlib.error) as error:
            raise FramesError("the stored index of a video is damaged; import the video again") from error
        stamps = np.cumsum(numbers[3 + keys :]).tolist() if exact else [None] * count
        return cls(stamps, numbers[3 : 3 + keys].tolist())


def frames_at_rate(times: Sequence[float], rate: float) -> np.ndarray:
    """The frames that are on the screen at 0, 1/rate, 2/rate ... seconds until the last one ends: int64 (n,).

    times: seconds of each frame from the first, ascending; the last is taken to last as long as the one before it
    """
    times = np.asarray(times, np.float64)
    if not len(times):
        return np.zeros(0, np.int64)
    gaps = np.diff(times)
    end = times[-1] + (gaps[-1] if len(gaps) else 1 / rate)
    slack = min(SLACK, float(gaps[gaps > 0].min(initial=math.inf)) / 2)
    moments = np.arange(max(math.ceil((end - slack) * rate), 1)) / rate
    return np.maximum(np.searchsorted(times, moments + slack, side="right") - 1, 0)


def index_packets(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Progress | None = None
) -> VideoIndex | None:
    """The index without decoding, or None where packets may not be frames one to one."""
    stamps, keys = [], []
    if not stream.frames:
        return None
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_keyframe:
                keys.append(len(stamps))
            stamps.append(packet.pts)
            if progress is not None:
                progress(len(stamps))
    except av.error.FFmpegError:
        return None
    index = VideoIndex(stamps, keys)
    # Hidden pictures, fields and files that were cut off all show as a difference to the count in the header.
    return index if index.exact and len(stamps) == stream.frames else None


def index_pictures(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Progress | None = None
) -> VideoIndex:
    """The index by decoding everything once."""
    stamps, keys = [], []
    for picture in decode(container, stream):
        if picture.key_frame:
            keys.append(len(stamps))
        stamps.append(picture.pts)
        if progress is not None:
            progress(len(stamps))
    return VideoIndex(stamps, keys)


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Pictures in order; damaged packets are passed over, and a file that was cut off ends where it was cut."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet = None
        if packet is None:
            break
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
    # What the decoder still holds comes out at the end; after a whole file it has been told so already.
    try:
        yield from stream.codec_context.decode(None)
    except (av.error.EOFError, av.error.InvalidDataError):
        return
