"""Fetched files on disk: written whole or not at all, found by address, dropped by age and total size."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import MediaDiskError
from backend.steady_clock import SteadyClock

_SUFFIX = ".media"
_PART = ".part"
_PART_MAX_AGE = 3600.0
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT}


@dataclass(frozen=True)
class CachedFile:
    """A file and the digest of its content."""

    path: Path
    digest: str
    size: int
    stored: float


class FileCache:
    """A folder of files named ``<digest of the address>-<digest of the content>.media``.

    Files are complete from the moment they have their name. A reader may lose one to eviction between :meth:`get` and
    opening it, and then fetches it again.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age: float, clock: Callable[[], float] | None = None):
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock or SteadyClock()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, CachedFile] = OrderedDict()
        self.hits = self.misses = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._scan()

    @property
    def total_bytes(self) -> int:
        with self._lock:
            return sum(file.size for file in self._files.values())

    def get(self, address: str) -> CachedFile | None:
        """The file fetched from an address, unless it is too old."""
        key = _digest(address)
        with self._lock:
            file = self._files.get(key)
            # The file may be gone: other processes, and those who tidy up, see the folder too.
            if file is not None and (self._clock() - file.stored > self._max_age or not file.path.exists()):
                self._drop(key)
                file = None
            if file is None:
                self.misses += 1
                return None
            self.hits += 1
            self._files.move_to_end(key)
            return file

    def peek(self, address: str) -> CachedFile | None:
        """As :meth:`get`, for whoever only looks: nothing is counted, and nothing stays longer for it."""
        with self._lock:
            return self._files.get(_digest(address))

    def forget(self, address: str) -> None:
        """Drops one file."""
        with self._lock:
            self._drop(_digest(address))

    def put(self, address: str, chunks: Iterable[bytes]) -> CachedFile:
        """Stores what the chunks add up to; when one of them fails, nothing is left behind.

        :raises MediaDiskError: the disk does not take it.
        """
        key, content, size = _digest(address), hashlib.sha256(), 0
        name = None
        try:
            handle, name = tempfile.mkstemp(_PART, key, self._folder)
            with os.fdopen(handle, "wb") as out:
                for chunk in chunks:
                    content.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
            digest = content.hexdigest()[:32]
            path = self._folder / f"{key}-{digest}{_SUFFIX}"
            os.replace(name, path)
        except BaseException as error:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _OF_DISKS:
                raise MediaDiskError(
                    f"The ML backend can't store pictures and pages ({os.strerror(error.errno)}): whoever runs it "
                    "should free some space where X2SAM_CACHE_DIR is, or name another folder."
                ) from error
            raise
        file = CachedFile(path, digest, size, self._clock())
        with self._lock:
            old = self._files.pop(key, None)
            if old is not None and old.path != path:
                old.path.unlink(missing_ok=True)
            self._files[key] = file
            self._shrink(keep=key)
        return file

    def _scan(self) -> None:
        found = []
        for path in self._folder.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            key, _, digest = path.stem.partition("-")
            if path.suffix == _PART and self._clock() - status.st_mtime > _PART_MAX_AGE:
                path.unlink(missing_ok=True)
            elif path.suffix == _SUFFIX and digest:
                found.append((status.st_mtime, key, CachedFile(path, digest, status.st_size, status.st_mtime)))
        self._files.update((key, file) for _, key, file in sorted(found, key=lambda entry: entry[0]))
        self._shrink()

    def _shrink(self, keep: str | None = None) -> None:
        total = sum(file.size for file in self._files.values())
        for key in list(self._files):
            if total <= self._max_bytes:
                return
            if key != keep:
                total -= self._files[key].size
                self._drop(key)

    def _drop(self, key: str) -> None:
        file = self._files.pop(key, None)
        if file is not None:
            file.path.unlink(missing_ok=True)


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:32]
