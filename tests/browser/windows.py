"""A Chromium and the windows of the people in it. One that stops answering is ended, and another one takes its place.

On a busy machine a Chromium was seen that neither closed a window nor opened one any more. Playwright waits for that
without end, so opening and closing are watched: a browser that takes too long is killed, which Playwright notices.
Only that is tried again; what a test does in its window is not.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright
from workplace import Login, signed_in

log = logging.getLogger(__name__)

WINDOW = {"width": 1400, "height": 900}
STARTS = 3
ANSWER_SECONDS = 60.0
START_MS = 50_000
# Shared memory of containers is often too small for Chromium, and there is no graphics card to look for.
ARGUMENTS = ("--disable-dev-shm-usage", "--disable-gpu")


class Windows:
    """Windows of one Chromium at a time; people have cookies of their own."""

    def __init__(self, playwright: Playwright, chromium: str, url: str):
        self._playwright, self._chromium, self._url = playwright, chromium, url
        self._mark = f"--windows-of-tests={secrets.token_hex(8)}"  # an unknown switch, by which its processes are found
        self._browser: Browser | None = None
        self._contexts: dict[str, BrowserContext] = {}

    def open(self, login: Login) -> Page:
        """A window in which this person is signed in."""
        for _ in range(STARTS - 1):
            try:
                return self._opened(login)
            except Error:
                log.warning("Chromium opened no window; another one is started")
                self.end()
        return self._opened(login)

    def close(self, page: Page) -> None:
        try:
            with self._watched():
                page.close()
        except Error:
            log.warning("Chromium closed no window; another one is started for the next test")
            self.end()

    def end(self) -> None:
        browser, self._browser = self._browser, None
        self._contexts.clear()
        if browser is not None and browser.is_connected():
            with self._watched():
                browser.close()

    def _opened(self, login: Login) -> Page:
        with self._watched():
            return self._context(login).new_page()

    def _context(self, login: Login) -> BrowserContext:
        if self._browser is None:
            self._browser = self._playwright.chromium.launch(
                executable_path=self._chromium, timeout=START_MS, args=[*ARGUMENTS, self._mark]
            )
        if login.username not in self._contexts:
            context = self._browser.new_context(viewport=WINDOW)
            with signed_in(self._url, login.username, login.password) as person:
                context.add_cookies([{"name": c.name, "value": c.value, "url": self._url} for c in person.cookies])
            self._contexts[login.username] = context
        return self._contexts[login.username]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        timer = threading.Timer(ANSWER_SECONDS, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._mark in _command(entry):
                with suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended
        return []
