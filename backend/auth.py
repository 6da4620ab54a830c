"""Who may ask: basic authentication, with the credentials that Label Studio is told when the backend is attached.

Label Studio sends its event webhooks without them, so these bring a secret of their own, which
:mod:`backend.webhooks` writes into the webhook's headers.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from pathlib import Path

from flask import Request, Response, jsonify

from backend.errors import SettingsError
from backend.settings import Settings

OPEN_ENDPOINTS = frozenset({"backend.health", "videos.frame"})
"""Endpoints without credentials: whether the server is alive, which containers ask and which tells no secrets; and
frames of videos, whose addresses are signed one by one because browsers load them without credentials."""

SECRET_HEADER = "X-Webhook-Secret"
_SECRET_FILE = "webhook-secret"


class Gate:
    """Lets requests in or makes the answer that refuses them."""

    def __init__(self, settings: Settings):
        self._user, self._password = settings.basic_auth_user, settings.basic_auth_pass
        self.webhook_secret = settings.webhook_secret
        if self._user and not self.webhook_secret:
            self.webhook_secret = kept_secret(Path(settings.state_dir).expanduser())

    def refusal(self, request: Request) -> Response | None:
        """A 401 answer when credentials are configured and the request does not bring them; else None."""
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        if request.endpoint == "backend.webhook" and self.webhook_secret:
            # "Start Training" comes with basic authentication, events with the header
            allowed = _same(request.headers.get(SECRET_HEADER), self.webhook_secret)
            allowed |= bool(self._user) and self._knows(request)
        else:
            allowed = not self._user or self._knows(request)
        return None if allowed else _refused(request.endpoint == "backend.webhook")

    def _knows(self, request: Request) -> bool:
        given = request.authorization
        if given is None or given.type != "basic":
            return False
        user, password = _same(given.username, self._user), _same(given.password, self._password)
        return user and password


def kept_secret(folder: Path, name: str = _SECRET_FILE) -> str:
    """The secret that was made when it was first needed and outlives restarts; only this user may read its file.

    :raises SettingsError: the folder can't be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="ascii") as file:
                path.chmod(0o600)
                file.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        found = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(
            f"X2SAM_STATE_DIR: {folder} can't be written ({error.strerror}); name another folder."
        ) from error
    if len(found) < 16:
        raise SettingsError(f"{path} holds no secret; remove it and start again.")
    return found


def _refused(webhook: bool) -> Response:
    sentence = "Wrong or missing credentials: attach this backend with basic authentication."
    if webhook:
        sentence = f"Wrong or missing credentials: give the webhook the header {SECRET_HEADER}."
    answer = jsonify({"error": sentence})
    answer.status_code = 401
    answer.headers["WWW-Authenticate"] = 'Basic realm="x2sam"'
    return answer


def _same(given: str | None, expected: str) -> bool:
    """Compares in a time that tells nothing, of the lengths neither."""
    return hmac.compare_digest(_digest(given or ""), _digest(expected))


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
