"""Fetches the files that tasks name: one way in, for every kind of address.

An address is what a task holds: ``/data/upload/...`` and ``/data/local-files/?d=...`` of Label Studio, ``http(s)://``,
or a ``data:`` URL. Every request, redirects included, goes through :class:`backend.hosts.HostRules`; Label Studio's
token is sent to Label Studio's own origin only. Size and total time are limited.
"""

from __future__ import annotations

import binascii
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import unquote_to_bytes, urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from backend.errors import MediaError, MediaRefusedError, MediaTimeoutError, MediaTooLargeError
from backend.file_cache import CachedFile, FileCache
from backend.hosts import HostRules, Origin
from backend.settings import MEGABYTE, Settings
from backend.tokens import LabelStudioToken, read_access_token

_CHUNK = 1 << 16
_REDIRECTS = 5
_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS = 5.0
_TOKEN_BYTES = 1 << 16


class MediaFetcher:
    """Turns an address from a task into a file on disk. Threads may share one; an address is fetched once at a time."""

    def __init__(self, settings: Settings, cache: FileCache, rules: HostRules | None = None):
        self._settings = settings
        self._cache = cache
        self._rules = rules or HostRules(settings.label_studio_url, settings.media_hosts)
        self._token = LabelStudioToken(settings.label_studio_api_key, self._exchange)
        self._locks = _KeyedLocks()

    def fetch(self, address: str) -> CachedFile:
        """The file behind an address.

        :raises MediaError: it can't be had; the subclass and the text say why and what to do.
        """
        if not isinstance(address, str) or not address.strip():
            raise MediaError("The task holds no address of a picture.")
        if address[:5].lower() == "data:":
            name = "data:" + sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
            chunks = self._inline(address)
        else:
            name = self.absolute(address)
            chunks = self._download(name)
        with self._locks.hold(name):
            return self._cache.get(name) or self._cache.put(name, chunks)

    def read(self, address: str) -> bytes:
        """The content behind an address."""
        for _ in range(3):
            file = self.fetch(address)
            try:
                return file.path.read_bytes()
            except FileNotFoundError:  # dropped from the cache between finding and opening it
                continue
        raise MediaError("The picture does not stay in the file cache; raise X2SAM_CACHE_MB.")

    def absolute(self, address: str) -> str:
        """The full URL of an address; those that start with a slash are Label Studio's.

        :raises MediaRefusedError: a path on this machine, or a scheme that is not fetched.
        """
        address = address.strip()
        if address.startswith("/") and not address.startswith("//"):
            return self._below_data(address)
        origin = Origin.of(address)
        parts = urlsplit(address)._replace(fragment="")
        if origin == self._rules.label_studio:
            return self._below_data(urlunsplit(parts._replace(scheme="", netloc="")))
        return urlunsplit(parts)

    def _below_data(self, path: str) -> str:
        """The full URL of one of Label Studio's files; its other pages are not for tasks to name."""
        base = self._settings.label_studio_url
        path = path.removeprefix(urlsplit(base).path)
        if not path.startswith("/data/") or ".." in path.partition("?")[0].split("/"):
            raise MediaRefusedError("The task names a path outside /data/; import the picture into Label Studio.")
        return base + path

    def _inline(self, address: str) -> Iterator[bytes]:
        head, comma, body = address.partition(",")
        if not comma or len(body) > 2 * self._settings.media_max_bytes:
            raise MediaError("The data URL of the picture is cut or too long.")
        try:
            content = unquote_to_bytes(body)
            content = b64decode(content, validate=True) if head.lower().endswith(";base64") else content
        except (binascii.Error, ValueError) as error:
            raise MediaError("The data URL of the picture is not valid base64.") from error
        self._check_size(len(content), self._settings.media_max_bytes)
        yield content

    def _download(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._settings.media_timeout
        with self._open(url, deadline) as (response, origin):
            yield from self._body(response, origin, deadline, self._settings.media_max_bytes)

    @contextmanager
    def _open(self, url: str, deadline: float) -> Iterator[tuple[requests.Response, Origin]]:
        """A good answer for a URL, after redirects and, where that helps, with a renewed token."""
        renewed = False
        for _ in range(_REDIRECTS + 2):
            origin = Origin.of(url)
            ours = origin == self._rules.label_studio
            with self._request("GET", url, origin, deadline, self._token.header() if ours else {}) as response:
                target = response.headers.get("Location")
                if response.status_code in _REDIRECT_CODES and target:
                    url = _redirected(url, target)
                    continue
                if response.status_code == 401 and ours and not renewed and self._token.refuse():
                    renewed = True
                    continue
                _check_status(response.status_code, origin, ours)
                yield response, origin
                return
        raise MediaError(f"The address of the picture leads through more than {_REDIRECTS} redirects.")

    @contextmanager
    def _request(
        self, method: str, url: str, origin: Origin, deadline: float, headers: dict[str, str], json: object = None
    ) -> Iterator[requests.Response]:
        """One request without redirects, to an address that was checked."""
        headers = {"Host": origin.netloc, "Accept-Encoding": "identity", "User-Agent": "x2sam-backend", **headers}
        failure: Exception | None = None
        for address in self._rules.addresses(origin):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            session = _PlainSession()
            session.mount("https://", _NamedHostAdapter(origin.host))
            try:
                response = session.request(
                    method,
                    _at_address(url, origin, address),
                    headers=headers,
                    json=json,
                    allow_redirects=False,
                    stream=True,
                    timeout=(min(left, _CONNECT_SECONDS), left),
                    verify=self._settings.ca_bundle or True,
                )
            except (requests.RequestException, UnicodeError) as error:
                session.close()
                failure = error
                continue
            try:
                yield response
            finally:
                response.close()
                session.close()
            return
        if failure is None or isinstance(failure, requests.ReadTimeout):
            raise self._too_slow(origin) from failure
        raise MediaError(
            f"The ML backend can't connect to {origin.netloc} ({type(failure).__name__}); check that the address is "
            "reachable from it, and LABEL_STUDIO_URL."
        ) from failure

    def _body(self, response: requests.Response, origin: Origin, deadline: float, limit: int) -> Iterator[bytes]:
        length = response.headers.get("Content-Length", "")
        promised = int(length) if length.isdecimal() else 0
        self._check_size(promised, limit)
        received = 0
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                received += len(chunk)
                self._check_size(received, limit)
                if time.monotonic() > deadline:
                    raise self._too_slow(origin)
                yield chunk
        except (OSError, HTTPError) as error:
            raise MediaError("The connection broke while the picture was fetched; try again.") from error
        if "Content-Encoding" not in response.headers and received < promised:
            raise MediaError("The connection broke while the picture was fetched; try again.")

    def _exchange(self, personal_token: str) -> str:
        deadline = time.monotonic() + self._settings.media_timeout
        url, origin = self._settings.label_studio_url + "/api/token/refresh/", self._rules.label_studio
        with self._request("POST", url, origin, deadline, {}, json={"refresh": personal_token}) as response:
            if response.status_code != 200:
                raise MediaError("Label Studio does not accept the personal access token in LABEL_STUDIO_API_KEY.")
            return read_access_token(b"".join(self._body(response, origin, deadline, _TOKEN_BYTES)))

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise MediaTooLargeError(
                f"The picture's file is larger than {limit / MEGABYTE:.0f} MB; raise X2SAM_MEDIA_MAX_MB to allow that."
            )

    def _too_slow(self, origin: Origin) -> MediaTimeoutError:
        return MediaTimeoutError(
            f"{origin.netloc} did not deliver the picture within {self._settings.media_timeout:.0f} s; try again, or "
            "raise X2SAM_MEDIA_TIMEOUT."
        )


class _PlainSession(requests.Session):
    """A session without proxies, netrc and redirects: each of these would lead past the allow-list."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _NamedHostAdapter(HTTPAdapter):
    """Connects to a numeric address but asks for, and checks, the certificate of the host's name."""

    def __init__(self, host: str):
        self._host = host
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, server_hostname=self._host, assert_hostname=self._host, **kwargs)


class _KeyedLocks:
    """A lock for each key that somebody holds or waits for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
            self._users[key] += 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key], self._locks[key]


def _redirected(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError as error:
        raise MediaRefusedError("The address of the picture leads to a malformed one.") from error


def _at_address(url: str, origin: Origin, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return urlunsplit(urlsplit(url)._replace(netloc=f"{host}:{origin.port}"))


def _check_status(status: int, origin: Origin, ours: bool) -> None:
    if status < 300:
        return
    if ours and status in (401, 403):
        raise MediaError(
            "Label Studio refuses the picture to the ML backend: set LABEL_STUDIO_API_KEY of the ML backend to a token "
            "of a user who may see it."
        )
    if ours and status == 404:
        raise MediaError("Label Studio has no such picture; for local files, check that a storage covers its folder.")
    raise MediaError(f"{origin.netloc} answered {status} instead of the picture.")
