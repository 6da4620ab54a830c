"""Requests to Label Studio's API and to ML backends, for commands: limited in time and size, without redirects and
proxies, as the fetcher's own are."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from backend.errors import MediaError, MediaTimeoutError
from backend.hosts import HostRules
from backend.http_client import Answer, HttpClient
from backend.settings import MEGABYTE, Settings
from backend.tokens import LabelStudioToken, read_access_token


class NoAnswer(Exception):
    """Nobody answered; the text says what happened, in a few words."""


@dataclass(frozen=True)
class Reply:
    """Status and whole body of an answer, where it sends on to, and after how many seconds to ask again."""

    status: int
    location: str
    body: bytes
    retry_after: float | None = None

    def json(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def entry(self, name: str) -> Any:
        """An entry of a JSON object, None where there is none."""
        found = self.json()
        return found.get(name) if isinstance(found, dict) else None


class Form(NamedTuple):
    """A body that is not JSON, and its type."""

    content: bytes
    kind: str


class LimitedClient:
    """Requests to one server: a deadline that holds in every phase, a limit on the answer, no redirects and proxies."""

    def __init__(self, url: str, ca_bundle: str = "", limit: int = 64 * MEGABYTE):
        self.url = url.rstrip("/")
        self._ca_bundle = ca_bundle
        self._limit = limit

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, seconds: float = 60.0
    ) -> Reply:
        """One request; a ``body`` that is no :class:`Form` is sent as JSON.

        :raises NoAnswer: no connection, no answer in time, or one that is too long.
        """
        form = body if body is None or isinstance(body, Form) else Form(json.dumps(body).encode(), "application/json")
        given = {**(headers or {}), **({"Content-Type": form.kind} if form else {})}
        content, deadline = form and form.content, time.monotonic() + seconds
        try:
            client = HttpClient(HostRules(self.url), self._ca_bundle)
            with client.request(method, self.url + path, deadline, given, content) as answer:
                wait = seconds_to_wait(answer.header("Retry-After"))
                return Reply(answer.status, answer.header("Location"), self._whole(answer), wait)
        except MediaError as error:
            raise NoAnswer(_reason(error)) from error

    def _whole(self, answer: Answer) -> bytes:
        content = bytearray()
        for chunk in answer.chunks():
            content += chunk
            if len(content) > self._limit:
                raise NoAnswer(f"the answer is longer than {self._limit // MEGABYTE} MB")
        return bytes(content)


def seconds_to_wait(written: str, now: float | None = None) -> float | None:
    """What ``Retry-After`` says: seconds, or a date (RFC 9110, 10.2.3); None where it says nothing."""
    written = written.strip()
    if written.isascii() and written.isdecimal():
        return float(written[:9])
    try:
        until = parsedate_to_datetime(written).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(until - (time.time() if now is None else now), 0.0)


def shown(url: str) -> str:
    """An address without user name, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


class LabelStudioClient:
    """Label Studio's API with the token of the settings."""

    def __init__(self, settings: Settings):
        self.url = settings.label_studio_url
        self._client = LimitedClient(self.url, settings.ca_bundle)
        self._key = settings.label_studio_api_key
        self._access = ""
        self._refused = False
        self._token = LabelStudioToken(self._key, self._exchange)

    @property
    def token_kind(self) -> str:
        """``legacy``, ``personal`` or ``access``; known after the first request."""
        if self._access or self._refused:
            return "personal"
        return "legacy" if self._token.header().get("Authorization", "").startswith("Token ") else "access"

    @property
    def has_token(self) -> bool:
        """Whether the settings have one."""
        return bool(self._key)

    def secrets(self) -> list[str]:
        return [self._key, self._access]

    def ask(
        self, method: str, path: str, body: Any = None, seconds: float = 60.0, anonymous: bool = False
    ) -> Reply:
        """One call, made again with a new access token where the old one ran out. A personal token that is not
        exchanged gives status 401, as a wrong legacy one does.

        :raises NoAnswer: Label Studio does not answer.
        """
        if anonymous:
            return self._client.ask(method, path, body, seconds=seconds)
        try:
            reply = self._client.ask(method, path, body, self._token.header(), seconds)
            if reply.status == 401 and self._token.refuse():
                reply = self._client.ask(method, path, body, self._token.header(), seconds)
        except _Unexchanged as error:
            self._refused = True
            return error.reply
        return reply

    def _exchange(self, personal_token: str) -> str:
        reply = self._client.ask("POST", "/api/token/refresh/", {"refresh": personal_token})
        if reply.status != 200:
            raise _Unexchanged(reply)
        self._access = read_access_token(reply.body)
        return self._access


class BackendClient:
    """An ML backend at an address, asked as Label Studio asks it."""

    def __init__(self, url: str, settings: Settings):
        self._client = LimitedClient(url, settings.ca_bundle)
        self._headers = {}
        if settings.basic_auth_user:
            login = f"{settings.basic_auth_user}:{settings.basic_auth_pass}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(login).decode()

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 10.0) -> Reply:
        """One call, with our own basic authentication where it is configured.

        :raises NoAnswer: nobody answers there.
        """
        return self._client.ask(method, path, body, self._headers, seconds)


class _Unexchanged(Exception):
    def __init__(self, reply: Reply):
        super().__init__("the personal token was refused")
        self.reply = reply


def _reason(error: MediaError) -> str:
    """What happened, in a few words; the fetcher's own are about pictures."""
    cause = error.__cause__
    if isinstance(error, MediaTimeoutError):
        return "no answer in time"
    return next((words for kind, words in _REASONS if isinstance(cause, kind)), "the connection broke")


# the first that fits: some are kinds of others
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (socket.gaierror, "the host name is unknown here"),
    (UnicodeError, "the host name is unknown here"),
    (ssl.SSLError, "the certificate is not accepted; REQUESTS_CA_BUNDLE names one's own authority"),
    (ConnectionRefusedError, "the connection is refused"),
    (TimeoutError, "no answer in time"),
)
