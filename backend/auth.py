"""Optional basic authentication, with the credentials that Label Studio is told when the backend is attached."""

from __future__ import annotations

import hmac

from flask import Request, Response, jsonify

from backend.settings import Settings

OPEN_ENDPOINTS = frozenset({"backend.health", "backend.ready", "videos.frame"})
"""Left open: for container health checks, and what a signature in the address opens."""


def refusal(request: Request, settings: Settings) -> Response | None:
    """A 401 answer when credentials are configured and the request does not bring them; else None.

    Label Studio sends its event webhooks without credentials; give it the header with
    ``PATCH /api/webhooks/<id>/ {"headers": {"Authorization": "Basic ..."}}``.
    """
    if not settings.basic_auth_user or request.endpoint in OPEN_ENDPOINTS:
        return None
    given = request.authorization
    if given is not None and given.type == "basic":
        user = _same(given.username, settings.basic_auth_user)
        password = _same(given.password, settings.basic_auth_pass)
        if user and password:
            return None
    answer = jsonify({"error": "Wrong or missing credentials: attach this backend with basic authentication."})
    answer.status_code = 401
    answer.headers["WWW-Authenticate"] = 'Basic realm="x2sam"'
    return answer


def _same(given: str | None, expected: str) -> bool:
    return hmac.compare_digest((given or "").encode(), expected.encode())
