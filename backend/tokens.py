"""Label Studio's access tokens: the old kind, sent as it is, and personal ones, exchanged for a short-lived one."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from backend.errors import MediaError

_EARLY = 30.0  # seconds before its end at which an access token is replaced
_LIFETIME = 240.0  # assumed where a token does not tell its end; Label Studio's live 300 s

Exchange = Callable[[str], str]


class LabelStudioToken:
    """Makes the ``Authorization`` header for requests to Label Studio.

    ``exchange(personal token)`` asks Label Studio for an access token; it is called only for personal tokens.
    """

    def __init__(self, api_key: str, exchange: Exchange, clock: Callable[[], float] = time.monotonic):
        self._key = api_key
        self._exchange = exchange
        self._clock = clock
        self._kind = _payload(api_key).get("token_type")
        self._lock = threading.Lock()
        self._access = ""
        self._until = 0.0

    def header(self) -> dict[str, str]:
        """The header, empty when no token is configured."""
        if not self._key:
            return {}
        if self._kind is None:
            return {"Authorization": f"Token {self._key}"}
        return {"Authorization": f"Bearer {self._key if self._kind == 'access' else self._fresh()}"}

    def refuse(self) -> bool:
        """Label Studio did not accept the header; True when a new one may do better."""
        with self._lock:
            self._until = 0.0
        return self._kind == "refresh"

    def _fresh(self) -> str:
        with self._lock:
            if self._clock() >= self._until:
                asked = self._clock()
                self._access = self._exchange(self._key)
                self._until = asked + _life_of(self._access)
            return self._access


def _life_of(access: str) -> float:
    """For how many seconds a token can be used. Only the difference of its times counts: machines' clocks differ."""
    content = _payload(access)
    issued, expires = content.get("iat"), content.get("exp")
    if not all(isinstance(moment, int | float) for moment in (issued, expires)):
        return _LIFETIME
    return expires - issued - _EARLY


def read_access_token(answer: bytes) -> str:
    """The access token in Label Studio's answer to an exchange.

    :raises MediaError: there is none.
    """
    try:
        token: Any = json.loads(answer)["access"]
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(
            "Label Studio sent no access token for the personal one; check LABEL_STUDIO_API_KEY."
        ) from error
    return str(token)


def _payload(token: str) -> dict[str, Any]:
    """The unverified content of a JSON web token; empty for other tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        content = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
