"""One browser for the tests of a file, in which each person is signed in. Each step leaves a picture in var/browser."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from editor import Editor
from windows import Windows
from workplace import ROOT, Login, Workplace

PICTURES = ROOT / "var" / "browser"


def pytest_collection_modifyitems(items):
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.integration)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.failed_in_call = report.failed


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser. Where there is none, tests skip; on a machine of continuous integration they fail."""
    import chromium as finder

    path = finder.find()
    if path is None and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(finder.HOW_TO_GET)
    if path is None:
        pytest.skip(finder.HOW_TO_GET)
    return path


@pytest.fixture(scope="module")
def windows(chromium, label_studio) -> Iterator[Windows]:
    """One browser for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        windows = Windows(playwright, chromium, label_studio.url)
        yield windows
        windows.end()


@pytest.fixture
def editor(request, windows, label_studio) -> Iterator[Editor]:
    """The labeling screen; a test that fails leaves a last picture and what the browser complained about."""
    login = Login(label_studio.username, label_studio.password, label_studio.token)
    with screen_of(request.node, windows, login, label_studio.url) as screen:
        yield screen


@pytest.fixture
def second_editor(request, windows, second_login, label_studio) -> Iterator[Editor]:
    """The labeling screen of the second annotator."""
    with screen_of(request.node, windows, second_login, label_studio.url, "second") as screen:
        yield screen


@contextmanager
def screen_of(test: pytest.Item, windows: Windows, login: Login, url: str, whose: str = "") -> Iterator[Editor]:
    folder = PICTURES / re.sub(r"\W+", "-", test.name).strip("-") / whose
    shutil.rmtree(folder, ignore_errors=True)
    page = windows.open(login)
    screen = Editor(page, url, folder)
    yield screen
    if getattr(test, "failed_in_call", False):
        screen.picture("failed")
        (folder / "complaints.txt").write_text("\n".join(screen.complaints))
    windows.close(page)


@pytest.fixture(scope="session")
def fake(workplaces) -> Workplace:
    """The backend that draws exactly what it is asked for, in projects whose tasks open without a prediction."""
    return replace(workplaces("fake"), predicts=False, projects={})


@pytest.fixture(scope="session")
def nano(workplaces) -> Workplace:
    return workplaces("nano")


@pytest.fixture(scope="session")
def saved(label_studio) -> Callable[[int], list[dict]]:
    """The id of an annotation to its result items, read back through the API."""
    return lambda number: label_studio.api("GET", f"/api/annotations/{number}/")["result"]


@pytest.fixture(scope="session")
def foreign_picture(files) -> Iterator[str]:
    """The address of a picture that the browser can show, from a server that our backend was not told of."""
    content = (files / "made" / "upright.png").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/picture.png"
    server.shutdown()
