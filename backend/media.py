"""Fetches the files that tasks name: one way in, for every kind of address.

An address is what a task holds: ``/data/upload/...`` and ``/data/local-files/?d=...`` of Label Studio, ``http(s)://``,
a ``data:`` URL, or a path relative to a directory of ``X2SAM_MEDIA_DIRS``; addresses in buckets are made paths of Label
Studio first (:mod:`backend.cloud_storage`). Every request, redirects included, goes through
:class:`backend.hosts.HostRules`; Label Studio's token is sent to Label Studio only. Size and total time are limited.
"""

from __future__ import annotations

import binascii
import json
import math
import re
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

from backend.cloud_storage import is_cloud_address
from backend.errors import MediaError, MediaRefusedError, MediaTimeoutError, MediaTooLargeError
from backend.file_cache import CachedFile, FileCache
from backend.hosts import HostRules, Origin
from backend.http_client import Answer, HttpClient
from backend.media_folders import FolderFile, MediaFolders
from backend.settings import MEGABYTE, Settings
from backend.tokens import LabelStudioToken, read_access_token
from backend.video_frames import VideoFrames

_CHUNK = 1 << 16
_REDIRECTS = 5
_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
_TOKEN_BYTES = 1 << 16
_LOCAL_FILES = "/data/local-files/"
# What Label Studio serves files from; its other pages are not for tasks to name.
_FILES = re.compile(r"/data/.+|/storage-data/uploaded/\?.+|/(tasks|projects)/[0-9]+/(presign|resolve)/\?fileuri=.+")


class MediaFetcher:
    """Turns an address from a task into a file on disk. Threads may share one; an address is fetched once at a time."""

    def __init__(self, settings: Settings, cache: FileCache, rules: HostRules | None = None):
        self._settings = settings
        self._cache = cache
        self._rules = rules or HostRules(settings.label_studio_url, settings.media_hosts)
        self._http = HttpClient(self._rules, settings.ca_bundle)
        self._folders = MediaFolders(settings.media_dirs)
        self._token = LabelStudioToken(settings.label_studio_api_key, self._exchange)
        self._base_path = urlsplit(settings.label_studio_url).path
        known = [url for url in (settings.label_studio_url, settings.label_studio_public_url) if url]
        self._homes = {Origin.of(url) for url in known}
        self._base_paths = [path for path in (urlsplit(url).path for url in known) if path]
        self._locks = KeyedLocks()
        self.videos = VideoFrames.of(settings)

    def fetch(self, address: str) -> CachedFile:
        """The file behind an address.

        :raises MediaError: it can't be had; the subclass and the text say why and what to do.
        """
        if not isinstance(address, str) or not address.strip():
            raise MediaError("The task holds no address of a picture.")
        address = address.strip()
        if address[:5].lower() == "data:":
            return self._cached(_inline_name(address), self._inline(address))
        if page := self.videos.find(address):
            return self.videos.file(*page)  # our own server would only do the same
        if self._folders and (relative := self._below_a_folder(address)):
            with self._folders.open(relative) as file:
                if file is not None:
                    return self._cached(file.name, self._copied(file))
        url = self.absolute(address)
        return self._cached(url, self._download(url))

    def known(self, address: str) -> CachedFile | None:
        """The file behind an address, where it was fetched and is still there; nothing is fetched.

        :raises MediaError: as :meth:`fetch`, of addresses that are none.
        """
        address = address.strip()
        if address[:5].lower() == "data:":
            return self._cache.peek(_inline_name(address))
        if page := self.videos.find(address):
            return self.videos.kept(*page)
        if self._folders and (relative := self._below_a_folder(address)):
            with self._folders.open(relative) as file:
                if file is not None:
                    return self._cache.peek(file.name)
        return self._cache.peek(self.absolute(address))

    def read(self, address: str) -> bytes:
        """The content behind an address."""
        for _ in range(3):
            file = self.fetch(address)
            try:
                return file.path.read_bytes()
            except FileNotFoundError:  # dropped from the cache between finding and opening it
                continue
        raise MediaError("The picture does not stay in the file cache; raise X2SAM_CACHE_MB.")

    def name_of(self, address: str) -> str:
        """Names what an address means, without fetching it: the same for all ways to write it.

        :raises MediaRefusedError: as :meth:`absolute`.
        """
        address = address.strip()
        if address[:5].lower() == "data:":
            return _inline_name(address)
        if page := self.videos.find(address):
            return f"video:{page[0]}/{page[1]}"
        if self._folders and (relative := self._below_a_folder(address)):
            return f"folder:{relative}"
        return self.absolute(address)

    def ask_label_studio(self, path: str, limit: int, seconds: float | None = None) -> bytes:
        """What Label Studio's API answers to a GET of ``path``, at most ``limit`` bytes, in the time for one file or
        in ``seconds`` where that is less.

        :raises MediaError: it refuses, can't be reached, or says too much.
        """
        deadline = time.monotonic() + min(seconds or math.inf, self._settings.media_timeout)
        with self._open(self._settings.label_studio_url + path, deadline) as answer:
            return b"".join(_limited(answer.chunks(), answer.length, limit))

    def absolute(self, address: str) -> str:
        """The full URL of an address; those that start with a slash, or with ``data/``, are Label Studio's.

        :raises MediaRefusedError: a path on this machine, or a scheme that is not fetched.
        """
        address = address.strip()
        if is_cloud_address(address):
            raise MediaRefusedError(
                "A picture in a bucket is read through its task in Label Studio; none is known here."
            )
        if address.startswith("/") and not address.startswith("//"):
            return self._in_label_studio(address)
        if _is_relative(address):
            if address.startswith("data/"):
                return self._in_label_studio("/" + address)
            raise MediaRefusedError(
                "The task names a picture by a relative path that is in no directory of X2SAM_MEDIA_DIRS; import the "
                "picture into Label Studio, or name its directory there."
            )
        origin = Origin.of(address)
        parts = urlsplit(address)._replace(fragment="")
        if origin in self._homes:
            return self._in_label_studio(urlunsplit(parts._replace(scheme="", netloc="")))
        return urlunsplit(parts)

    def _in_label_studio(self, path: str) -> str:
        """The full URL of one of Label Studio's files, whose path may stand below that of its own address."""
        base = next((base for base in self._base_paths if path.startswith(base + "/")), "")
        path = path.removeprefix(base)
        bare = path.partition("?")[0]
        if not _FILES.fullmatch(path) or ".." in unquote(bare).replace("\\", "/").split("/"):
            raise MediaRefusedError("The task names a path outside /data/; import the picture into Label Studio.")
        return self._settings.label_studio_url + path

    def _is_ours(self, url: str) -> bool:
        """Whether a URL is Label Studio's, which alone sees the token: its origin, and below its path there."""
        below = urlsplit(url).path.startswith(self._base_path + "/")
        return below and Origin.of(url) == self._rules.label_studio

    def _below_a_folder(self, address: str) -> str | None:
        """The path below a configured directory that an address means; None for other addresses."""
        if _is_relative(address) and not address.startswith("data/"):
            return address
        try:
            local = self.absolute(address).removeprefix(self._settings.label_studio_url)
        except MediaRefusedError:
            return None
        if not local.startswith(_LOCAL_FILES):
            return None
        return parse_qs(urlsplit(local).query).get("d", [""])[0].lstrip("/") or None

    def _cached(self, name: str, chunks: Iterable[bytes]) -> CachedFile:
        try:
            # no longer than one fetch takes: else many who want a file that does not come wait for each other's turn
            with self._locks.hold(name, self._settings.media_timeout):
                return self._cache.get(name) or self._cache.put(name, chunks)
        except KeyInUseError as error:
            raise MediaTimeoutError(
                "Somebody else has waited for this picture for long and it did not come; try again."
            ) from error

    def _inline(self, address: str) -> Iterator[bytes]:
        head, comma, body = address.partition(",")
        if not comma or len(body) > 2 * self._settings.media_max_bytes:
            raise MediaError("The data URL of the picture is cut or too long.")
        try:
            content = unquote_to_bytes(body)
            content = b64decode(content, validate=True) if head.lower().endswith(";base64") else content
        except (binascii.Error, ValueError) as error:
            raise MediaError("The data URL of the picture is not valid base64.") from error
        _check_size(len(content), self._settings.media_max_bytes)
        yield content

    def _copied(self, file: FolderFile) -> Iterator[bytes]:
        yield from _limited(iter(lambda: file.stream.read(_CHUNK), b""), file.size, self._settings.media_max_bytes)

    def _download(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._settings.media_timeout
        with self._open(url, deadline) as answer:
            yield from _limited(answer.chunks(), answer.length, self._settings.media_max_bytes)

    @contextmanager
    def _open(self, url: str, deadline: float) -> Iterator[Answer]:
        """A good answer for a URL, after redirects and, where that helps, with a renewed token."""
        renewed = False
        redirects = 0
        while redirects <= _REDIRECTS:
            ours = self._is_ours(url)
            with self._http.request("GET", url, deadline, self._token.header() if ours else {}) as answer:
                target = answer.header("Location")
                if answer.status in _REDIRECT_CODES and target:
                    url = self._redirected(url, target)
                    redirects += 1
                    continue
                if answer.status == 401 and ours and not renewed and self._token.refuse():
                    renewed = True
                    continue
                _check_status(answer.status, Origin.of(url), ours)
                yield answer
                return
        raise MediaError(f"The address of the picture leads through more than {_REDIRECTS} redirects.")

    def _redirected(self, url: str, target: str) -> str:
        """Where an answer leads. A way back into Label Studio ends at a file, as if the task had named it."""
        try:
            url = urljoin(url, target)
        except ValueError as error:
            raise MediaRefusedError("The address of the picture leads to a malformed one.") from error
        if self._is_ours(url):
            return self.absolute(url)
        return url

    def _exchange(self, personal_token: str) -> str:
        deadline = time.monotonic() + self._settings.media_timeout
        url = self._settings.label_studio_url + "/api/token/refresh/"
        body = json.dumps({"refresh": personal_token}).encode()
        with self._http.request("POST", url, deadline, {"Content-Type": "application/json"}, body) as answer:
            if answer.status != 200:
                raise MediaError("Label Studio does not accept the personal access token in LABEL_STUDIO_API_KEY.")
            return read_access_token(b"".join(_limited(answer.chunks(), answer.length, _TOKEN_BYTES)))


class KeyInUseError(Exception):
    """Somebody else holds the key for too long."""


class KeyedLocks:
    """A lock for each key that somebody holds or waits for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def hold(self, key: str, seconds: float = -1) -> Iterator[None]:
        """Waits for the key at most so many seconds; without end where none are given.

        :raises KeyInUseError: it is still held then.
        """
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
            self._users[key] += 1
        try:
            if not lock.acquire(timeout=seconds):
                raise KeyInUseError
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key], self._locks[key]


def _inline_name(address: str) -> str:
    return "data:" + sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def _is_relative(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return not parts.scheme and not parts.netloc and not address.startswith("/")


def _limited(chunks: Iterable[bytes], promised: int, limit: int) -> Iterator[bytes]:
    """The chunks, until they or what was promised exceed the limit."""
    _check_size(promised, limit)
    received = 0
    for chunk in chunks:
        received += len(chunk)
        _check_size(received, limit)
        yield chunk


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise MediaTooLargeError(
            f"The picture's file is larger than {limit / MEGABYTE:.0f} MB; raise X2SAM_MEDIA_MAX_MB to allow that."
        )


def _check_status(status: int, origin: Origin, ours: bool) -> None:
    if status < 300:
        return
    if ours and status in (401, 403):
        raise MediaError(
            "Label Studio refuses the picture to the ML backend: set LABEL_STUDIO_API_KEY of the ML backend to a token "
            "of a user who may see it."
        )
    if ours and status == 404:
        raise MediaError(
            "Label Studio has no such picture; for local files and buckets, check that a storage covers its folder."
        )
    if ours and status == 424:
        raise MediaError(
            "Label Studio can't read the bucket of the picture; check the storage in the project's settings."
        )
    raise MediaError(f"{origin.netloc} answered {status} instead of the picture.")
