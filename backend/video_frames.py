"""Frames of known videos as JPEG files, made when somebody asks: for the browser by HTTP, for the model without.

Both see the same bytes. A video is open in two places at most, one for people and one for the model, so that paging
does not disturb a track; a few decoded frames are held in memory, and the files on disk have a budget.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from backend.errors import MediaDiskError, MediaError
from backend.file_cache import CachedFile, FileCache
from backend.settings import MEGABYTE, Settings
from backend.video_addresses import is_signed, split_address
from backend.video_library import UnknownVideoError, VideoLibrary
from x2sam.data.video import VideoReader
from x2sam.data.video_index import VideoIndex

BROWSER, MODEL = "browser", "model"
_QUALITY = 92
_OPEN_VIDEOS = 4
_TRIES = 20  # with a small budget many readers push out each other's pages
_READER_BYTES = 64 * MEGABYTE


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    reader: VideoReader | None = None


class VideoFrames:
    """Finds out which frame an address means and makes its picture. Threads may share one.

    folder:       of the JPEG files, ``max_bytes`` of them; made when the first one is
    open_videos:  readers held open at most; one in use is closed when its user is done
    reader_bytes: decoded frames that each reader keeps
    """

    def __init__(
        self,
        library: VideoLibrary,
        folder: Path,
        max_bytes: int,
        open_videos: int = _OPEN_VIDEOS,
        reader_bytes: int = _READER_BYTES,
    ):
        self._library = library
        self._folder, self._max_bytes = folder, max_bytes
        self._open_videos = open_videos
        self._reader_bytes = reader_bytes
        self._guard = threading.Lock()
        self._stored: FileCache | None = None
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> VideoFrames:
        """The videos that were imported on this machine."""
        folder = Path(settings.media_cache_dir).expanduser() / "frames"
        return cls(VideoLibrary(Path(settings.state_dir).expanduser()), folder, settings.frames_bytes)

    @property
    def total_bytes(self) -> int:
        """Size of the JPEG files that are kept."""
        return self._stored.total_bytes if self._stored is not None else 0

    def find(self, address: str) -> tuple[str, int] | None:
        """Video id and frame of an address that we signed, under whatever name of the server; None for others."""
        parts = split_address(address)
        if parts is None or not self.is_signed(*parts):
            return None
        return parts[:2]

    def is_signed(self, video_id: str, frame: int, given: str) -> bool:
        """Whether we made a signature for this frame and its key is still good."""
        return is_signed(self._library.keys(), video_id, frame, given)

    def index_of(self, digest: str) -> VideoIndex | None:
        """Where the frames of a file are, by the digest of its content; None unless it was imported."""
        return self._library.index_of(digest)

    def file(self, video_id: str, frame: int, purpose: str = MODEL) -> CachedFile:
        """The JPEG file of a frame, counted from 0.

        :raises UnknownVideoError: no such video, or it has fewer frames.
        :raises VideoGoneError: its file is not what it was at the import.
        :raises FramesError: the frame can't be decoded.
        """
        name = f"{video_id}/{frame}"
        cache = self._cache()
        found = cache.get(name)
        if found is not None:
            return found
        with self._entry(video_id, purpose) as entry:
            return cache.get(name) or cache.put(name, [self._encoded(entry, video_id, frame)])

    def kept(self, video_id: str, frame: int) -> CachedFile | None:
        """The JPEG file of a frame where it was made already."""
        return self._cache().peek(f"{video_id}/{frame}")

    def read(self, video_id: str, frame: int, purpose: str = MODEL) -> bytes:
        """The content of :meth:`file`; where the disk is full, of a page that is not stored.

        :raises MediaError: others push it out again and again.
        """
        for _ in range(_TRIES):
            try:
                return self.file(video_id, frame, purpose).path.read_bytes()
            except FileNotFoundError:  # dropped by another thread between making and opening it
                continue
            except MediaDiskError:
                with self._entry(video_id, purpose) as entry:
                    return self._encoded(entry, video_id, frame)
        raise MediaError("The page does not stay on disk; raise X2SAM_FRAMES_MB.")

    def _cache(self) -> FileCache:
        with self._guard:
            if self._stored is None:
                # Files never grow old: a video's id comes from its content.
                self._stored = FileCache(self._folder, self._max_bytes, float("inf"))
            return self._stored

    def _encoded(self, entry: _Entry, video_id: str, frame: int) -> bytes:
        if entry.reader is None:
            entry.reader = self._library.open(video_id, self._reader_bytes)
        if frame >= len(entry.reader):
            raise UnknownVideoError(f"The video has {len(entry.reader)} frames, there is no frame {frame}.")
        return encode_jpeg(entry.reader[frame])

    def _entry(self, video_id: str, purpose: str) -> _Held:
        key = (video_id, purpose)
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._open_videos:
                # The last one who uses it lets it go; its file is closed with it.
                self._entries.popitem(last=False)
        return _Held(entry)


class _Held:
    """An entry that one thread uses; a failed reader is not kept."""

    def __init__(self, entry: _Entry):
        self._entry = entry

    def __enter__(self) -> _Entry:
        self._entry.lock.acquire()
        return self._entry

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._entry.reader = None
        self._entry.lock.release()


def encode_jpeg(picture: np.ndarray) -> bytes:
    """uint8 (H, W, 3) RGB as a JPEG file."""
    blue_first = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
