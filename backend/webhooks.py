"""Gives Label Studio's event webhook the secret that it must bring, since it brings no credentials by itself.

Label Studio makes the webhook when the backend is attached, right after ``/setup``. So each ``/setup`` leaves a wish
here; one thread looks after it, a little later and at most once in a while for each project.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from backend.auth import SECRET_HEADER
from backend.errors import BackendError
from backend.logs import loggable, where

log = logging.getLogger(__name__)

_WISHES = 64
_REMEMBERED = 1024
_AGAIN = 600.0  # seconds after which a project's webhook is looked at again
_RETRY = 60.0
_TRIES = (1.0, 4.0, 15.0)  # seconds until the webhook should be there: it is made after /setup was answered


class WebhookApi(Protocol):
    """The part of Label Studio's API that is needed."""

    def webhooks(self, project: int) -> list[dict[str, Any]]: ...

    def change_webhook(self, webhook: int, changes: Mapping[str, Any]) -> None: ...


class WebhookKeeper:
    """Writes the secret into the webhooks that lead here. ``addresses``: of this backend, besides that of a request."""

    def __init__(
        self, api: Callable[[], WebhookApi], secret: str, addresses: tuple[str, ...] = (),
        tries: tuple[float, ...] = _TRIES, clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._api, self._secret, self._tries, self._clock = api, secret, tries, clock
        self._addresses = {_place(address) for address in addresses}
        self._wishes: queue.Queue[tuple[str, str] | None] = queue.Queue(_WISHES)
        self._next: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)
        self._thread.start()

    def want(self, project: str, base_url: str) -> None:
        """Label Studio asked at ``base_url`` for a project: its webhook should bring the secret. Returns at once."""
        wish = project, base_url
        with self._lock:
            if not project.isdigit() or self._next.get(wish, 0.0) > self._clock():
                return
            if len(self._next) >= _REMEMBERED:
                self._next.clear()
            self._next[wish] = self._clock() + _AGAIN
        try:
            self._wishes.put_nowait(wish)
        except queue.Full:
            self._later(wish, _RETRY)

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(queue.Full):  # the thread sees the event
            self._wishes.put_nowait(None)

    def _work(self) -> None:
        while not self._stop.is_set():
            wish = self._wishes.get()
            if wish is None:
                return
            try:
                done = self._keep(*wish)
            except BackendError as error:
                log.warning("the webhook of a project can't be set: %s", error, extra=_fields(wish))
                done = False
            except Exception as error:  # of a library that asks the network; the thread must live on
                fields = _fields(wish, error=type(error).__name__, at=where(error))
                log.error("the webhook of a project can't be set", extra=fields)
                done = False
            if not done:
                self._later(wish, _RETRY)

    def _keep(self, project: str, base_url: str) -> bool:
        """Whether a webhook that leads here brings the secret now."""
        api, places = self._api(), {_place(base_url), *self._addresses}
        for seconds in self._tries:
            if self._stop.wait(seconds):
                return False
            ours = [hook for hook in api.webhooks(int(project)) if _leads_to(hook.get("url"), places)]
            for hook in ours:
                headers = dict(hook.get("headers") or {})
                if headers.get(SECRET_HEADER) != self._secret:
                    api.change_webhook(hook["id"], {"headers": headers | {SECRET_HEADER: self._secret}})
                    log.info("the webhook brings its secret now", extra=_fields((project, base_url)))
            if ours:
                return True
        log.warning(
            "no webhook of the project leads here; set BACKEND_PUBLIC_URL if Label Studio knows this backend by "
            "another address",
            extra=_fields((project, base_url)),
        )
        return False

    def _later(self, wish: tuple[str, str], seconds: float) -> None:
        with self._lock:
            self._next[wish] = self._clock() + seconds


def _place(url: str) -> tuple[str, str]:
    """Host with port, and path: a proxy may change http to https in between."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/")


def _leads_to(url: object, places: set[tuple[str, str]]) -> bool:
    if not isinstance(url, str):
        return False
    try:
        netloc, path = _place(url)
    except ValueError:
        return False
    return path.endswith("/webhook") and (netloc, path.removesuffix("/webhook")) in places


def _fields(wish: tuple[str, str], **more: str) -> dict[str, Any]:
    return {"fields": {"project": loggable(wish[0]), **more}}
