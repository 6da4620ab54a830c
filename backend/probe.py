"""Asks the server on this machine whether it is ready."""

from __future__ import annotations

import base64
import http.client

from backend.settings import Settings

_SECONDS = 3.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask_ready(settings: Settings) -> str:
    """What stands in the way; empty when the server of these settings answers that it is ready."""
    headers = {}
    if settings.asks_for_credentials:
        pair = f"{settings.basic_auth_user}:{settings.basic_auth_pass}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    host = _ANY.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_SECONDS)
    try:
        connection.request("GET", "/ready", headers=headers)
        answer = connection.getresponse()
        body = answer.read(1 << 16).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"nobody answers at {host}:{settings.port} ({type(error).__name__})"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status} {body}"
