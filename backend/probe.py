"""Asks the server on this machine whether it is ready."""

from __future__ import annotations

from backend.clients import BackendClient, NoAnswer
from backend.settings import Settings

_SECONDS = 3.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask_ready(settings: Settings) -> str:
    """What stands in the way; empty when the server of these settings answers that it is ready."""
    host = _ANY.get(settings.host, settings.host)
    place = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    try:
        reply = BackendClient(f"http://{place}", settings).ask("GET", "/ready", seconds=_SECONDS)
    except NoAnswer as error:
        return f"nobody answers at {place} ({error})"
    return "" if reply.status == 200 else f"{reply.status} {reply.body.decode('utf-8', 'replace').strip()}"
