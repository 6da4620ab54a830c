"""Features of pictures on disk: safetensors files, least recently used out first, by bytes.

A file is named by a digest of the picture's content, of what was computed and of the model's version, so the same
picture is found again after a restart and a new model finds nothing of an old one. Files are complete from the moment
they have their name. One that is damaged counts as missing and is removed. Writing happens in a thread of its own; a
disk that takes no more ends it with one warning, and everything goes on from memory.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tempfile
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import DynamicCache

from x2sam.errors import StoreError
from x2sam.inference.feature_tensors import Kind, kind_named, kind_of

log = logging.getLogger(__name__)

# raised when the same picture would give other features, or the files another layout
FORMAT = 1
SUFFIX, PART = ".features", ".part"
PART_SECONDS = 3600.0
PENDING_BYTES = 256 * 2**20
CLOSE_SECONDS = 10.0


class DamagedFileError(Exception):
    """A file does not hold what its name promises."""


class FeatureStore:
    """``budget`` bytes below ``directory``, which belongs to one process at a time.

    version:   names the model, its weights and its number type; features of other versions are never given
    device:    where tensors go that are read
    new_cache: makes an empty cache of the language model's keys and values

    Raises StoreError when the directory can't be used.
    """

    def __init__(
        self, directory: str | Path, budget: int, version: str, device: torch.device | str,
        new_cache: Callable[[], DynamicCache],
    ):  # fmt: skip
        if budget < 0:
            raise ValueError("the budget of stored features can't be negative")
        self.directory, self.budget, self.version, self.device = Path(directory), budget, version, device
        self._new_cache = new_cache
        self._files: OrderedDict[str, int] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        self._pending: deque[tuple[str, Kind, dict[str, Tensor], int]] = deque()
        self._pending_bytes = 0
        self._changed = threading.Condition(self._lock)
        self._closing = self._writing = self._full = False
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._scan()
            if not os.access(self.directory, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StoreError(
                f"features can't be stored in {self.directory} ({error.strerror}); name a directory that can be "
                "written, or none"
            ) from error
        self._thread = threading.Thread(target=self._write_pending, name="x2sam-features", daemon=True)
        self._thread.start()

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return self._used

    def take(self, key: Hashable) -> Any | None:
        """The value under ``key`` on the device, or None."""
        name = self._name(key)
        with self._lock:
            if name not in self._files:
                return None
            self._files.move_to_end(name)
        path = self.directory / name
        try:
            value = self._read(path)
            os.utime(path)  # the order of use outlives the process
        except FileNotFoundError:
            self._drop(name)
            return None
        except (OSError, DamagedFileError) as error:
            log.warning("a file of stored features can't be used and is removed: %s", error)
            self._drop(name)
            return None
        return value

    def offer(self, key: Hashable, value: Any) -> None:
        """Has the value written unless more waits than memory is good for. The tensors must not be changed."""
        kind = kind_of(value)
        # taken apart here: a cache of keys and values may be lent out and longer by the time it is written
        tensors = kind.pack(value)
        size = sum(tensor.nbytes for tensor in tensors.values())
        name = self._name(key)
        with self._lock:
            if self._closing or self._full or size > self.budget or name in self._files:
                return
            if self._pending and self._pending_bytes + size > PENDING_BYTES:
                return
            self._pending.append((name, kind, tensors, size))
            self._pending_bytes += size
            self._changed.notify_all()

    def flush(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Waits until everything that was offered is written; False when that takes longer."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._pending and not self._writing, seconds)

    def close(self) -> None:
        """Writes what waits, as far as there is time, and ends the thread."""
        self.flush()
        with self._lock:
            self._closing = True
            self._pending.clear()
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    # files

    def _name(self, key: Hashable) -> str:
        told = repr((FORMAT, self.version, key)).encode("utf-8", "surrogatepass")
        return hashlib.sha256(told).hexdigest()[:40] + SUFFIX

    def _read(self, path: Path) -> Any:
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except SafetensorError as error:
            raise DamagedFileError("it is cut or no safetensors file") from error
        if about.get("version") != self.version or about.get("sum") != checksum(tensors):
            raise DamagedFileError("its content is not what was written")
        moved = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        try:
            return kind_named(about["kind"]).unpack(moved, self._new_cache)
        except (KeyError, ValueError) as error:
            raise DamagedFileError("it holds something else") from error

    def _write(self, name: str, kind: Kind, tensors: dict[str, Tensor]) -> None:
        # copies: tensors that share memory can't lie in one file
        whole = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        about = {"version": self.version, "kind": kind.name, "sum": checksum(whole)}
        content = safetensors.torch.save(whole, about)
        if len(content) > self.budget:
            return
        with self._lock:
            self._make_room(len(content))
        handle, part = tempfile.mkstemp(PART, dir=self.directory)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            os.replace(part, self.directory / name)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        with self._lock:
            self._used += len(content) - self._files.pop(name, 0)
            self._files[name] = len(content)

    def _write_pending(self) -> None:
        while True:
            with self._lock:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pending or self._closing)
                if self._closing:
                    return
                name, kind, tensors, size = self._pending.popleft()
                self._pending_bytes -= size
                self._writing = True
            try:
                self._write(name, kind, tensors)
            except (OSError, RuntimeError) as error:  # no room on the disk, or in memory for what is written
                reason = getattr(error, "strerror", None) or type(error).__name__
                log.warning("features are not stored any more: %s; free some space and start again", reason)
                with self._lock:
                    self._full = True
                    self._pending.clear()
                    self._pending_bytes = 0
            del tensors

    def _make_room(self, size: int) -> None:
        while self._files and self._used + size > self.budget:
            self._forget(next(iter(self._files)))

    def _drop(self, name: str) -> None:
        with self._lock:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._used -= self._files.pop(name, 0)
        try:
            (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            log.warning("a file of stored features can't be removed: %s", error.strerror)

    def _scan(self) -> None:
        found = []
        for entry in os.scandir(self.directory):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # somebody else tidies up
                continue
            if entry.name.endswith(PART) and time.time() - status.st_mtime > PART_SECONDS:
                Path(entry.path).unlink(missing_ok=True)
            elif entry.name.endswith(SUFFIX):
                found.append((status.st_mtime, entry.name, status.st_size))
        for _, name, size in sorted(found):
            self._files[name] = size
            self._used += size
        with self._lock:
            self._make_room(0)


def checksum(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and bytes: safetensors notices a cut file, not a changed one."""
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), total)
        total = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"
