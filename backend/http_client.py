"""One HTTP request to one checked address, cut off at a deadline in whatever phase it is.

There are no redirects, no proxies, no credentials of the environment and no second look at the host's name: each would
lead past the allow-list. Content that the server packed (``Content-Encoding``) is unpacked in small pieces, so that the
reader can stop at its limit.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from requests.certs import where as usual_authorities
from requests.utils import requote_uri

from backend.errors import MediaError, MediaTimeoutError, SettingsError
from backend.hosts import HostRules, Origin

_CHUNK = 1 << 16
_CONNECT_SECONDS = 5.0
_DIGITS = 18
_PLAIN = frozenset({"", "identity"})
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})


class HttpClient:
    """Makes requests to the hosts that the rules allow. Threads may share one."""

    def __init__(self, rules: HostRules, ca_bundle: str = ""):
        self._rules = rules
        self._context = trusted(ca_bundle)

    @contextmanager
    def request(
        self, method: str, url: str, deadline: float, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[Answer]:
        """The answer to one request; its addresses are tried in order. ``deadline`` is on the monotonic clock.

        :raises MediaRefusedError: the rules don't allow the host.
        :raises MediaTimeoutError: no answer before the deadline.
        :raises MediaError: no connection.
        """
        origin = Origin.of(url)
        parts = urlsplit(requote_uri(url))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {
            "Host": origin.netloc,
            "Accept-Encoding": "identity",
            "User-Agent": "x2sam-backend",
            "Connection": "close",
            **headers,
        }
        failure: Exception | None = None
        for address in self._rules.addresses(origin):
            if time.monotonic() >= deadline:
                break
            connection = _Connection(origin, address, deadline, self._context)
            reached = False
            try:
                connection.connect()
                reached = True
                connection.request(method, target, body, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.end()
                failure = error
                if reached:  # it may have done already what it was asked
                    break
                continue
            try:
                if connection.overdue:
                    raise _too_slow(origin)
                yield Answer(response, connection, origin)
            finally:
                response.close()
                connection.end()
            return
        if failure is None or time.monotonic() >= deadline:
            raise _too_slow(origin) from failure
        raise MediaError(
            f"The ML backend can't connect to {origin.netloc} ({type(failure).__name__}); check that the address is "
            "reachable from it, and LABEL_STUDIO_URL."
        ) from failure


class Answer:
    """Status, headers and content of an answer whose content is still on its way."""

    def __init__(self, response: http.client.HTTPResponse, connection: _Connection, origin: Origin):
        self._response, self._connection, self._origin = response, connection, origin
        self.status: int = response.status

    def header(self, name: str) -> str:
        """A header, empty where there is none."""
        return self._response.getheader(name) or ""

    @property
    def length(self) -> int:
        """How many bytes were promised to come; 0 where nothing is said."""
        promised = self.header("Content-Length")
        # Python refuses to read thousands of digits; nobody can send that much either
        return int(promised[:_DIGITS]) if promised.isascii() and promised.isdecimal() else 0

    def chunks(self) -> Iterator[bytes]:
        """The content, unpacked, in pieces of at most 64 KB.

        :raises MediaTimeoutError: it does not end before the deadline.
        :raises MediaError: the connection broke, or the content is packed in an unknown way.
        """
        encoding = self.header("Content-Encoding").strip().lower()
        if encoding in _PLAIN:
            return self._received()
        if encoding in _PACKED:
            return self._unpacked()
        raise MediaError(f"{self._origin.netloc} sends the picture packed in a way that is not read; store it plainly.")

    def _received(self) -> Iterator[bytes]:
        count = 0
        try:
            while chunk := self._response.read1(_CHUNK):
                if self._connection.overdue:
                    break
                count += len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken() from error
        if self._connection.overdue or count < self.length:
            raise self._broken()

    def _unpacked(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            for chunk in self._received():
                while chunk and not decoder.eof:
                    yield decoder.decompress(chunk, _CHUNK)
                    chunk = decoder.unconsumed_tail
            yield decoder.flush()
        except zlib.error as error:
            raise MediaError(f"{self._origin.netloc} sent the picture packed and damaged; try again.") from error
        if not decoder.eof:
            raise self._broken()

    def _broken(self) -> MediaError:
        if self._connection.overdue:
            return _too_slow(self._origin)
        return MediaError("The connection broke while the picture was fetched; try again.")


class _Connection(http.client.HTTPConnection):
    """A connection to a numeric address that asks for, and checks, the certificate of the host's name.

    A timeout of the socket starts anew with every byte, so a server that drips would keep us for hours; here a timer
    shuts the socket down at the deadline.
    """

    def __init__(self, origin: Origin, address: str, deadline: float, context: ssl.SSLContext):
        super().__init__(origin.host, origin.port)
        self._origin, self._address, self._deadline, self._context = origin, address, deadline, context
        self._lock = threading.Lock()
        self._watched: socket.socket | None = None
        self.overdue = False
        self._timer = threading.Timer(max(deadline - time.monotonic(), 0.0), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def connect(self) -> None:
        left = max(self._deadline - time.monotonic(), 0.001)
        plain = socket.create_connection((self._address, self._origin.port), min(left, _CONNECT_SECONDS))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(left)
        self._watch(plain)
        if self._origin.scheme == "https":
            safe = self._context.wrap_socket(plain, server_hostname=self._origin.host, do_handshake_on_connect=False)
            self._watch(safe)
            safe.do_handshake()

    def end(self) -> None:
        """Closes the connection and stops the timer; :meth:`close` happens earlier, while the content is still read."""
        self._timer.cancel()
        with self._lock:
            self._watched = None
        self.close()

    def _watch(self, opened: socket.socket) -> None:
        with self._lock:
            self.sock = self._watched = opened
            if self.overdue:
                raise TimeoutError

    def _cut(self) -> None:
        with self._lock:
            self.overdue = True
            if self._watched is not None:
                # the plain socket's way: the other thread may be in the middle of a TLS record
                with suppress(OSError):
                    socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def trusted(ca_bundle: str) -> ssl.SSLContext:
    """Whom a connection trusts: the authorities in a file or folder, the usual ones where none is named.

    :raises SettingsError: it holds none.
    """
    authorities = Path(ca_bundle or usual_authorities())
    folder, file = (authorities, None) if authorities.is_dir() else (None, authorities)
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:
        raise SettingsError(f"REQUESTS_CA_BUNDLE: '{ca_bundle}' holds no certificates that can be read.") from error


def _too_slow(origin: Origin) -> MediaTimeoutError:
    return MediaTimeoutError(
        f"{origin.netloc} did not deliver the picture in the time that is allowed; try again, or raise "
        "X2SAM_MEDIA_TIMEOUT."
    )
