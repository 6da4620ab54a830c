"""Requests of the doctor: limited in time and size, without redirects and proxies, as the backend's own are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from backend.settings import MEGABYTE, Settings
from backend.tokens import LabelStudioToken, read_access_token

_CHUNK = 1 << 16
_CONNECT_SECONDS = 5.0
_SECONDS = 60.0
_LIMIT = 64 * MEGABYTE


class NoAnswer(Exception):
    """Nobody answered; the text says what happened, in a few words."""


@dataclass(frozen=True)
class Reply:
    """Status, headers and whole body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

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


def ask(
    method: str, url: str, settings: Settings, body: Any = None, headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None, seconds: float = _SECONDS,
) -> Reply:  # fmt: skip
    """One request.

    :raises NoAnswer: no connection, no answer in time, or one that is too long.
    """
    deadline = time.monotonic() + seconds
    with requests.Session() as session:
        session.trust_env = False
        try:
            with session.request(
                method,
                url,
                json=body,
                headers={"Accept-Encoding": "identity", "User-Agent": "x2sam-backend", **(headers or {})},
                auth=auth,
                allow_redirects=False,
                stream=True,
                timeout=(_CONNECT_SECONDS, seconds),
                verify=settings.ca_bundle or True,
            ) as response:
                return Reply(response.status_code, response.headers, _body(response, deadline))
        except requests.exceptions.SSLError as error:
            raise NoAnswer("the certificate is not accepted; REQUESTS_CA_BUNDLE names one's own authority") from error
        except requests.Timeout as error:
            raise NoAnswer("no answer in time") from error
        except requests.ConnectionError as error:
            raise NoAnswer(_connection_words(error)) from error
        except (requests.RequestException, UnicodeError) as error:
            raise NoAnswer(f"no usable answer ({type(error).__name__})") from error


def shown(url: str) -> str:
    """An address without user name, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


class LabelStudioClient:
    """Label Studio's API with the token of the settings."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._access = ""
        self._refused = False
        self._token = LabelStudioToken(settings.label_studio_api_key, self._exchange)

    @property
    def url(self) -> str:
        return self._settings.label_studio_url

    @property
    def token_kind(self) -> str:
        """``legacy``, ``personal`` or ``access``; known after the first request."""
        if self._access or self._refused:
            return "personal"
        return "legacy" if self._token.header().get("Authorization", "").startswith("Token ") else "access"

    def secrets(self) -> list[str]:
        return [self._settings.label_studio_api_key, self._access]

    def ask(
        self, method: str, path: str, body: Any = None, seconds: float = _SECONDS, anonymous: bool = False
    ) -> Reply:
        """One call. A personal token that is not exchanged gives status 401, as a wrong legacy one does.

        :raises NoAnswer: Label Studio does not answer.
        """
        try:
            headers = {} if anonymous else self._token.header()
        except _Unexchanged as error:
            self._refused = True
            return error.reply
        return ask(method, self.url + path, self._settings, body, headers, seconds=seconds)

    def _exchange(self, personal_token: str) -> str:
        url = self.url + "/api/token/refresh/"
        reply = ask("POST", url, self._settings, {"refresh": personal_token})
        if reply.status != 200:
            raise _Unexchanged(reply)
        self._access = read_access_token(reply.body)
        return self._access


class BackendClient:
    """An ML backend at an address, asked as Label Studio asks it."""

    def __init__(self, url: str, settings: Settings):
        self.url = url.rstrip("/")
        self._settings = settings
        self._auth = (settings.basic_auth_user, settings.basic_auth_pass) if settings.basic_auth_user else None

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 10.0) -> Reply:
        """One call, with our own basic authentication where it is configured.

        :raises NoAnswer: nobody answers there.
        """
        return ask(method, self.url + path, self._settings, body, auth=self._auth, seconds=seconds)


class _Unexchanged(Exception):
    def __init__(self, reply: Reply):
        super().__init__("the personal token was refused")
        self.reply = reply


def _body(response: requests.Response, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_content(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > _LIMIT:
            raise NoAnswer(f"the answer is longer than {_LIMIT // MEGABYTE} MB")
        if time.monotonic() > deadline:
            raise NoAnswer("the answer does not end in time")
    return b"".join(chunks)


def _connection_words(error: requests.ConnectionError) -> str:
    """The innermost reason, without addresses and object names."""
    text = str(error)
    known = {
        "refused": "the connection is refused",
        "NameResolution": "the host name is unknown here",
        "resolve": "the host name is unknown here",
        "unreachable": "the network does not lead there",
        "timed out": "no answer in time",
    }
    return next((words for part, words in known.items() if part in text), "the connection broke")
